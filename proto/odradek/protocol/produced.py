"""The answer to a produce request, encoded by hand: each request waits for one.

Invariant: the bytes are those the generated class writes; a hypothesis test proves it.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from odradek.protocol import wire
from odradek.protocol.types import Offset, PartitionIndex, TopicId

NO_TIME: Final = -1
_NO_TIME: Final = wire.integer_field(5, NO_TIME)
_NO_LEADER: Final = wire.integer_field(7, -1)


def encode_produce_response(correlation_id: int, results: Iterable[bytes]) -> bytes:
    """Encode a ProduceResponse; the results are encoded `ProducePartitionResult`s."""
    parts = [wire.integer_field(1, correlation_id)]
    for each in results:
        parts += (wire.length_prefix(2, len(each)), each)
    return b"".join(parts)


def encode_acknowledged(
    topic_id: TopicId,
    partition: PartitionIndex,
    base_offset: Offset,
    log_append_time_ms: int,
    log_start_offset: Offset,
) -> bytes:
    """Encode the ProducePartitionResult of a batch that is acknowledged."""
    return (
        _target(topic_id, partition)
        + wire.integer_field(4, base_offset)
        + (_NO_TIME if log_append_time_ms == NO_TIME else wire.integer_field(5, log_append_time_ms))
        + wire.integer_field(6, log_start_offset)
        + _NO_LEADER
    )


@lru_cache(maxsize=4096)
def _target(topic_id: TopicId, partition: PartitionIndex) -> bytes:
    return wire.bytes_field(1, topic_id) + wire.integer_field(2, partition)

"""What a producer's batches must be before they are appended. Pure."""

from typing import TypeAlias

from odradek.protocol.errors import (
    InvalidRequestError,
    InvalidTimestampError,
    InvalidTxnStateError,
)
from odradek.protocol.hot import Buffer
from odradek.protocol.record_batch import BatchHeader, split, validate
from odradek.protocol.topic_config import TimestampType, TopicConfig
from odradek.protocol.types import TopicName

CheckedBatch: TypeAlias = tuple[memoryview, BatchHeader]


def checked_batches(
    records: Buffer, config: TopicConfig, topic: TopicName, now_ms: int
) -> list[CheckedBatch]:
    """Return a producer's batches, each with its header.

    Args:
        records: Batches one after the other.
        config: The topic's settings.
        topic: For messages.
        now_ms: The node's clock, milliseconds since the epoch.

    Raises:
        BrokerError: One of them is damaged, too large, or breaks a rule of the topic.
    """
    batches = [(batch, validate(batch, config.max_message_bytes)) for batch in split(records)]
    if not batches:
        raise InvalidRequestError("no record batch was sent", field="records")
    for _, header in batches:
        _check(header, config, topic, now_ms)
    return batches


def _check(header: BatchHeader, config: TopicConfig, topic: TopicName, now_ms: int) -> None:
    if header.is_transactional:
        raise InvalidTxnStateError(
            "transactions come later; send without a transactional id",
            field="attributes.transactional",
            value=True,
        )
    ahead_max_ms = int(config.timestamp_ahead_max_s * 1000)
    if header.max_timestamp - now_ms > ahead_max_ms and (
        config.timestamp_type is TimestampType.CREATE_TIME
    ):
        raise InvalidTimestampError(
            f"the batch's latest timestamp is {header.max_timestamp - now_ms} ms ahead of the"
            f" node's clock, topic {topic!r} allows {ahead_max_ms}",
            field="max_timestamp",
            value=header.max_timestamp,
            limit=now_ms + ahead_max_ms,
        )

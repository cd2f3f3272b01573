"""From an application's record to its place in a batch: encode, choose the partition, append.

Synchronous, because it is the path every record takes and the asyncio and the blocking producer
share it. Serdes and partitioners are the application's code: what they raise becomes a
`SerializationError` or a `PartitionerError`, and then nothing was added.

Source: KIP-480 (sticky partitioning); Kafka's DefaultPartitioner (murmur2 of the encoded key).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from time import monotonic, time_ns
from typing import Any, Final, cast

from odradek.client.config import Partitioner
from odradek.client.errors import PartitionerError
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.delivery import Delivery, Run
from odradek.client.producing.encoding import (
    NO_HEADERS,
    Bulk,
    Encoded,
    Target,
    encode,
    encode_headers,
    encode_pairs,
)
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.client.record import Headers
from odradek.client.serdes import raw
from odradek.protocol.hashing import partition_for_key
from odradek.protocol.record_batch import TIMESTAMP_MS_MAX

_NS_PER_MS: Final = 1_000_000
# Fewer records of a partition cost less one by one; more may be framed, and then find no room.
_AT_ONCE_MIN: Final = 8
_AT_ONCE: Final = 256


class Intake:
    """One producer's.

    Args:
        partitioner: The application's, or None.
        ledger: The producer's.
        on_ready: Called with a queue that has a new batch, or a full one.
    """

    def __init__(
        self,
        partitioner: Partitioner | None,
        ledger: Ledger,
        on_ready: Callable[[PartitionQueue], None],
    ) -> None:
        self._partitioner = partitioner
        self._ledger = ledger
        self._on_ready = on_ready

    @property
    def asks_partitioner(self) -> bool:
        """True when the application chooses partitions."""
        return self._partitioner is not None

    def place(  # noqa: PLR0917 the hottest call of all: keywords cost
        self,
        target: Target,
        value: Any,
        key: object,
        partition: int | None,
        headers: Headers | None,
        timestamp_ms: int | None,
    ) -> Delivery | Encoded:
        """Encode a record and append it to the open batch it belongs to.

        Returns:
            An `Encoded` where a new batch must be made or room be waited for; then `append` or
            `append_new` is next.

        Raises:
            SerializationError: Key, value or headers do not encode.
            PartitionerError: The application's partitioner chooses none.
            UnknownTopicOrPartitionError: The topic has no such partition.
        """
        topic = target.topic
        if (type(value) is not bytes or target.value is not raw) and value is not None:
            value = encode(target, target.value, "value", value, key)
        if key is None and partition is None and self._partitioner is None:
            key_bytes, queue = None, None
            batch = topic.current.open
        else:
            key_bytes = None if key is None else encode(target, target.key, "key", key, key)
            queue = self.choose(topic, key_bytes, partition)
            batch = (queue or topic.current).open
        if batch is not None and key_bytes is None and headers is None and value is not None:
            delivery = _gather(batch, value, timestamp_ms)
            if delivery is not None:
                return delivery
        if timestamp_ms is None:
            timestamp_ms = time_ns() // _NS_PER_MS
        pairs = NO_HEADERS if headers is None else encode_headers(target, headers, key)
        ledger = self._ledger
        if batch is not None and ledger.used_bytes < ledger.quick_until_bytes:
            builder = batch.settle()
            size_bytes = builder.append(key_bytes, value, timestamp_ms, pairs)
            if size_bytes is not None:
                ledger.used_bytes += size_bytes
                return Delivery(batch, builder.record_count - 1, timestamp_ms)
        return Encoded(queue, key_bytes, value, timestamp_ms, pairs)

    def encode(
        self,
        target: Target,
        value: object,
        key: object,
        *,
        partition: int | None,
        headers: Headers | None,
        timestamp_ms: int,
    ) -> Encoded:
        """Encode a record and choose its partition; errors as in `place`."""
        key_bytes = None if key is None else encode(target, target.key, "key", key, key)
        return Encoded(
            self.choose(target.topic, key_bytes, partition),
            key_bytes,
            None if value is None else encode(target, target.value, "value", value, key),
            timestamp_ms,
            NO_HEADERS if headers is None else encode_headers(target, headers, key),
        )

    def encode_keyed(
        self,
        target: Target,
        pairs: Iterator[tuple[object, object]],
        *,
        partition: int | None,
        timestamp_ms: int,
    ) -> Bulk:
        """Encode values with keys and choose partitions by key; errors as in `place`.

        Args:
            pairs: Values, each with its key.
        """
        keys, values = encode_pairs(target, pairs)
        every = target.topic.queues
        queues: list[PartitionQueue | None]
        if partition is None and None not in keys:
            chosen = map(partition_for_key, cast("list[bytes]", keys), repeat(len(every)))
            queues = [every[index] for index in chosen]
        else:
            queues = [self.choose(target.topic, key, partition) for key in keys]
        return Bulk(queues, keys, values, timestamp_ms)

    def choose(
        self, topic: TopicQueues, key: bytes | None, partition: int | None
    ) -> PartitionQueue | None:
        """Return the queue of a record; None: the one whose turn it is."""
        if partition is not None:
            return topic.queue_of(partition)
        if self._partitioner is not None:
            return topic.queue_of(_ask(self._partitioner, topic, key))
        if key is None:
            return None
        return topic.queues[partition_for_key(key, len(topic.queues))]

    def append(self, target: Target, record: Encoded) -> Delivery | None:
        """Append to an open batch; None when there is none with room: then `append_new` is next."""
        batch = target.topic.append(*record)
        if batch is None:
            return None
        return Delivery(batch, batch.settle().record_count - 1, record.timestamp_ms)

    def append_new(self, target: Target, record: Encoded, now_s: float) -> Delivery:
        """Append to a new batch.

        Raises:
            RecordTooLargeError: Nothing was added.
        """
        full = record.queue or target.topic.current
        batch = target.topic.append_new(*record, now_s)
        self._tell_ready(target.topic, full, batch)
        return Delivery(batch, batch.settle().record_count - 1, record.timestamp_ms)

    def append_many(  # noqa: PLR0917 internal, one call
        self,
        target: Target,
        queue: PartitionQueue | None,
        values: Sequence[bytes | None],
        position: int,
        timestamp_ms: int,
        now_s: float,
        keys: Sequence[bytes | None] | None = None,
    ) -> Run:
        """Append values until a batch is full, watched; `position` is that of the first.

        Args:
            keys: One for each value; None: no record has a key.

        Raises:
            RecordTooLargeError: Of the first value; nothing was added.
        """
        full = queue or target.topic.current
        batch, count = target.topic.append_many(queue, values, timestamp_ms, now_s, keys)
        batch.watched_count += count
        first_index = batch.settle().record_count - count
        if first_index == 0:
            self._tell_ready(target.topic, full, batch)
        return Run(batch, first_index, position, count)

    def append_bulk(
        self, target: Target, bulk: Bulk, chunk: range, now_s: float, runs: list[Run]
    ) -> None:
        """Append a chunk, each partition's records in one go; to `runs` too.

        Every record has a queue, and none is too large.
        """
        groups: dict[PartitionQueue | None, list[int]] = {}
        for position, queue in zip(chunk, bulk.queues[chunk.start : chunk.stop], strict=True):
            group = groups.get(queue)
            if group is None:
                groups[queue] = [position]
            else:
                group.append(position)
        mean_bytes = bulk.mean_bytes
        for queue, positions in groups.items():
            assert queue is not None, "whose turn it is depends on those before"
            at_once = min(_AT_ONCE, queue.limits.batch_bytes // mean_bytes)
            if min(at_once, len(positions)) < _AT_ONCE_MIN:
                self._append_few(target, bulk, positions, now_s, runs)
                continue
            taken = 0
            while taken < len(positions):
                some = positions[taken : taken + at_once]
                keys = [bulk.keys[position] for position in some]
                values = [bulk.values[position] for position in some]
                run = self.append_many(
                    target, queue, values, some[0], bulk.timestamp_ms, now_s, keys
                )
                run.scattered = some[: run.count]
                runs.append(run)
                taken += run.count

    def _append_few(
        self, target: Target, bulk: Bulk, positions: list[int], now_s: float, runs: list[Run]
    ) -> None:
        for position in positions:
            record = bulk.record(position)
            delivery = self.append(target, record)
            if delivery is None:
                delivery = self.append_new(target, record, now_s)
            runs.append(delivery.as_run(position))

    def _tell_ready(self, topic: TopicQueues, full: PartitionQueue, batch: ProducerBatch) -> None:
        queue = topic.queues[batch.partition]
        if full is not queue and not full.idle:
            self._on_ready(full)
        self._on_ready(queue)


def _gather(batch: ProducerBatch, value: bytes, timestamp_ms: int | None) -> Delivery | None:
    """Add a record to those of the same millisecond; None when it cannot be among them."""
    if timestamp_ms is None:
        now_s = monotonic()
        index = batch.gather(value, now_s)
        if index is None:
            now_ms, since_ns = divmod(time_ns(), _NS_PER_MS)
            if now_ms < 0:
                return None
            batch.begin_gathering(now_ms, now_s + (_NS_PER_MS - since_ns) / 1e9)
            index = batch.gather(value, now_s)
    elif type(timestamp_ms) is not int or not 0 <= timestamp_ms <= TIMESTAMP_MS_MAX:
        return None  # and an error
    else:
        if timestamp_ms != batch.gathered_ms or not batch.gathers_bytes:
            batch.begin_gathering(timestamp_ms, until_s=0.0)
        index = batch.gather(value, -1.0)
    return None if index is None else Delivery(batch, index, batch.gathered_ms)


def _ask(partitioner: Partitioner, topic: TopicQueues, key: bytes | None) -> int:
    name = getattr(partitioner, "__qualname__", type(partitioner).__qualname__)
    try:
        chosen: object = partitioner(topic.info.name, key, len(topic.queues))
    except Exception as error:
        raise PartitionerError(
            topic.info.name, key=key, partitioner=name, reason=repr(error)
        ) from error
    if not isinstance(chosen, int):
        raise PartitionerError(
            topic.info.name,
            key=key,
            partitioner=name,
            reason=f"it returned {type(chosen).__name__}, not int",
        )
    return chosen

"""From an application's record to its place in a batch: encode, choose the partition, append.

Synchronous, because it is the path every record takes and the asyncio and the blocking producer
share it. Serdes and partitioners are the application's code: what they raise becomes a
`SerializationError` or a `PartitionerError`, and then nothing was added.

Source: KIP-480 (sticky partitioning); Kafka's DefaultPartitioner (murmur2 of the encoded key).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Any, Final, NamedTuple

from odradek.client.config import Partitioner
from odradek.client.errors import PartitionerError, SerializationError
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.delivery import Delivery, Run
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.client.record import Header, Headers
from odradek.client.serdes import Serde, raw
from odradek.protocol.hashing import partition_for_key

_NO_HEADERS: Final[list[Header]] = []


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Where records go and how they are encoded.

    Attributes:
        topic: The topic's queues.
        key: Serde of keys.
        value: Serde of values.
        takes_bytes: Whether bytes go as they are, to the partition whose turn it is.
    """

    topic: TopicQueues
    key: Serde[Any]
    value: Serde[Any]
    takes_bytes: bool


class Encoded(NamedTuple):
    """A record ready to be appended; `queue` is None for the one whose turn it is."""

    queue: PartitionQueue | None
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list[Header]


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
            value = _encode(target, target.value, "value", value, key)
        if key is None and partition is None and self._partitioner is None:
            key_bytes, queue = None, None
            batch = topic.current.open
        else:
            key_bytes = None if key is None else _encode(target, target.key, "key", key, key)
            queue = self.choose(topic, key_bytes, partition)
            batch = (queue or topic.current).open
        if timestamp_ms is None:
            timestamp_ms = time_ns() // 1_000_000
        pairs = _NO_HEADERS if headers is None else _encode_headers(target, headers, key)
        ledger = self._ledger
        if batch is not None and ledger.used_bytes < ledger.quick_until_bytes:
            builder = batch.builder
            assert builder is not None
            if headers is None and key_bytes is None and value is not None:
                size_bytes = builder.append_value(value, timestamp_ms)
            else:
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
        key_bytes = None if key is None else _encode(target, target.key, "key", key, key)
        return Encoded(
            self.choose(target.topic, key_bytes, partition),
            key_bytes,
            None if value is None else _encode(target, target.value, "value", value, key),
            timestamp_ms,
            _NO_HEADERS if headers is None else _encode_headers(target, headers, key),
        )

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
        builder = batch.builder
        assert builder is not None
        return Delivery(batch, builder.record_count - 1, record.timestamp_ms)

    def append_new(self, target: Target, record: Encoded, now_s: float) -> Delivery:
        """Append to a new batch.

        Raises:
            RecordTooLargeError: Nothing was added.
        """
        full = record.queue or target.topic.current
        batch = target.topic.append_new(*record, now_s)
        self._tell_ready(target.topic, full, batch)
        builder = batch.builder
        assert builder is not None
        return Delivery(batch, builder.record_count - 1, record.timestamp_ms)

    def append_many(  # noqa: PLR0917 internal, one call
        self,
        target: Target,
        queue: PartitionQueue | None,
        values: Sequence[bytes | None],
        position: int,
        timestamp_ms: int,
        now_s: float,
    ) -> Run:
        """Append values until a batch is full, watched; `position` is that of the first.

        Raises:
            RecordTooLargeError: Of the first value; nothing was added.
        """
        full = queue or target.topic.current
        batch, count = target.topic.append_many(queue, values, timestamp_ms, now_s)
        batch.watched_count += count
        builder = batch.builder
        assert builder is not None
        first_index = builder.record_count - count
        if first_index == 0:
            self._tell_ready(target.topic, full, batch)
        return Run(batch, first_index, position, count)

    def _tell_ready(self, topic: TopicQueues, full: PartitionQueue, batch: ProducerBatch) -> None:
        queue = topic.queues[batch.partition]
        if full is not queue and not full.idle:
            self._on_ready(full)
        self._on_ready(queue)


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


def check_many(values: Iterable[object]) -> None:
    """Refuse one text for many: it would become a record per character.

    Raises:
        TypeError: `values` is a `str` or `bytes`.
    """
    if isinstance(values, str | bytes | bytearray):
        raise TypeError(
            f"send_many takes many values, not one {type(values).__name__}; `send` takes one"
        )


def encode_values(target: Target, values: Sequence[object], key: object = None) -> list[Any]:
    """Encode values in one go.

    Raises:
        SerializationError: One does not encode; none was added.
    """
    serde = target.value
    if serde is raw and set(map(type, values)) <= {bytes, type(None)}:
        return list(values)
    return [
        None if value is None else _encode(target, serde, "value", value, key) for value in values
    ]


def _encode(target: Target, serde: Serde[Any], part: str, value: object, key: object) -> bytes:
    if serde is raw and type(value) is bytes:
        return value
    try:
        data: object = serde.encode(value)
    except Exception as error:
        raise SerializationError(
            target.topic.info.name, part=part, key=key, serde=serde.name, reason=_reason(error)
        ) from error
    if not isinstance(data, bytes):
        raise SerializationError(
            target.topic.info.name,
            part=part,
            key=key,
            serde=serde.name,
            reason=f"it returned {type(data).__name__}, not bytes",
        )
    return data


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _encode_headers(target: Target, headers: Headers, key: object) -> list[Header]:
    try:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        return [_checked_header(name, value) for name, value in pairs]
    except (TypeError, ValueError) as error:
        raise SerializationError(
            target.topic.info.name, part="headers", key=key, serde="headers", reason=str(error)
        ) from error


def _checked_header(name: str, value: bytes | None) -> Header:
    if not isinstance(name, str) or not (value is None or isinstance(value, bytes)):
        raise TypeError(
            f"header {name!r} must be a str with bytes or None, not {type(value).__name__}"
        )
    name.encode()  # not every str can be
    return name, value

"""From an application's values to a record's bytes, one by one or column by column.

Serdes are the application's code: what they raise becomes a `SerializationError`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, NamedTuple

from odradek.client.errors import SerializationError
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.record import Header, Headers
from odradek.client.serdes import Serde, raw
from odradek.protocol.record_batch import HEADER_BYTES

NO_HEADERS: Final[list[Header]] = []
_CHUNK_RECORDS: Final = 8192
# Length, timestamp delta, offset delta, lengths of key and value; attributes, number of headers.
_FRAME_BYTES_MAX: Final = 5 + 10 + 5 + 5 + 5 + 1 + 1


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


@dataclass(slots=True, eq=False)
class Bulk:
    """Records with keys and without headers, ready to be appended, column by column.

    Attributes:
        queues: Where each goes; None for the one whose turn it is.
        keys: One per record.
        values: One per record.
        timestamp_ms: Of all of them.
        ends_bytes: What they take at most, up to the end of each.
        largest_bytes: What a batch of the largest one would take at most.
    """

    queues: list[PartitionQueue | None]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamp_ms: int
    ends_bytes: list[int] = field(init=False)
    largest_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        record_bytes = [
            len(key or b"") + len(value or b"") + _FRAME_BYTES_MAX
            for key, value in zip(self.keys, self.values, strict=True)
        ]
        self.ends_bytes = list(accumulate(record_bytes))
        self.largest_bytes = max(record_bytes, default=0) + HEADER_BYTES

    def record(self, position: int) -> Encoded:
        """Return one of them."""
        return Encoded(
            self.queues[position],
            self.keys[position],
            self.values[position],
            self.timestamp_ms,
            NO_HEADERS,
        )

    @property
    def mean_bytes(self) -> int:
        """What a record takes on average, at most."""
        return self.ends_bytes[-1] // len(self.ends_bytes)

    def chunk_end(self, first: int, room_bytes: int) -> int:
        """Return where the chunk ends whose last record uses up the room; one record at least."""
        before_bytes = self.ends_bytes[first - 1] if first else 0
        last = min(first + _CHUNK_RECORDS, len(self.queues))
        return min(bisect_left(self.ends_bytes, before_bytes + room_bytes, first, last) + 1, last)


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
        None if value is None else encode(target, serde, "value", value, key) for value in values
    ]


def encode_pairs(
    target: Target, pairs: Iterator[tuple[object, object]]
) -> tuple[list[bytes | None], list[bytes | None]]:
    """Return encoded keys and encoded values; pairs are values, each with its key.

    Raises:
        SerializationError: Of the first that does not encode.
    """
    if target.key is raw and target.value is raw:
        together = list(pairs)
        keys: list[Any] = [key for _, key in together]
        values: list[Any] = [value for value, _ in together]
        if {*map(type, keys), *map(type, values)} <= {bytes, type(None)}:
            return keys, values
        pairs = iter(together)
    keys, values = [], []
    for value, key in pairs:
        keys.append(None if key is None else encode(target, target.key, "key", key, key))
        values.append(None if value is None else encode(target, target.value, "value", value, key))
    return keys, values


def encode(target: Target, serde: Serde[Any], part: str, value: object, key: object) -> bytes:
    """Encode a key or a value; `part` says which.

    Raises:
        SerializationError: It does not encode.
    """
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


def encode_headers(target: Target, headers: Headers, key: object) -> list[Header]:
    """Return headers as pairs.

    Raises:
        SerializationError: They are none.
    """
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

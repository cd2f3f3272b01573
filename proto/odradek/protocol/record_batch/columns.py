"""The records of a batch field by field, as a consumer wants them: no object a record.

Problem: the record codec makes an object of each record, whose fields are then asked for one by
one: half of what a consumer does. Idea: producers often send records of equal sizes. Those lie at
equal distances, so that each byte around keys and values forms a column, which one strided
comparison checks for all records at once, and `struct` cuts keys and values out. Every other batch
goes through the codec, and so do a few records: the columns take their time to find.

Invariants: a batch is read this way only when every byte outside its keys and values was compared
with what the codec would have to find there; both ways give the same fields, which a test proves.
No copy is made of a batch but of its keys and values.

Source: Apache Kafka protocol guide, "Record"; the counterpart of `bulk`.
"""

import operator
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from odradek.protocol.record_batch.builder import Header
from odradek.protocol.record_batch.header import HEADER_BYTES
from odradek.protocol.record_batch.reader import OpenedBatch, RawRecord, open_batch, records_of

Data: TypeAlias = bytes | bytearray

COLUMN_RECORDS_MIN: Final = 16
_RECORDS_A_CUT: Final = 32
_VARINT_BITS_MAX: Final = 63
_SMALL_DELTAS: Final = [each >> 1 ^ -(each & 1) for each in range(0x80)]
"""What numbers of one byte stand for."""

_OFFSET = operator.attrgetter("offset")
_TIMESTAMP = operator.attrgetter("timestamp")
_KEY = operator.attrgetter("key")
_VALUE = operator.attrgetter("value")
_HEADERS = operator.attrgetter("headers")


class PlainRecord(Struct, frozen=True, gc=False):
    """One record, made when somebody asks for it: a `RawRecord`."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class Columns(Struct, frozen=True, gc=False):
    """Records, field by field; every field has an entry for each of them.

    Attributes:
        offsets: Absolute, growing.
        timestamps: Milliseconds since the epoch; -1 when a foreign producer wrote none.
        keys: As produced.
        values: As produced; None is a tombstone.
        headers: In the producer's order.
    """

    offsets: Sequence[int]
    timestamps: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Sequence[Header]]

    def __len__(self) -> int:
        return len(self.offsets)

    def record(self, index: int) -> PlainRecord:
        """Return one of the records."""
        return PlainRecord(
            self.offsets[index],
            self.timestamps[index],
            self.keys[index],
            self.values[index],
            self.headers[index],
        )

    def since(self, index: int) -> "Columns":
        """Return the records from an index on."""
        return Columns(
            self.offsets[index:],
            self.timestamps[index:],
            self.keys[index:],
            self.values[index:],
            self.headers[index:],
        )

    def joined(self, behind: "Columns") -> "Columns":
        """Return these records and those behind them."""
        return Columns(
            [*self.offsets, *behind.offsets],
            [*self.timestamps, *behind.timestamps],
            [*self.keys, *behind.keys],
            [*self.values, *behind.values],
            [*self.headers, *behind.headers],
        )


NO_RECORDS = Columns((), (), (), (), ())


def decode_columns(
    buffer: bytes | bytearray,
    start: int,
    size: int,
    *,
    column_records_min: int = COLUMN_RECORDS_MIN,
) -> Columns:
    """Return the records of one batch, offsets and timestamps resolved.

    Args:
        buffer: Holds the batch, perhaps among others.
        start: Where the batch begins.
        size: Its bytes, exactly.
        column_records_min: Fewer records go through the codec.

    Raises:
        CorruptMessageError, UnsupportedForMessageFormatError, UnsupportedCompressionTypeError: As
            in `decode`.
    """
    opened = open_batch(buffer, start, size)
    are_few = opened.header.record_count < column_records_min
    columns = None if are_few else _equal_records(opened)
    return _from_codec(records_of(opened)) if columns is None else columns


def _from_codec(records: list[RawRecord]) -> Columns:
    timestamps = list(map(_TIMESTAMP, records))
    headers = list(map(_HEADERS, records))
    return Columns(
        list(map(_OFFSET, records)),
        [-1 if each is None else each for each in timestamps] if None in timestamps else timestamps,
        list(map(_KEY, records)),
        list(map(_VALUE, records)),
        # An empty tuple instead of a list each: nothing for the garbage collector to walk.
        [each or () for each in headers] if any(headers) else [()] * len(records),
    )


# ---------------------------------------------------------------------- records of equal sizes


@dataclass(frozen=True, slots=True)
class _Deltas:
    """Offset deltas that take equally many bytes."""

    end: int
    width: int
    encoded: bytearray
    """Their encodings one after the other; grows with the largest batch seen."""

    def encode(self, first: int, count: int) -> bytearray:
        """Return the encodings of so many deltas, which begin where this range does."""
        known = len(self.encoded) // self.width
        for delta in range(first + known, first + count):
            rest = delta << 1
            self.encoded.extend(
                rest >> 7 * byte & 0x7F | (0x80 if byte + 1 < self.width else 0)
                for byte in range(self.width)
            )
        return self.encoded[: count * self.width]


_DELTAS = tuple(_Deltas(1 << (7 * width - 1), width, bytearray()) for width in range(1, 5))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How each record of a run is laid out: positions relative to its first byte."""

    timestamp_at: int
    delta_at: int
    key_length_at: int
    key: range | None
    value_length_at: int
    value: range | None
    size: int

    @classmethod
    def of(cls, data: Data, start: int) -> "_Shape | None":
        """Measure the record that begins here; None when it has headers, or is damaged.

        Raises:
            IndexError: It runs off the end.
        """
        length, body_at = _varint(data, start)
        _, delta_at = _varint(data, body_at + 1)
        _, key_length_at = _varint(data, delta_at)
        key, value_length_at = _field(data, key_length_at, start)
        value, headers_at = _field(data, value_length_at, start)
        end = headers_at + 1
        if data[body_at] or data[headers_at] or end - body_at != length:
            return None
        return cls(
            body_at + 1 - start,
            delta_at - start,
            key_length_at - start,
            key,
            value_length_at - start,
            value,
            end - start,
        )

    @property
    def timestamp_may_vary(self) -> bool:
        """Whether timestamp deltas may differ: those of one byte are as easily read as compared."""
        return self.delta_at - self.timestamp_at == 1

    def fixed(self) -> Iterable[int]:
        """Return where all records have the same byte."""
        return chain(
            range(self.timestamp_at if self.timestamp_may_vary else self.delta_at),
            range(self.key_length_at, self.key.start if self.key else self.value_length_at),
            range(self.value_length_at, self.value.start if self.value else self.size),
            (self.size - 1,),
        )

    def cut(self, run: memoryview) -> tuple[list[bytes | None], list[bytes | None]]:
        """Return the keys and the values of a run."""
        fields = [field for field in (self.key, self.value) if field is not None]
        layout, at = "", 0
        for field in fields:
            layout += f"{field.start - at}x{len(field)}s"
            at = field.stop
        one, many = _cutters(layout + f"{self.size - at}x")
        whole = len(run) - len(run) % many.size
        cut: list[bytes | None] = list(chain.from_iterable(many.iter_unpack(run[:whole])))
        cut += chain.from_iterable(one.iter_unpack(run[whole:]))
        nothing: list[bytes | None] = [None] * (len(run) // self.size)
        return (
            nothing if self.key is None else cut[:: len(fields)],
            nothing if self.value is None else cut[len(fields) - 1 :: len(fields)],
        )


@lru_cache(maxsize=256)
def _cutters(layout: str) -> tuple[struct.Struct, struct.Struct]:
    """Return what cuts one record, and what cuts many in one go."""
    return struct.Struct(layout), struct.Struct(layout * _RECORDS_A_CUT)


class _Run(NamedTuple):
    end: int
    timestamps: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]


def _equal_records(batch: OpenedBatch) -> Columns | None:
    """Read a batch whose records have equal sizes; None when it is another, or damaged."""
    header = batch.header
    count = header.record_count
    if count <= 0 or header.last_offset_delta != count - 1:
        return None
    runs: list[_Run] = []
    at, first = batch.start + HEADER_BYTES, 0
    for deltas in _DELTAS:
        run = _read_run(batch, at, first, min(count, deltas.end) - first, deltas)
        if run is None:
            return None
        runs.append(run)
        at, first = run.end, deltas.end
        if first >= count:
            break
    if first < count or at != batch.end:
        return None
    return Columns(
        range(header.base_offset, header.base_offset + count),
        list(chain.from_iterable(run.timestamps for run in runs)),
        list(chain.from_iterable(run.keys for run in runs)),
        list(chain.from_iterable(run.values for run in runs)),
        [()] * count,
    )


def _read_run(
    batch: OpenedBatch, start: int, first: int, count: int, deltas: _Deltas
) -> _Run | None:
    """Read so many records of equal sizes; None when they are not."""
    data = batch.data
    try:
        shape = _Shape.of(data, start)
    except IndexError:
        return None
    if shape is None or start + shape.size * count > batch.end:
        return None
    size, end = shape.size, start + shape.size * count
    for position in shape.fixed():
        at = start + position
        if data[at:end:size] != data[at : at + 1] * count:
            return None
    if shape.key_length_at - shape.delta_at != deltas.width:
        return None
    encoded = deltas.encode(first, count)
    for byte in range(deltas.width):
        if data[start + shape.delta_at + byte : end : size] != encoded[byte :: deltas.width]:
            return None
    timestamps = _timestamps(batch, shape, start, count)
    if timestamps is None:
        return None
    keys, values = shape.cut(memoryview(data)[start:end])
    return _Run(end, timestamps, keys, values)


def _timestamps(batch: OpenedBatch, shape: _Shape, start: int, count: int) -> list[int] | None:
    """Return the timestamps of a run; None when their deltas take unequally many bytes."""
    header, data = batch.header, batch.data
    at = start + shape.timestamp_at
    column = data[at : start + shape.size * count : shape.size]
    are_equal = not shape.timestamp_may_vary or column == column[:1] * count
    if not are_equal and max(column) > 0x7F:
        return None
    if header.is_log_append_time:
        return [header.max_timestamp] * count
    if are_equal:
        return [header.base_timestamp + _varint(data, at)[0]] * count
    return list(map(header.base_timestamp.__add__, map(_SMALL_DELTAS.__getitem__, column)))


def _field(data: Data, at: int, start: int) -> tuple[range | None, int]:
    """Return where a nullable field of the record at `start` lies, and what follows it.

    Raises:
        IndexError: It runs off the end, or its length makes no sense.
    """
    length, field_at = _varint(data, at)
    if length == -1:
        return None, field_at
    if not 0 <= length < len(data) - field_at:
        raise IndexError(length)
    return range(field_at - start, field_at - start + length), field_at + length


def _varint(data: Data, at: int) -> tuple[int, int]:
    """Return a signed number, and what follows it.

    Raises:
        IndexError: It runs off the end, or is longer than any number.
    """
    number = shift = 0
    while (byte := data[at]) > 0x7F:
        number |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if shift > _VARINT_BITS_MAX:
            raise IndexError(at)
    number |= byte << shift
    return number >> 1 ^ -(number & 1), at + 1

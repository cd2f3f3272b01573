"""The producer's end: records in, one batch out.

Problem: the record codec copies a batch about nine times while its buffer grows, and computes the
CRC in software: two thirds of what a producer in bulk costs. Idea: put the few bytes between the
values of many records (one timestamp, offset deltas of one width) from tables by list operations,
join everything once, and let the processor compute the CRC. For records with keys or headers, one
by one, aiokafka's Cython codec is the faster one: a batch that begins with such a record is the
codec's.

Invariants: both ways make the same bytes, which a test proves; offset deltas are 0, 1, 2, ...;
sizes are exact at any time; the first record always fits, however large; a refused record leaves no
trace; `close` ends the builder's life (the codec's own `build` is not idempotent).

Source: Apache Kafka protocol guide, "Record".
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, repeat
from typing import Any, Final, TypeAlias, cast

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from odradek.protocol.errors import InvalidTimestampError
from odradek.protocol.record_batch.framing import (
    KEYED_PIECES,
    NO_ATTRIBUTES,
    NO_HEADERS,
    Frames,
    deltas_from,
    frame_any,
    frame_keyed,
    frames_by_fixed_bytes,
    small_varints,
    varint,
)
from odradek.protocol.record_batch.header import (
    HEADER_BYTES,
    LENGTH_FIELD_END,
    MAGIC,
    TRANSACTIONAL_BIT,
    BatchHeader,
    Codec,
    crc_of,
)
from odradek.protocol.types import (
    FIRST_OFFSET,
    NO_LEADER_EPOCH,
    NO_PRODUCER_ID,
    ProducerEpoch,
    ProducerId,
)

Header: TypeAlias = tuple[str, bytes | None]
"""Name and value; names may repeat."""

NO_PRODUCER_EPOCH = ProducerEpoch(-1)
NO_SEQUENCE = -1
TIMESTAMP_MS_MAX: Final = (1 << 63) - 1
_NO_TIMESTAMP: Final = -1
_NULLABLE: Final = {bytes, type(None)}


class BatchBuilder:
    """Collects records into one uncompressed batch; values are held, not copied, until `close`.

    Attributes:
        batch_bytes: The batch closes before it would grow beyond this, header included; a single
            larger record makes a batch of its own.
        record_count: How many so far.
        size_bytes: The batch so far, header included.

    Args:
        transactional: The batch belongs to the producer's open transaction.
    """

    __slots__ = (
        "_codec",
        "_first_timestamp_ms",
        "_max_timestamp_ms",
        "_parts",
        "_transactional",
        "batch_bytes",
        "record_count",
        "size_bytes",
    )

    def __init__(self, batch_bytes: int, *, transactional: bool = False) -> None:
        self.batch_bytes = batch_bytes
        self.record_count = 0
        self.size_bytes = HEADER_BYTES
        self._transactional = transactional
        self._codec: Any = None
        self._parts: list[bytes] = []
        self._first_timestamp_ms = self._max_timestamp_ms = _NO_TIMESTAMP

    # ------------------------------------------------------------------ many records

    def append_many(
        self,
        values: Sequence[bytes | None],
        timestamp_ms: int,
        keys: Sequence[bytes | None] | None = None,
    ) -> int:
        """Add records without headers, until the batch is full.

        Args:
            values: One per record.
            timestamp_ms: Shared by all of them.
            keys: As many; None: no record has a key.

        Returns:
            How many were added, from the first on.

        Raises:
            InvalidTimestampError: A timestamp that is negative or beyond 64 bits.
            TypeError: Something that is not bytes; `record_count` tells how many precede it.
        """
        if self._codec is None:
            types = set(map(type, values))
            if keys is not None and types.union(map(type, keys)) <= _NULLABLE:
                return self._append_keyed(keys, values, timestamp_ms)
            if keys is None and types == {bytes}:
                plain = cast("Sequence[bytes]", values)
                if len(plain) > 1:
                    return self._append_values(plain, timestamp_ms)
                return 0 if self._append_value(plain[0], timestamp_ms) is None else 1
        first = self.record_count
        for key, value in zip(repeat(None) if keys is None else keys, values, strict=False):
            if self.append(key, value, timestamp_ms, []) is None:
                break
        return self.record_count - first

    def _append_values(self, values: Sequence[bytes], timestamp_ms: int) -> int:
        start = self._start(timestamp_ms)
        taken = 0
        while taken < len(values):
            first = self.record_count
            end, delta_bytes = deltas_from(first)
            some = values[taken : taken + end - first]
            frames = frames_by_fixed_bytes[len(start) + delta_bytes]
            added = self._frame(some, start, frames)
            taken += added
            if added < len(some):
                break
        if taken:
            self._max_timestamp_ms = max(self._max_timestamp_ms, timestamp_ms)
        return taken

    def _frame(self, values: Sequence[bytes], start: bytes, frames: Frames) -> int:
        """Add as many of the values as fit; return how many.

        Args:
            values: Their offset deltas are in the table, all of one length.
            start: Attributes and timestamp delta of each.
            frames: For a start and offset deltas so long.
        """
        lengths = list(map(len, values))
        first = self.record_count
        if lengths.count(lengths[0]) == len(lengths):
            length, before, record_bytes = frames[lengths[0]]
            fitting = (self.batch_bytes - self.size_bytes) // record_bytes
            added = max(min(fitting, len(values)), 0 if first else 1)
            self.size_bytes += added * record_bytes
            starts, befores = [length + start] * added, [before] * added
        else:
            framed = [frames[value_bytes] for value_bytes in lengths]
            added = self._fitting([record_bytes for _, _, record_bytes in framed])
            starts = [length + start for length, _, _ in framed[:added]]
            befores = [before for _, before, _ in framed[:added]]
        pieces: list[bytes] = [NO_HEADERS] * (5 * added)
        pieces[0::5] = starts
        pieces[1::5] = small_varints[first : first + added]
        pieces[2::5] = befores
        pieces[3::5] = values[:added]
        self._parts += pieces
        self.record_count += added
        return added

    def _fitting(self, record_bytes: list[int]) -> int:
        """Return how many records of these sizes still fit, and count their bytes."""
        ends = list(accumulate(record_bytes))
        at_least = 0 if self.record_count else 1  # the first record always fits
        fitting = max(bisect_right(ends, self.batch_bytes - self.size_bytes), at_least)
        self.size_bytes += ends[fitting - 1] if fitting else 0
        return fitting

    def _append_keyed(
        self, keys: Sequence[bytes | None], values: Sequence[bytes | None], timestamp_ms: int
    ) -> int:
        start = self._start(timestamp_ms)
        taken = 0
        while taken < len(values):
            first = self.record_count
            end, _ = deltas_from(first)
            deltas = small_varints[first : min(end, first + len(values) - taken)]
            some = slice(taken, taken + len(deltas))
            pieces, record_bytes = frame_keyed(start, deltas, keys[some], values[some])
            added = self._fitting(record_bytes)
            self._parts += pieces[: added * KEYED_PIECES]
            self.record_count += added
            taken += added
            if added < len(deltas):
                break
        if taken:
            self._max_timestamp_ms = max(self._max_timestamp_ms, timestamp_ms)
        return taken

    # ------------------------------------------------------------------ any record

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[Header],
    ) -> int | None:
        """Add one record.

        Args:
            key: Any bytes, or None.
            value: Any bytes, or None (a tombstone in a compacted topic).
            timestamp_ms: Milliseconds since the epoch, not negative.
            headers: In order; names may repeat.

        Returns:
            The record's encoded size in bytes; None when the batch is full (nothing was added).

        Raises:
            InvalidTimestampError: A timestamp that is negative or beyond 64 bits.
            TypeError: Something that is not bytes.
        """
        count = self.record_count
        if self._codec is None:
            if type(value) is bytes and key is None and not headers:
                return self._append_value(value, timestamp_ms)
            if count:
                return self._append_framed(key, value, timestamp_ms, headers)
            self._codec = self._new_codec()
        _check_timestamp(timestamp_ms)
        added = self._codec.append(count, timestamp_ms, key, value, headers)
        if added is None:
            return None
        record_bytes: int = added.size
        self.size_bytes += record_bytes
        self.record_count = count + 1
        return record_bytes

    def _new_codec(self) -> Any:
        return DefaultRecordBatchBuilder(
            MAGIC,
            Codec.NONE,
            int(self._transactional),
            NO_PRODUCER_ID,
            NO_PRODUCER_EPOCH,
            NO_SEQUENCE,
            self.batch_bytes + 1,  # the codec's limit is exclusive
        )

    def _append_value(self, value: bytes, timestamp_ms: int) -> int | None:
        first, start = self.record_count, self._start(timestamp_ms)
        _, delta_bytes = deltas_from(first)
        frames = frames_by_fixed_bytes[len(start) + delta_bytes]
        length, before, record_bytes = frames[len(value)]
        parts = (length, start, small_varints[first], before, value, NO_HEADERS)
        return self._add(parts, record_bytes, timestamp_ms)

    def _append_framed(
        self,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[Header],
    ) -> int | None:
        """Add any record to a batch that begins with a value alone."""
        before = self._start(timestamp_ms) + varint(self.record_count)
        parts = frame_any(before, key, value, headers)
        return self._add(parts, sum(map(len, parts)), timestamp_ms)

    def _add(self, parts: Iterable[bytes], record_bytes: int, timestamp_ms: int) -> int | None:
        """Add a record's parts; None when the batch is full."""
        if self.size_bytes + record_bytes > self.batch_bytes and self.record_count:
            return None
        self._parts += parts
        self._max_timestamp_ms = max(self._max_timestamp_ms, timestamp_ms)
        self.size_bytes += record_bytes
        self.record_count += 1
        return record_bytes

    def _start(self, timestamp_ms: int) -> bytes:
        """Return how records of this time start: attributes, timestamp delta."""
        _check_timestamp(timestamp_ms)
        if self.record_count == 0:
            self._first_timestamp_ms = timestamp_ms
        return NO_ATTRIBUTES + varint(timestamp_ms - self._first_timestamp_ms)

    # ------------------------------------------------------------------ the batch

    def close(
        self,
        producer_id: ProducerId = NO_PRODUCER_ID,
        producer_epoch: ProducerEpoch = NO_PRODUCER_EPOCH,
        base_sequence: int = NO_SEQUENCE,
    ) -> bytearray:
        """Finish the batch; the builder is spent.

        Returns:
            The batch, uncompressed, with base offset 0 and leader epoch -1, owned by the caller.
            `stamp_producer` can change the producer's fields later.
        """
        assert self.record_count > 0, "a batch holds at least one record"
        if self._codec is not None:
            self._codec.set_producer_state(producer_id, producer_epoch, base_sequence)
            batch: bytearray = self._codec.build()
        else:
            batch = self._join(producer_id, producer_epoch, base_sequence)
        assert len(batch) == self.size_bytes, "sizes are exact"
        del self._codec, self._parts
        return batch

    def _join(
        self, producer_id: ProducerId, producer_epoch: ProducerEpoch, base_sequence: int
    ) -> bytearray:
        header = BatchHeader(
            FIRST_OFFSET,
            self.size_bytes - LENGTH_FIELD_END,
            NO_LEADER_EPOCH,
            MAGIC,
            0,
            TRANSACTIONAL_BIT if self._transactional else 0,
            self.record_count - 1,
            self._first_timestamp_ms,
            self._max_timestamp_ms,
            producer_id,
            producer_epoch,
            base_sequence,
            self.record_count,
        )
        batch = bytearray().join((header.pack(), *self._parts))
        batch[:HEADER_BYTES] = header._replace(crc=crc_of(batch)).pack()
        return batch


def _check_timestamp(timestamp_ms: int) -> None:
    if not isinstance(timestamp_ms, int):
        raise TypeError(f"timestamps are whole milliseconds, not {timestamp_ms!r}")
    if not 0 <= timestamp_ms <= TIMESTAMP_MS_MAX:
        raise InvalidTimestampError(
            f"timestamps are milliseconds since the epoch, not {timestamp_ms}",
            field="timestamp_ms",
            value=timestamp_ms,
            limit=0 if timestamp_ms < 0 else TIMESTAMP_MS_MAX,
        )

"""The producer's end: records in, one batch out.

A thin face over aiokafka's Cython encoder, the fastest for records that come one by one; a batch
that begins with many at once is made by `bulk`, with the same bytes.

Invariants: offset deltas are 0, 1, 2, ...; the first record always fits, however large; `close`
ends the builder's life (the codec's own `build` is not idempotent), the bytes are kept for retries.
"""

import operator
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TypeAlias, cast

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from odradek.protocol.errors import InvalidTimestampError
from odradek.protocol.record_batch.bulk import BulkRecords
from odradek.protocol.record_batch.header import HEADER_BYTES, MAGIC, Codec
from odradek.protocol.types import NO_PRODUCER_ID, ProducerEpoch, ProducerId

Header: TypeAlias = tuple[str, bytes | None]
"""Name and value; names may repeat."""

NO_PRODUCER_EPOCH = ProducerEpoch(-1)
NO_SEQUENCE = -1


class BatchBuilder:
    """Collects records into one uncompressed batch.

    Args:
        batch_bytes: The batch closes before it would grow beyond this, header included; a single
            larger record makes a batch of its own.
        transactional: The batch belongs to the producer's open transaction.
    """

    __slots__ = ("_append", "_builder", "_transactional", "batch_bytes", "record_count")

    def __init__(self, batch_bytes: int, *, transactional: bool = False) -> None:
        self.batch_bytes = batch_bytes
        self.record_count = 0
        self._transactional = transactional
        self._builder: BulkRecords | DefaultRecordBatchBuilder = DefaultRecordBatchBuilder(
            MAGIC,
            Codec.NONE,
            int(transactional),
            NO_PRODUCER_ID,
            NO_PRODUCER_EPOCH,
            NO_SEQUENCE,
            batch_bytes + 1,  # the codec's limit is exclusive
        )
        self._append = self._builder.append

    @property
    def size_bytes(self) -> int:
        """The batch so far, header included."""
        size: int = self._builder.size()
        return size

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
            InvalidTimestampError: A negative timestamp.
            TypeError: Something that is not bytes.
        """
        if timestamp_ms < 0:
            raise _negative_timestamp(timestamp_ms)
        count = self.record_count
        added = self._append(count, timestamp_ms, key, value, headers)
        if added is None:
            return None
        self.record_count = count + 1
        size: int = added.size
        return size

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
            keys: As many as values; None for none at all.

        Returns:
            How many were added, from the first on.

        Raises:
            InvalidTimestampError: A negative timestamp.
            TypeError: Something that is not bytes; `record_count` tells how many precede it.
        """
        if timestamp_ms < 0:
            raise _negative_timestamp(timestamp_ms)
        if keys is None and set(map(type, values)) == {bytes}:
            bulk = self._in_bulk()
            if bulk is not None:
                added = bulk.extend(cast("Sequence[bytes]", values), timestamp_ms)
                self.record_count += added
                return added
        first = self.record_count
        deltas = iter(range(first, first + len(values)))
        assert keys is None or len(keys) == len(values), "a key for each value"
        every_key: Iterable[bytes | None] = repeat(None) if keys is None else keys
        rejected = 1
        try:
            # `all` stops at the first None, which is what a full batch answers.
            if all(map(self._append, deltas, repeat(timestamp_ms), every_key, values, repeat([]))):
                rejected = 0
        finally:
            taken = len(values) - operator.length_hint(deltas) - rejected
            self.record_count += taken
        return taken

    def _in_bulk(self) -> BulkRecords | None:
        """Return what takes many at once; None when the codec has the batch already."""
        if self.record_count == 0:
            self._builder = BulkRecords(self.batch_bytes, transactional=self._transactional)
            self._append = self._builder.append
        return self._builder if isinstance(self._builder, BulkRecords) else None

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
        self._builder.set_producer_state(producer_id, producer_epoch, base_sequence)
        batch: bytearray = self._builder.build()
        assert len(batch) > HEADER_BYTES
        del self._builder, self._append
        return batch


def _negative_timestamp(timestamp_ms: int) -> InvalidTimestampError:
    return InvalidTimestampError(
        f"timestamps are milliseconds since the epoch, not {timestamp_ms}",
        field="timestamp_ms",
        value=timestamp_ms,
        limit=0,
    )

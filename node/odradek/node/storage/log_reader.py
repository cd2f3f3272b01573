"""Questions to one partition's log that may touch the disk; every call belongs in a thread.

Idea: the index entry of an offset is one seek backwards. With it reading starts at the right batch,
and a time is found by binary search over offsets, because the running maximum never falls.

Invariant: no batch leaves here whose CRC does not hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from odradek.node.storage.index import IndexEntry
from odradek.node.storage.keys import Kind, offset_range, partition_prefix
from odradek.node.storage.store import DamagedTableError, Store
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.record_batch import decode, verify
from odradek.protocol.types import FIRST_OFFSET, LeaderEpoch, Offset, PartitionUid

_ENTRIES_PER_SCAN = 4096


class DamagedBatchError(CorruptMessageError):
    """Bits have rotted in a batch.

    Attributes:
        offset: What was looked for is damaged from here on, if not before.
    """

    offset = FIRST_OFFSET


Damage: TypeAlias = DamagedBatchError | DamagedTableError


@dataclass(frozen=True, slots=True)
class TimestampOffset:
    """A record found by its time.

    Attributes:
        offset: Of the record.
        timestamp_ms: Of the record, milliseconds since the epoch.
        leader_epoch: Of its batch.
    """

    offset: Offset
    timestamp_ms: int
    leader_epoch: LeaderEpoch


class LogReader:
    """Reads one partition's batches and index.

    Args:
        store: Where they are.
        uid: Whose.
    """

    __slots__ = ("_prefix", "_store", "_uid")

    def __init__(self, store: Store, uid: PartitionUid) -> None:
        self._store = store
        self._uid = uid
        self._prefix = partition_prefix(Kind.INDEX, uid)

    def last_entry(self, before: Offset | None = None) -> IndexEntry | None:
        """Return the entry of the last batch that starts before an offset; None: of the last."""
        _, end = offset_range(Kind.INDEX, self._uid, Offset(0), before)
        found = self._store.last_before(end, self._prefix)
        return IndexEntry.unpack(found[1]) if found else None

    def first_entry(self) -> IndexEntry | None:
        """Return the entry of the first batch."""
        found = self._store.scan(*offset_range(Kind.INDEX, self._uid), 1)
        return IndexEntry.unpack(found[0][1]) if found else None

    def entries(self, begin: Offset) -> Iterator[IndexEntry]:
        """Yield the entries of the batches that start at or after an offset, in chunks."""
        while True:
            found = self._store.scan(*offset_range(Kind.INDEX, self._uid, begin), _ENTRIES_PER_SCAN)
            for _, value in found:
                entry = IndexEntry.unpack(value)
                yield entry
            if len(found) < _ENTRIES_PER_SCAN:
                return
            begin = entry.header.next_offset

    def read(self, offset: Offset, end_offset: Offset, bytes_max: int) -> list[bytes]:
        """Return whole batches from the one that holds `offset` on, the first however large.

        Args:
            end_offset: Batches that reach beyond it are left out.
            bytes_max: Enough.

        Raises:
            DamagedBatchError, DamagedTableError: Named are the partition and the offset.
        """
        try:
            entry = self.last_entry(Offset(offset + 1))
            if entry is not None and entry.header.next_offset > offset:
                offset = entry.header.base_offset
            batches = self._store.read_batches(self._uid, offset, end_offset, bytes_max)
        except CorruptMessageError as error:
            raise self._damaged(offset, error) from error
        for i, batch in enumerate(batches):
            try:
                header = verify(batch)
            except CorruptMessageError as error:
                raise self._damaged(offset, error) from error
            if header.next_offset > end_offset:
                return batches[:i]
            offset = header.next_offset
        return batches

    def _damaged(self, offset: Offset, error: CorruptMessageError) -> Damage:
        message = f"partition uid {self._uid}, offset {offset}: {error.message}"
        if isinstance(error, DamagedTableError):
            return DamagedTableError(message)
        told = DamagedBatchError(message, field=error.field, value=error.value, limit=error.limit)
        told.offset = offset
        return told

    def find_timestamp(
        self, timestamp_ms: int, log_start: Offset, log_end: Offset
    ) -> TimestampOffset | None:
        """Return the first record, by offset, with at least this timestamp.

        Raises:
            DamagedBatchError, DamagedTableError: As `read`.
        """
        first = self._first_offset_reaching(timestamp_ms, log_start, log_end)
        for entry in self.entries(first):
            # Already deleted batches may have raised the running maximum: look at the batch itself.
            if entry.header.max_timestamp >= timestamp_ms:
                found = self._find_in_batch(entry, timestamp_ms, log_start)
                if found is not None:
                    return found
        return None

    def find_max_timestamp(self, log_start: Offset, log_end: Offset) -> TimestampOffset | None:
        """Return the first record with the largest timestamp of the log.

        Raises:
            DamagedBatchError, DamagedTableError: As `read`.
        """
        last = self.last_entry()
        if last is None:
            return None
        found = self.find_timestamp(last.max_timestamp_so_far, log_start, log_end)
        if found is not None:
            return found
        # The largest timestamp ever was in a batch deleted since.
        largest = max(entry.header.max_timestamp for entry in self.entries(Offset(0)))
        return self.find_timestamp(largest, log_start, log_end)

    def _first_offset_reaching(self, timestamp_ms: int, begin: Offset, end: Offset) -> Offset:
        """Return the base offset of the first batch whose running maximum reaches a time."""
        while begin < end:
            middle = Offset((begin + end) // 2)
            entry = self.last_entry(Offset(middle + 1))
            if entry is None:
                begin = Offset(middle + 1)
            elif entry.max_timestamp_so_far >= timestamp_ms:
                end = min(entry.header.base_offset, middle)
            else:
                begin = Offset(max(entry.header.next_offset, middle + 1))
        return end

    def _find_in_batch(
        self, entry: IndexEntry, timestamp_ms: int, log_start: Offset
    ) -> TimestampOffset | None:
        header = entry.header
        batches = self.read(header.base_offset, header.next_offset, bytes_max=0)
        for record in decode(batches[0]) if batches else ():
            if record.offset >= log_start and (record.timestamp or 0) >= timestamp_ms:
                return TimestampOffset(
                    Offset(record.offset), record.timestamp or 0, header.leader_epoch
                )
        return None

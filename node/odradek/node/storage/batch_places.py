"""Where batches lie: among the store's rows, or in the value log with a reference in their place.

Problem: references, the accounts of the segments they lead to, and the bytes themselves must never
disagree, while the loop appends, a thread syncs and another one reclaims. Idea: one lock around
whatever changes references and accounts, held for microseconds; bytes are written before the
mutation that refers to them, accounts ride in it, memory follows once it was accepted.

Invariants: a refused mutation leaves no trace; what `end` says before a `sync` is on disk after it.
"""

import threading
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from odradek.node.storage.keys import (
    Kind,
    batch_key,
    kind_range,
    number_of,
    offset_of,
    offset_range,
    pack_batch_id,
    pack_offset,
    place_key,
    released_key,
    segment_key,
    unpack_offset,
)
from odradek.node.storage.segments import REFERENCE_BYTES, LogPoint, Place, Segments
from odradek.node.storage.value_log import ValueLog
from odradek.node.storage.value_reclaim import MutableRows, Reclaimer
from odradek.node.storage.value_recovery import recover
from odradek.protocol.errors import CorruptMessageError, ThrottledError
from odradek.protocol.types import Offset, PartitionUid

_LOOKUPS_MAX = 8  # of a value that moves while it is read; each move takes a pass over a segment


class BatchChanges(Protocol):
    """What a mutation does to batches; see `store.Mutation`."""

    batches: list[tuple[PartitionUid, Offset, bytes]]
    batch_bytes: int
    removed: list[tuple[PartitionUid, Offset, Offset | None]]
    released: list[tuple[PartitionUid, Offset]]

    def put(self, key: bytes, value: bytes) -> None:
        """Set a small value."""


class BatchRows(MutableRows, Protocol):
    """What is asked of the store."""

    def iterate(self, begin: bytes, end: bytes) -> Generator[tuple[bytes, bytes], None, None]:
        """Yield what `scan` returns, one by one; to be closed."""


class BatchPlaces:
    """The batches of a store.

    Args:
        rows: The store's small values.
        directory: For the value log; made when missing.
        value_bytes_min: Smaller batches lie among the rows.
        inline_bytes_max: So do larger ones, until a commit has this many bytes of batches.
        segment_bytes: Of one file of the value log.
        page_cache_bytes: Of the value log's newest bytes, see `ValueLog`.
        synced: Up to where the value log is known to have been synced; None when nobody knows.
    """

    def __init__(
        self,
        rows: BatchRows,
        directory: Path,
        *,
        value_bytes_min: int,
        inline_bytes_max: int,
        segment_bytes: int,
        page_cache_bytes: int,
        synced: LogPoint | None,
    ) -> None:
        self._rows = rows
        self._value_bytes_min = value_bytes_min
        self._inline_bytes_max = inline_bytes_max
        self._segment_bytes = segment_bytes
        self._unsynced_bytes = 0
        self._values = ValueLog(directory, segment_bytes, page_cache_bytes)
        self._lock = threading.Lock()
        self.take_stock(synced)

    def take_stock(self, synced: LogPoint | None = None) -> None:
        """Read the accounts from the rows; nobody else may use this meanwhile."""
        self._values.seal()
        found = recover(self._rows, self._values, synced)
        self.torn: Mapping[PartitionUid, Offset] = found.torn
        """The first batch of each log whose bytes were not synced, and are not there."""
        self.is_missing = found.is_missing
        """Whether bytes that were synced are gone."""
        self._values.skip_to(found.next_number)
        self._segments = Segments(found.segments, found.unsaved)
        self._released = {
            PartitionUid(number_of(key)): unpack_offset(value)
            for key, value in self._rows.scan(*kind_range(Kind.RELEASED))
        }
        self._reclaimer = Reclaimer(
            self._rows, self._values, self._segments, self._released, self._lock
        )

    def save_accounts(self) -> None:
        """Write the accounts that an opening had to count, so that no other has to."""
        with self._lock:
            rows = self._segments.rows()
            if rows:
                self._rows.change({segment_key(n): row.pack() for n, row in rows.items()})
                self._segments.changed()

    @property
    def end(self) -> LogPoint:
        """Up to where a `sync` that begins now would reach."""
        with self._lock:  # not in the middle of an append that may be taken back
            return self._values.end

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of the value log, garbage included."""
        with self._lock:
            return self._segments.size_bytes

    @property
    def has_garbage(self) -> bool:
        """Whether `reclaim` might free something."""
        return self._reclaimer.has_work

    @property
    def inline_garbage_bytes(self) -> int:
        """Removed batches that lay among the rows, since this was last set to 0."""
        return self._reclaimer.inline_garbage_bytes

    @inline_garbage_bytes.setter
    def inline_garbage_bytes(self, count: int) -> None:
        self._reclaimer.inline_garbage_bytes = count

    def sync(self) -> None:
        """Wait until all values appended before this call are on disk. Releases the GIL."""
        self._unsynced_bytes = 0
        self._values.sync()

    def place_inline(self, mutation: BatchChanges) -> bool:
        """Put a mutation's batches among the rows, if all belong there; else `placing` is next.

        Raises:
            ThrottledError: These offsets were released, and not all of their batches are gone yet.
        """
        if self._released:
            for uid, offset, _ in mutation.batches:
                if offset < self._released.get(uid, offset):
                    self._finish_release(uid)
        self._unsynced_bytes += mutation.batch_bytes
        if mutation.removed or mutation.released:
            return False
        inline_until_bytes = self._inline_until_bytes(self._unsynced_bytes)
        for _, _, batch in mutation.batches:
            if len(batch) >= inline_until_bytes:
                return False
        for uid, offset, batch in mutation.batches:
            mutation.put(batch_key(uid, offset), batch)
        return True

    @contextmanager
    def placing(self, mutation: BatchChanges) -> Iterator[None]:
        """Find places for a mutation's batches; within, write it.

        Raises:
            OSError: The value log could not take them; the mutation must not be written.
        """
        inline_until_bytes = self._inline_until_bytes(self._unsynced_bytes)
        with self._lock:
            freed = self._remove(mutation)
            releases = self._release(mutation)
            written: list[Place] = []
            try:
                self._append(mutation, inline_until_bytes, written)
                for number, segment in self._segments.rows(written, freed).items():
                    mutation.put(segment_key(number), segment.pack())
                yield
            except (OSError, ThrottledError):  # nothing refers to them, nor ever did
                for place in reversed(written):
                    self._values.undo(place)
                raise
            self._segments.changed(written, freed)
            self._released |= releases

    def read(
        self, uid: PartitionUid, offset: Offset, end_offset: Offset, bytes_max: int
    ) -> list[bytes]:
        """Return batches from the one with base offset `offset`, or the next after it.

        Args:
            end_offset: Batches that start at or after it are left out.
            bytes_max: Enough; the first batch is returned however large.

        Raises:
            CorruptMessageError: A batch is damaged or lost.
        """
        wanted: list[tuple[bytes, bytes]] = []
        with closing(
            self._rows.iterate(*offset_range(Kind.BATCH, uid, offset, end_offset))
        ) as rows:
            for key, value in rows:
                bytes_max -= _size_bytes(value)
                if bytes_max < 0 and wanted:
                    break
                wanted.append((key, value))
        found: list[bytes] = []
        for key, value in wanted:
            batch = self._lookup(key, value)
            if batch is None:
                break  # removed meanwhile
            found.append(batch)
        return found

    def reclaim(self, garbage_min: float) -> int:
        """Take one step, see `Reclaimer.step`; returns the bytes copied."""
        return self._reclaimer.step(garbage_min, self._segment_bytes)

    def close(self) -> None:
        """Let go of all files; syncs nothing."""
        self._values.close()

    def _lookup(self, key: bytes, reference: bytes | None) -> bytes | None:
        """Return what a reference stands for; None when it was removed meanwhile."""
        for _ in range(_LOOKUPS_MAX):
            if reference is None or len(reference) != REFERENCE_BYTES:
                return reference
            place = Place.unpack(reference)
            try:
                return self._values.read(place)
            except FileNotFoundError:  # moved, removed, or lost
                before, reference = reference, self._rows.get(key)
                if reference == before:
                    break
        raise CorruptMessageError(
            f"partition uid {number_of(key)}, offset {offset_of(key)}: segment {place.segment} of "
            "the value log is gone",
            field="segment",
            value=place.segment,
        )

    def _finish_release(self, uid: PartitionUid) -> None:
        """Remove what is left of a partition that comes back, or some of it."""
        with self._lock:
            if uid in self._released and not self._reclaimer.sweep(uid):
                raise ThrottledError("the partition's former batches are being removed")

    def _append(
        self, mutation: BatchChanges, inline_until_bytes: int, written: list[Place]
    ) -> None:
        for uid, offset, batch in mutation.batches:
            if len(batch) < inline_until_bytes:
                mutation.put(batch_key(uid, offset), batch)
                continue
            place = self._values.append(batch)
            written.append(place)
            if place.segment != self._segments.active:
                self._segments.activate(place.segment)
            mutation.put(batch_key(uid, offset), place.pack())
            mutation.put(place_key(*place.point), pack_batch_id(uid, offset))

    def _inline_until_bytes(self, unsynced_bytes: int) -> int:
        """Return from which size on a batch's second copy costs more than the value log's fsync."""
        if unsynced_bytes <= self._inline_bytes_max:  # each of the commit's batches is smaller
            return self._inline_bytes_max + 1
        return self._value_bytes_min

    def _remove(self, mutation: BatchChanges) -> Counter[int]:
        """Count what the mutation removes at once."""
        freed: Counter[int] = Counter()
        for uid, begin, end in mutation.removed:
            for _, value in self._rows.scan(*offset_range(Kind.BATCH, uid, begin, end)):
                if len(value) == REFERENCE_BYTES:
                    place = Place.unpack(value)
                    freed[place.segment] += place.size_bytes
        return freed

    def _release(self, mutation: BatchChanges) -> dict[PartitionUid, Offset]:
        """Note what the mutation releases; offsets it frees for use again are no longer."""
        releases: dict[PartitionUid, Offset] = {}
        for uid, end in mutation.released:
            releases[uid] = max(end, releases.get(uid, self._released.get(uid, end)))
        for uid, begin, removed_end in mutation.removed:
            end = releases.get(uid, self._released.get(uid, begin))
            if end > begin and (removed_end is None or removed_end >= end):
                releases[uid] = begin
        for uid, end in releases.items():
            mutation.put(released_key(uid), pack_offset(end))
        return releases


def _size_bytes(value: bytes) -> int:
    """Return the size of the batch that a row holds or stands for."""
    return Place.unpack(value).size_bytes if len(value) == REFERENCE_BYTES else len(value)

"""Giving back the room of batches that were removed.

Problem: removing a partition, or its oldest batches, must be one small mutation on the loop, and
yet each removed byte has to be counted against its segment. Idea: such a removal only notes "below
this offset, released"; a thread walks the released references, a hundred at a time, and removes
each with its count in one mutation. A segment that holds nothing live any more is unlinked, once
that is on disk; one that is mostly garbage is rewritten: its live values are copied to another
segment and synced, then each reference is exchanged, if it still is the one that was copied.

Each `step` is short and does a bounded amount of work; whoever calls it decides how often.

Invariants: the counts and the references they count change together; bytes are on disk before a
reference leads to them, and nothing leads to a segment, on disk either, when it is unlinked.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from odradek.node.storage.keys import (
    Kind,
    batch_key,
    offset_range,
    pack_batch_id,
    place_key,
    released_key,
    segment_key,
)
from odradek.node.storage.segments import REFERENCE_BYTES, Place, Segments
from odradek.node.storage.value_log import SegmentFile, ValueLog
from odradek.node.storage.value_recovery import LivePlace, Rows, live_places
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionUid

_ROWS_AT_ONCE: Final = 128  # the loop may have to wait for so many
_SWEEPS_PER_STEP: Final = 256


class MutableRows(Rows, Protocol):
    """What is asked of the store."""

    def change(
        self, put: Mapping[bytes, bytes], remove: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Remove ranges of keys, then put values, in one mutation."""

    def sync(self) -> None:
        """Wait until everything written before is on disk."""


class Reclaimer:
    """Sweeps, unlinks and rewrites; one thread at a time.

    Args:
        rows: The store.
        values: The value log.
        segments: The accounts.
        released: By partition, the offset below which batches are released.
        lock: Held while references and accounts change, here and by the store's writes.
    """

    def __init__(
        self,
        rows: MutableRows,
        values: ValueLog,
        segments: Segments,
        released: dict[PartitionUid, Offset],
        lock: threading.Lock,
    ) -> None:
        self._rows = rows
        self._values = values
        self._segments = segments
        self._released = released
        self._lock = lock
        self._damaged: set[int] = set()
        self._target: SegmentFile | None = None
        self.inline_garbage_bytes = 0
        """Removed batches that lay in the store itself, since this was last set to 0."""

    @property
    def has_work(self) -> bool:
        """Whether a step might free something."""
        return bool(self._released) or self._segments.has_garbage

    def step(self, garbage_min: float, target_bytes: int) -> int:
        """Do some of what there is to do.

        Args:
            garbage_min: A segment with a smaller share of garbage is not worth rewriting, 0 to 1.
            target_bytes: Copies go to another segment beyond this.

        Returns:
            Bytes copied: the caller waits accordingly.

        Raises:
            OSError, StorageFullError, ThrottledError: This much is done; call again later.
        """
        for _ in range(_SWEEPS_PER_STEP):
            with self._lock:
                uid = next(iter(self._released), None)
                if uid is None:
                    break
                self.sweep(uid)
        self._unlink_empty()
        with self._lock:
            number = self._segments.to_rewrite(garbage_min, self._damaged)
            if number is None and not self._released:
                self._segments.settled()
        if number is None:
            return 0
        copied_bytes = self._rewrite(number, target_bytes)
        self._unlink_empty()
        return copied_bytes

    def sweep(self, uid: PartitionUid) -> bool:
        """Remove some released batches of a partition, the lock being held.

        Returns:
            Whether all are gone.

        Raises:
            ThrottledError, StorageFullError: None was removed; call again later.
        """
        found = self._rows.scan(
            *offset_range(Kind.BATCH, uid, FIRST_OFFSET, self._released[uid]), _ROWS_AT_ONCE
        )
        released: Counter[int] = Counter()
        inline_bytes = 0
        for _, value in found:
            if len(value) == REFERENCE_BYTES:
                place = Place.unpack(value)
                released[place.segment] += place.size_bytes
            else:
                inline_bytes += len(value)
        is_done = len(found) < _ROWS_AT_ONCE
        remove = [(found[0][0], found[-1][0] + b"\0")] if found else []
        if is_done:
            remove.append((released_key(uid), released_key(uid) + b"\0"))
        self._change({}, remove, (), released)
        self.inline_garbage_bytes += inline_bytes
        if is_done:
            del self._released[uid]
        return is_done

    def _unlink_empty(self) -> None:
        target = self._target.number if self._target else None
        with self._lock:
            numbers = [number for number in self._segments.empty() if number != target]
        if not numbers:
            return
        self._rows.sync()
        for number in numbers:
            self._values.unlink(number)
            with self._lock:
                self._segments.removed(number)
                key = segment_key(number)
                places = place_key(number, 0), place_key(number + 1, 0)
                self._rows.change({}, [places, (key, key + b"\0")])

    def _rewrite(self, number: int, target_bytes: int) -> int:
        """Move what lives in a segment; returns its bytes."""
        with self._lock:
            if self._target is not None and self._target.number == number:
                self._target = None
            if self._segments.active == number:
                self._values.seal()
                self._segments.seal()
                self._change({})
        moved: list[tuple[LivePlace, Place]] = []
        for live in live_places(self._rows, number):
            try:
                value = self._values.read(live[2])
            except (CorruptMessageError, FileNotFoundError):
                self._damaged.add(number)  # stays where it is: a reader will say so
                continue
            moved.append((live, self._room_for(value, target_bytes).append(value)))
        if self._target is not None:
            self._target.sync()
            self._values.sync_directory()
        for at in range(0, len(moved), _ROWS_AT_ONCE):
            with self._lock:
                self._exchange(moved[at : at + _ROWS_AT_ONCE])
        return sum(place.size_bytes for _, place in moved)

    def _room_for(self, value: bytes, target_bytes: int) -> SegmentFile:
        target = self._target
        if target is not None and target.end + len(value) > target_bytes:
            target.sync()
            target = None
        if target is None:
            target = self._target = self._values.create()
            with self._lock:
                self._segments.add_durable(target.number)
        return target

    def _exchange(self, moved: list[tuple[LivePlace, Place]]) -> None:
        put: dict[bytes, bytes] = {}
        written: list[Place] = []
        released: Counter[int] = Counter()
        for (uid, offset, old), new in moved:
            key = batch_key(uid, offset)
            if self._rows.get(key) == old.pack():
                put[key] = new.pack()
                put[place_key(*new.point)] = pack_batch_id(uid, offset)
                written.append(new)
                released[old.segment] += old.size_bytes
        self._change(put, (), written, released)

    def _change(
        self,
        put: dict[bytes, bytes],
        remove: Iterable[tuple[bytes, bytes]] = (),
        written: Iterable[Place] = (),
        released: Mapping[int, int] | None = None,
    ) -> None:
        for number, segment in self._segments.rows(written, released).items():
            put[segment_key(number)] = segment.pack()
        self._rows.change(put, remove)
        self._segments.changed(written, released)

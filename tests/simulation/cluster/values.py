"""The value log of a simulated disk: bytes that lie apart from what the store says of them.

A node writes the bytes of large batches to segments, and references to them into the store's log;
until a sync has covered both, nothing orders them on their way to the disk. So a power cut leaves
bytes without their reference, which nobody misses, and references without their bytes, or with a
part of them, or without the file: torn writes. What an opening makes of them is production code.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from random import Random
from typing import NamedTuple

from odradek.node.storage.keys import batch_key, pack_batch_id, place_key
from odradek.node.storage.segments import LOG_BEGIN, LogPoint, Place
from odradek.node.storage.value_recovery import LivePlace, recover
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import Offset, PartitionUid

_SEGMENT_BYTES = 800


class Written(NamedTuple):
    """Where a batch is on disk.

    Attributes:
        position: In the store's log.
        place: Of its bytes in the value log; None: they are in the store's log as well.
    """

    position: int
    place: Place | None


class SimulatedValues:
    """What `ValueLog` is to a node."""

    def __init__(self, chance: Random) -> None:
        self.end = LogPoint(1, 0)
        self.marked = LOG_BEGIN
        """All before it is known to be synced, by the durable mark."""
        self._chance = chance
        self._sizes: dict[int, int] = {}
        self._torn: set[LogPoint] = set()

    def write(self, batch: BatchHeader) -> Place | None:
        """Write a batch's bytes, if they are not to go into the store's log."""
        if self._chance.random() < 0.25:
            return None
        segment, position = self.end
        if position >= _SEGMENT_BYTES:
            segment, position = segment + 1, 0
        place = Place(segment, position, batch.size_bytes, batch.crc)
        self.end = LogPoint(segment, position + place.size_bytes)
        self._sizes[segment] = self.end.position
        return place

    def on_synced(self, end: LogPoint) -> None:
        """All before a point is on disk; now and then the durable mark says so."""
        if self._chance.random() < 0.3:
            self.marked = max(end, self.marked)

    def on_power_cut(self, unsynced: list[Place], synced_end: LogPoint) -> None:
        """Leave of what was not synced all, all but the last, or any part; of new files any."""
        how = self._chance.choice(["all", "last", "any"])
        for number in [each for each in self._sizes if each > synced_end.segment]:
            if how == "any" and self._chance.random() < 0.3:
                del self._sizes[number]
        for place in unsynced:
            is_gone = place.segment not in self._sizes
            if is_gone or (how == "any" and self._chance.random() < 0.5):
                self._torn.add(place.point)
        if how == "last" and unsynced:
            self._torn.add(unsynced[-1].point)

    def is_torn(self, place: Place | None) -> bool:
        """Whether bytes are not what was written."""
        return place is not None and place.point in self._torn

    def recover(self, live: Iterable[LivePlace]) -> Mapping[PartitionUid, Offset]:
        """Take stock as an opening does; return the first torn batch of each log."""
        found = recover(_References(live), self, self.marked)
        assert not found.is_missing, "what was synced is there"
        self.end = self.marked = LogPoint(found.next_number, 0)
        self._torn.clear()
        return found.torn

    # What recovery asks

    def sizes_on_disk(self) -> dict[int, int]:
        """Return the size of each segment that may have been appended to since the mark."""
        return {
            number: size for number, size in self._sizes.items() if number >= self.marked.segment
        }

    def sync_files(self, numbers: Iterable[int]) -> None:
        """Do nothing: what is there after a power cut stays."""

    def read(self, place: Place) -> bytes:
        """Return nothing in particular, if it is there.

        Raises:
            FileNotFoundError, CorruptMessageError: As from a `ValueLog`.
        """
        if place.segment not in self._sizes:
            raise FileNotFoundError
        if self.is_torn(place):
            raise CorruptMessageError("torn")
        return b""


class _References:
    """The rows of the store that lead to values."""

    def __init__(self, live: Iterable[LivePlace]) -> None:
        self._rows: dict[bytes, bytes] = {}
        for uid, offset, place in live:
            self._rows[batch_key(uid, offset)] = place.pack()
            self._rows[place_key(*place.point)] = pack_batch_id(uid, offset)
        self._keys = sorted(self._rows)

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(
        self, begin: bytes, end: bytes, count_max: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        keys = self._keys[bisect_left(self._keys, begin) : bisect_left(self._keys, end)]
        return [(key, self._rows[key]) for key in keys[:count_max]]

"""What an opening finds of the value log: its accounts, torn values, missing ones.

Problem: after a power cut a reference may be there and its bytes not, or torn, or those of a
segment's earlier life. Idea: the durable mark tells up to where the value log was synced; only
values behind that point can be torn, some hundred megabytes at most, and each reference carries the
CRC of its bytes. The places behind the point are listed by the store's rows, checked, and the first
torn one of each log is reported: the log is cut there. Before the point nothing is checked and
nothing is ever cut: what does not hold there has rotted or was lost, which a reader finds by CRC.

Invariant: what this reports as torn was never reported as durable.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from odradek.node.storage.keys import (
    Kind,
    batch_key,
    kind_range,
    number_of,
    place_key,
    unpack_batch_id,
)
from odradek.node.storage.segments import REFERENCE_BYTES, LogPoint, Place, Segment
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.types import Offset, PartitionUid

LivePlace: TypeAlias = tuple[PartitionUid, Offset, Place]


class Rows(Protocol):
    """What is asked of the store."""

    def get(self, key: bytes) -> bytes | None:
        """Return a value."""

    def scan(
        self, begin: bytes, end: bytes, count_max: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the values with keys in [begin, end), in order."""


class Values(Protocol):
    """What is asked of the value log."""

    def sizes_on_disk(self) -> Mapping[int, int]:
        """Return number and size of each segment."""

    def sync_files(self, numbers: Iterable[int]) -> None:
        """Wait until segments are on disk."""

    def read(self, place: Place) -> bytes:
        """Return a value, or raise FileNotFoundError or CorruptMessageError."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found.

    Attributes:
        segments: The account of each segment, also of one whose file is missing.
        unsaved: Those that have no row yet.
        torn: The first batch of each log whose bytes did not reach the disk.
        is_missing: Segments that were once synced are gone, or their ends are.
        next_number: No segment was ever called this, or higher.
    """

    segments: Mapping[int, Segment]
    unsaved: Collection[int]
    torn: Mapping[PartitionUid, Offset]
    is_missing: bool
    next_number: int


def recover(rows: Rows, values: Values, synced: LogPoint | None) -> Recovered:
    """Take stock of the value log; syncs what a process before may have left unsynced.

    Args:
        rows: The store, as it was opened.
        values: The log, before anything is appended.
        synced: Everything before it was on disk; None when nobody knows: nothing counts as torn.
    """
    sizes = values.sizes_on_disk()
    begin = synced.segment if synced else 0
    saved = {
        number_of(key): Segment.unpack(row) for key, row in rows.scan(*kind_range(Kind.SEGMENT))
    }
    unsaved = (sizes.keys() | _numbers_with_places(rows, begin)) - saved.keys()
    values.sync_files(number for number in sizes if number >= begin)
    is_missing = any(
        saved[number].live_bytes and (number < begin or saved[number].is_durable)
        for number in saved.keys() - sizes.keys()
    )
    torn: dict[PartitionUid, Offset] = {}
    if synced is not None:
        for number in sorted(saved.keys() | unsaved):
            if number >= begin and not (number in saved and saved[number].is_durable):
                places = live_places(rows, number)
                is_missing |= _is_short(places, sizes.get(number, 0), synced)
                _find_torn(values, places, synced, torn)
    segments = dict(saved)
    for number in unsaved:
        live_bytes = sum(place.size_bytes for _, _, place in live_places(rows, number))
        segments[number] = Segment(sizes.get(number, 0), live_bytes)
    next_number = 1 + max({begin, *sizes, *saved, *unsaved})
    return Recovered(segments, unsaved, torn, is_missing, next_number)


def live_places(rows: Rows, number: int) -> list[LivePlace]:
    """Return the batches that lie in a segment, in their order there."""
    found = []
    for key, value in rows.scan(place_key(number, 0), place_key(number + 1, 0)):
        uid, offset = unpack_batch_id(value)
        reference = rows.get(batch_key(uid, offset))
        if reference is None or len(reference) != REFERENCE_BYTES:
            continue
        place = Place.unpack(reference)
        if place_key(*place.point) == key:
            found.append((uid, offset, place))
    return found


def _is_short(places: list[LivePlace], size_bytes: int, synced: LogPoint) -> bool:
    """Tell whether a file lacks bytes that were synced."""
    return any(
        place.point < synced and place.position + place.size_bytes > size_bytes
        for _, _, place in places
    )


def _find_torn(
    values: Values,
    places: list[LivePlace],
    synced: LogPoint,
    torn: dict[PartitionUid, Offset],
) -> None:
    for uid, offset, place in places:
        if place.point < synced or (uid in torn and torn[uid] <= offset):
            continue
        try:
            values.read(place)
        except (FileNotFoundError, CorruptMessageError):
            torn[uid] = offset


def _numbers_with_places(rows: Rows, begin: int) -> set[int]:
    """Return the segments that places are known of, one seek each."""
    numbers = set()
    while found := rows.scan(place_key(begin, 0), kind_range(Kind.PLACE)[1], 1):
        begin = number_of(found[0][0])
        numbers.add(begin)
        begin += 1
    return numbers

"""Which segment of the value log holds how many live bytes, and which is worth rewriting. Pure.

Problem: batches of all partitions lie side by side in the segments; deleting some of them leaves
holes that no file system sees. Idea: per segment two numbers, the bytes it has and the bytes that
are still referenced. Every change of a reference changes them in the same atomic mutation (a row
per segment), so that they are exact at any moment and after any crash, without ever counting again.
A segment without live bytes is unlinked; one that is mostly garbage is rewritten, which costs at
most as many bytes as it frees.

Only the segment being appended to has no row: an opening counts it afresh, at most once.

Invariants: a segment's live bytes are the sum over the references into it; a number names one
segment for ever.
"""

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

_PLACE = struct.Struct(">QIII")
_ROW = struct.Struct(">QQ?")
REFERENCE_BYTES = _PLACE.size
"""What stands in the store for a value; shorter than any batch, so that the length tells."""

_SIZE_MIN_BYTES = 1 << 20  # rewriting less frees next to nothing


class LogPoint(NamedTuple):
    """A point of the value log: everything before it, in segments and positions."""

    segment: int
    position: int


LOG_BEGIN: Final = LogPoint(0, 0)


class Place(NamedTuple):
    """Where a value lies.

    Attributes:
        segment: Number of the segment.
        position: First byte in it.
        size_bytes: Length of the value.
        crc: CRC-32C of all its bytes: tells it from whatever a crash left there.
    """

    segment: int
    position: int
    size_bytes: int
    crc: int

    @property
    def point(self) -> LogPoint:
        """Where it begins."""
        return LogPoint(self.segment, self.position)

    def pack(self) -> bytes:
        """Return the reference that stands for the value."""
        return _PLACE.pack(*self)

    @classmethod
    def unpack(cls, reference: bytes) -> Self:
        """Read what `pack` wrote."""
        return cls(*_PLACE.unpack(reference))


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment's account.

    Attributes:
        size_bytes: Values written to it.
        live_bytes: Of these, what references lead to.
        is_durable: Its values were on disk before anything referred to them.
    """

    size_bytes: int = 0
    live_bytes: int = 0
    is_durable: bool = False

    @property
    def garbage_bytes(self) -> int:
        """What a rewriting would free."""
        return max(self.size_bytes - self.live_bytes, 0)

    def pack(self) -> bytes:
        """Return the segment's row."""
        return _ROW.pack(self.size_bytes, self.live_bytes, self.is_durable)

    @classmethod
    def unpack(cls, row: bytes) -> Self:
        """Read what `pack` wrote."""
        return cls(*_ROW.unpack(row))


class Segments:
    """The accounts of all segments.

    Changes come in two steps, around the mutation that makes them last: `rows` says what the
    mutation must put, `changed` takes note once it was written.

    Args:
        segments: What an opening found; none of them is appended to again.
        unsaved: Those of them that have no row yet.
    """

    def __init__(
        self, segments: Mapping[int, Segment], unsaved: Collection[int] = frozenset()
    ) -> None:
        self._segments = dict(segments)
        self._unsaved = set(unsaved)  # sealed, and their row not yet written
        self.active: int | None = None
        """The segment that is appended to; it has no row."""
        self._holed = {
            number
            for number, segment in segments.items()
            if segment.garbage_bytes or segment.live_bytes == 0
        }
        self.has_garbage = bool(self._holed)
        """Something was released since `settled`: `empty` or `to_rewrite` may have an answer."""

    def __getitem__(self, number: int) -> Segment:
        return self._segments[number]

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments, garbage included."""
        return sum(segment.size_bytes for segment in self._segments.values())

    def activate(self, number: int) -> None:
        """Begin a segment, sealing the one before."""
        assert number not in self._segments, "a number names one segment for ever"
        self.seal()
        self._segments[number] = Segment()
        self.active = number

    def seal(self) -> None:
        """Append no more to the active segment; the next mutation puts its row."""
        if self.active is not None:
            self._unsaved.add(self.active)
            self.active = None

    def add_durable(self, number: int) -> None:
        """Begin a segment whose values are synced before they are referred to."""
        assert number not in self._segments, "a number names one segment for ever"
        self._segments[number] = Segment(is_durable=True)
        self._holed.add(number)  # nothing live yet, and perhaps never

    def rows(
        self, written: Iterable[Place] = (), released: Mapping[int, int] | None = None
    ) -> dict[int, Segment]:
        """Return the rows a mutation must put.

        Args:
            written: The values it refers to for the first time.
            released: Bytes it refers to no longer, by segment.
        """
        rows = self._after(written, released or {})
        for number in self._unsaved - rows.keys():
            rows[number] = self._segments[number]
        if self.active is not None:
            rows.pop(self.active, None)
        return rows

    def changed(
        self, written: Iterable[Place] = (), released: Mapping[int, int] | None = None
    ) -> None:
        """Note that the mutation of `rows`, asked with the same arguments, was written."""
        self._segments |= self._after(written, released or {})
        self._unsaved.clear()
        if released:
            self._holed |= released.keys()
            self.has_garbage = True

    def removed(self, number: int) -> None:
        """Note that a segment is gone."""
        assert self._segments[number].live_bytes == 0, "nothing live is ever removed"
        del self._segments[number]
        self._unsaved.discard(number)
        self._holed.discard(number)

    def settled(self) -> None:
        """Note that whatever there was to do has been done."""
        self.has_garbage = False

    def empty(self) -> list[int]:
        """Return the segments without a live byte, but for the active one."""
        return [
            number
            for number in self._holed
            if self._segments[number].live_bytes == 0 and number != self.active
        ]

    def to_rewrite(self, garbage_min: float, excluded: Collection[int] = ()) -> int | None:
        """Return the segment with the largest share of garbage.

        Args:
            garbage_min: At least this share, 0 to 1.
            excluded: Segments that cannot be rewritten.
        """
        worst, worst_share = None, garbage_min
        for number in self._holed.difference(excluded):
            segment = self._segments[number]
            if segment.size_bytes < _SIZE_MIN_BYTES:
                continue
            share = segment.garbage_bytes / segment.size_bytes
            if share >= worst_share and share > 0:
                worst, worst_share = number, share
        return worst

    def _after(self, written: Iterable[Place], released: Mapping[int, int]) -> dict[int, Segment]:
        after: dict[int, Segment] = {}
        for place in written:
            old = after.get(place.segment) or self._segments[place.segment]
            after[place.segment] = Segment(
                max(old.size_bytes, place.position + place.size_bytes),
                old.live_bytes + place.size_bytes,
                old.is_durable,
            )
        for number, freed_bytes in released.items():
            old = after.get(number) or self._segments[number]
            assert old.live_bytes >= freed_bytes, "released twice"
            after[number] = Segment(old.size_bytes, old.live_bytes - freed_bytes, old.is_durable)
        return after

"""Which bytes of the value log the kernel keeps in memory: the newest. Pure.

Problem: the kernel keeps every page that was written for as long as there is memory, though most
are never read again, and takes an unused page for each new one. On a virtual machine whose host
takes unused memory back, such a page costs several times the copy into it; in a container it counts
towards the limit. Idea: a window over the log's end. What leaves it is dropped from the page cache,
and its pages take what comes next.

Invariants: only what is synced leaves, so that nothing is forgotten; it leaves once, in pieces that
begin at multiples of `STEP_BYTES` and end there or where their segment ends: a page, or the
kernel's run of pages, across a border would stay.
"""

from collections import deque
from typing import Final, NamedTuple

from odradek.node.storage.segments import LogPoint

STEP_BYTES: Final = 1 << 20


class Extent(NamedTuple):
    """Bytes of one segment, from `begin` to `end`."""

    segment: int
    begin: int
    end: int


class PageWindow:
    """The newest bytes of a value log.

    Args:
        bytes_max: How many; a step more is held before anything leaves.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: deque[Extent] = deque()
        self._held_bytes = 0

    def on_synced(self, end: LogPoint) -> list[Extent]:
        """A segment is on disk up to a point; return what leaves the window for that."""
        held = self._held
        last = held.pop() if held and held[-1].segment == end.segment else Extent(end.segment, 0, 0)
        grown = last._replace(end=max(last.end, end.position))
        held.append(grown)
        self._held_bytes += grown.end - last.end
        leaving = []
        while leaver := self._leaver():
            leaving.append(leaver)
            self._held_bytes -= leaver.end - leaver.begin
        return leaving

    def _leaver(self) -> Extent | None:
        excess_bytes = self._held_bytes - self._bytes_max
        first = self._held[0]
        if len(self._held) > 1 and first.end - first.begin <= excess_bytes:
            return self._held.popleft()
        cut = first.begin + excess_bytes // STEP_BYTES * STEP_BYTES
        if cut <= first.begin:
            return None
        self._held[0] = first._replace(begin=cut)
        return first._replace(end=cut)

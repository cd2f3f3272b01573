"""Frames on their way over one stream: numbered, and bounded in bytes. Pure.

Invariant: frames are acknowledged in order; what is sent and not acknowledged exceeds the bound by
one frame at most.
"""

from collections import deque


class Lane:
    """One stream of pushes.

    Args:
        bytes_max: Unacknowledged; beyond, `has_room` is false.
    """

    __slots__ = ("_bytes_max", "_under_way", "number", "unacked_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._under_way: deque[tuple[int, int]] = deque()
        self.number = 0
        """Of the last frame sent."""
        self.unacked_bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether another frame may be sent now."""
        return self.unacked_bytes < self._bytes_max

    def on_sent(self, size_bytes: int) -> None:
        """The next frame leaves."""
        self.number += 1
        self._under_way.append((self.number, size_bytes))
        self.unacked_bytes += size_bytes

    def on_acked(self, number: int) -> None:
        """The other side is done with every frame up to a number."""
        under_way = self._under_way
        while under_way and under_way[0][0] <= number:
            self.unacked_bytes -= under_way.popleft()[1]


class Received:
    """What the other side of a lane remembers: which frames are done with.

    Invariant: a frame counts as done once everything that came with it and before is on disk.
    """

    __slots__ = ("_under_way", "done")

    def __init__(self) -> None:
        self._under_way: deque[tuple[int, int]] = deque()
        self.done = 0
        """The last frame that is."""

    def on_received(self, number: int, position: int) -> None:
        """A frame came; what it brought is on disk once a sync reaches the position."""
        self._under_way.append((position, number))

    def on_synced(self, durable_position: int) -> bool:
        """A sync reached a position; return whether that finished a frame."""
        under_way = self._under_way
        before = self.done
        while under_way and under_way[0][0] <= durable_position:
            self.done = under_way.popleft()[1]
        return self.done > before

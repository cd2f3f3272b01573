"""How much of a log is on disk, when syncs are numbered by position and logs by offset. Pure.

Invariants: `end` is on disk; it never passes the log's end; after a cut, nothing that was appended
before counts beyond the cut.
"""

from collections import deque

from odradek.protocol.types import Offset


class DurableEnd:
    """One log's appends and cuts on their way to the disk."""

    __slots__ = ("_is_lost", "_unsynced", "end")

    def __init__(self, end: Offset) -> None:
        self.end = end
        self._is_lost = False
        self._unsynced: deque[tuple[int, Offset]] = deque()

    @property
    def awaits_sync(self) -> bool:
        """Whether a sync would bring `end` forward."""
        return bool(self._unsynced)

    @property
    def is_settled(self) -> bool:
        """Whether all of the log is on disk."""
        return not self._unsynced and not self._is_lost

    def begin_role(self, position: int, end: Offset) -> bool:
        """The log ends here; what a full disk's store lost when it was reopened does not count.

        Returns:
            Whether it had lost something: a sync is to say anew what is on disk.
        """
        if self.end > end or any(noted > end for _, noted in self._unsynced):
            self.on_truncated(position, end)
            return True
        if self.is_settled:
            self.end = end
        return False

    def on_appended(self, position: int, end: Offset) -> None:
        """The log ends further; that is on disk once a sync reaches the position."""
        if not self._is_lost:
            self._unsynced.append((position, end))

    def on_truncated(self, position: int, end: Offset) -> None:
        """The log ends here now; what was appended beyond never was."""
        self._unsynced.clear()
        self._unsynced.append((position, end))
        self.end = min(self.end, end)

    def on_synced(self, durable_position: int) -> bool:
        """A sync reached a position; return whether something of this log was waiting for it."""
        unsynced = self._unsynced
        reached = False
        while unsynced and unsynced[0][0] <= durable_position:
            self.end = max(self.end, unsynced.popleft()[1])
            reached = True
        return reached

    def on_storage_failed(self) -> None:
        """What awaits a sync may never be on disk; nobody knows before the store is back."""
        self._unsynced.clear()
        self._is_lost = True

    def on_storage_recovered(self, position: int, end: Offset) -> bool:
        """The log ends here; that is on disk once a sync reaches the position.

        Returns:
            Whether the store had failed.
        """
        if not self._is_lost:
            return False
        self._is_lost = False
        self.on_truncated(position, end)
        return True

    def take(self, end: Offset) -> None:
        """Count everything below as safe, for `flush=os` or a log just opened."""
        self.end = max(self.end, end)

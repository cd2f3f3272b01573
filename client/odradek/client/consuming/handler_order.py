"""Which record may be handled when, and up to where everything is handled. Pure.

Problem: handlers run concurrently and end in any order, yet records of one key (or partition) must
be handled one after the other, and an offset may be committed only when all before it are done.
Idea: a *line* per key holds the records that wait for the one being handled; a *ledger* per
partition holds what is not done, in offset order.

Invariants: at most one record of a line is being handled, and they are handled in offset order; the
ledger's frontier never passes a record that is not done.
"""

import enum
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from odradek.protocol.types import Offset

T = TypeVar("T")


class OrderedBy(enum.Enum):
    """What is handled in order."""

    PARTITION = "partition"
    """Records of a partition, one after the other."""
    KEY = "key"
    """Records of a key, one after the other; those without a key in any order."""
    NOTHING = "nothing"


class Lines(Generic[T]):
    """Records waiting for their predecessors."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}

    def join(self, line: Hashable | None, work: T) -> bool:
        """Add work; True when it may start now. Without a line it always may."""
        if line is None:
            return True
        queue = self._waiting.get(line)
        if queue is None:
            self._waiting[line] = deque()
            return True
        queue.append(work)
        return False

    def leave(self, line: Hashable | None) -> T | None:
        """The work being handled in a line is done; return its successor, which may start now."""
        if line is None:
            return None
        queue = self._waiting[line]
        if queue:
            return queue.popleft()
        del self._waiting[line]
        return None


@dataclass(slots=True)
class _Entry:
    end: Offset
    done: bool = False


@dataclass(slots=True)
class Ledger:
    """What is not done yet in one partition."""

    _entries: deque[_Entry] = field(default_factory=deque)
    _by_offset: dict[int, _Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, offset: int, end: Offset) -> None:
        """Add a record, in offset order; `end` is where the partition stands after it."""
        assert not self._entries or self._entries[-1].end <= offset, "in offset order"
        entry = self._by_offset[offset] = _Entry(end)
        self._entries.append(entry)

    def done(self, offset: int) -> Offset | None:
        """Mark a record; return the new frontier, or None when it did not move."""
        self._by_offset.pop(offset).done = True
        frontier: Offset | None = None
        while self._entries and self._entries[0].done:
            frontier = self._entries.popleft().end
        return frontier

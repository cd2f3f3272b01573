"""What a coordinator has yet to tell the controller. Pure.

Problem: ten consumers that start together should cost one rebalance, not ten, while a leave or a
confirmation should not wait. Idea: a change comes with the time it is due; when any change of a
group is due, all of them go, in order, for the controller turns one command into one epoch.

Invariants: the changes of one group leave in the order they came; a command is within its bound.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from odradek.node.coordination.model import Change, Deleted, Joined, Left, Owns
from odradek.protocol.types import GroupId

COMMAND_BYTES_MAX = 256 << 10
"""Half of what the controllers' log takes in one command; sizes here are estimates from above."""


@dataclass(slots=True)
class Outbox:
    """Changes by group."""

    _changes: dict[GroupId, deque[Change]] = field(default_factory=dict)
    _due_s: dict[GroupId, float] = field(default_factory=dict)

    def add(self, group: GroupId, change: Change, due_s: float) -> None:
        """Queue a change."""
        self._changes.setdefault(group, deque()).append(change)
        self._due_s[group] = min(due_s, self._due_s.get(group, due_s))

    @property
    def next_due_s(self) -> float | None:
        """When `take` will next return something; None: nothing waits."""
        return min(self._due_s.values(), default=None)

    def take(self, now_s: float) -> list[tuple[GroupId, Change]]:
        """Remove and return what is due and fits into one command."""
        taken: list[tuple[GroupId, Change]] = []
        room_bytes = COMMAND_BYTES_MAX
        for group in [each for each, due_s in self._due_s.items() if due_s <= now_s]:
            waiting = self._changes[group]
            while waiting and (room_bytes >= _size_bytes(waiting[0]) or not taken):
                room_bytes -= _size_bytes(waiting[0])
                taken.append((group, waiting.popleft()))
            if waiting:
                break
            del self._changes[group], self._due_s[group]
        return taken


def _size_bytes(change: Change) -> int:
    """Return no less than what a change will have on the wire."""
    match change:
        case Joined():
            return 2_048 + sum(len(topic) + 4 for topic in change.topics)
        case Owns():
            return 1_024 + 32 * len(change.owned)
        case Left() | Deleted():
            return 1_024
        case _:
            assert_never(change)

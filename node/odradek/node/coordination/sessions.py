"""Who is alive in the groups of one coordinator. Pure.

Problem: ten thousand members send a frame every three seconds, and each must be missed in time.
Idea: a frame only moves a number; a heap finds who may be due, and who turns out to have been heard
since goes back into it. So a frame costs a dictionary write, and a tick costs what is due.

Rules: silence ends a session after the session time-out. A broken stream leaves a dynamic member a
short grace to reconnect, for its process has died or lost its network; a static member keeps its
whole session. A new coordinator knows nothing of the past and grants everybody a whole session.

Invariant: `Deadlines` has, for each key, one heap entry that counts, at or before its deadline.
"""

import heapq
import math
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from odradek.node.coordination.model import GroupTimes
from odradek.protocol.types import GroupId, MemberId

Key = TypeVar("Key")


class MemberKey(NamedTuple):
    """A member among all groups."""

    group: GroupId
    member_id: MemberId


@dataclass(slots=True)
class Deadlines(Generic[Key]):
    """Deadlines that mostly move away."""

    _at_s: dict[Key, float] = field(default_factory=dict)
    _heap: list[tuple[float, Key]] = field(default_factory=list)
    _next_look_s: dict[Key, float] = field(default_factory=dict)
    """The heap entry of each key that counts; others were left behind by an earlier look."""

    def set(self, key: Key, at_s: float) -> None:
        """Set or move a deadline."""
        self._at_s[key] = at_s
        if at_s < self._next_look_s.get(key, math.inf):
            self._look(key, at_s)

    def _look(self, key: Key, at_s: float) -> None:
        self._next_look_s[key] = at_s
        heapq.heappush(self._heap, (at_s, key))

    def clear(self, key: Key) -> None:
        """Forget a deadline; its heap entry goes when its time comes."""
        self._at_s.pop(key, None)

    def get(self, key: Key) -> float | None:
        """Return a deadline."""
        return self._at_s.get(key)

    def due(self, now_s: float) -> list[Key]:
        """Return, and forget, the keys whose deadline has come."""
        due = []
        while self._heap and self._heap[0][0] <= now_s:
            look_s, key = heapq.heappop(self._heap)
            if self._next_look_s.get(key) != look_s:
                continue
            del self._next_look_s[key]
            at_s = self._at_s.get(key)
            if at_s is None:
                continue
            if at_s <= now_s:
                del self._at_s[key]
                due.append(key)
            else:
                self._look(key, at_s)
        return due

    def __contains__(self, key: Key) -> bool:
        return key in self._at_s

    def __len__(self) -> int:
        return len(self._at_s)


@dataclass(slots=True)
class Sessions:
    """The sessions of one coordinator."""

    times: GroupTimes
    _deadlines: Deadlines[MemberKey] = field(default_factory=Deadlines)

    def grant(self, member: MemberKey, now_s: float) -> None:
        """Begin a whole session, or begin it anew: the member was heard."""
        self._deadlines.set(member, now_s + self.times.session_timeout_s)

    def grant_if_unknown(self, member: MemberKey, now_s: float) -> None:
        """Begin a session for a member of whom only the controller has told."""
        if member not in self._deadlines:
            self.grant(member, now_s)

    def stream_broke(self, member: MemberKey, now_s: float, *, static: bool) -> None:
        """Shorten the session of a dynamic member to the time it has to reconnect."""
        known = self._deadlines.get(member)
        if known is not None and not static:
            self._deadlines.set(member, min(known, now_s + self.times.reconnect_grace_s))

    def end(self, member: MemberKey) -> None:
        """Forget a member that is gone."""
        self._deadlines.clear(member)

    def expired(self, now_s: float) -> list[MemberKey]:
        """Return, and forget, the members whose sessions have ended."""
        return self._deadlines.due(now_s)

    def __len__(self) -> int:
        return len(self._deadlines)

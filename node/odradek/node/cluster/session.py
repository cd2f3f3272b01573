"""Whether this node may still speak for its partitions. Pure.

Problem: a process that was paused, or cut off, does not know that it has been replaced, and the
answers of before the pause still lie in its sockets. Idea: contact is dated by when a heartbeat was
*sent*, not by when its answer was read; each acknowledgement asks first.

Invariant: `last_contact_s` is never later than the moment at which the active controller last heard
of us, but for the delay of an answer nobody asked for.

Source: Gray and Cheriton, "Leases" (1989). Safety does not rest on it: epochs fence data.
"""

from collections import deque
from dataclasses import dataclass, field

from odradek.protocol.errors import NotLeaderOrFollowerError
from odradek.protocol.types import Incarnation

NO_INCARNATION = Incarnation(0)
"""Before the first registration."""


@dataclass(frozen=True, slots=True)
class SentHeartbeat:
    """A heartbeat on its way."""

    at_s: float
    incarnation: Incarnation


@dataclass(slots=True)
class HeartbeatClock:
    """Matches answers with heartbeats on one stream."""

    _sent: deque[SentHeartbeat] = field(default_factory=deque)
    _answered: SentHeartbeat | None = None

    def on_sent(self, heartbeat: SentHeartbeat) -> None:
        """A heartbeat leaves."""
        self._sent.append(heartbeat)

    def on_answer(self) -> SentHeartbeat | None:
        """Return the heartbeat an answer speaks of, at the least.

        An answer nobody asked for speaks of the last heartbeat heard, which is the last one
        answered or a later one. None: of nothing sent on this stream.
        """
        if self._sent:
            self._answered = self._sent.popleft()
        return self._answered


@dataclass(slots=True)
class Session:
    """The registration in force."""

    incarnation: Incarnation = NO_INCARNATION
    fenced: bool = True
    timeout_s: float = 0.0
    last_contact_s: float = float("-inf")

    def on_registered(self, incarnation: Incarnation, timeout_s: float, sent_at_s: float) -> None:
        """The active controller took us in; `sent_at_s` is when we asked."""
        assert incarnation > self.incarnation, "incarnations grow"
        self.incarnation = incarnation
        self.timeout_s = timeout_s
        self.fenced = True
        self.last_contact_s = sent_at_s

    def on_contact(self, sent_at_s: float, *, fenced: bool) -> None:
        """The active controller answered a heartbeat of this incarnation, sent at that time."""
        self.fenced = fenced
        self.last_contact_s = max(self.last_contact_s, sent_at_s)

    def lapsed(self, now_s: float) -> NotLeaderOrFollowerError | None:
        """Return why nothing may be acknowledged any more, or None."""
        silence_s = now_s - self.last_contact_s
        if silence_s <= self.timeout_s:
            return None
        return NotLeaderOrFollowerError(
            f"this node has not heard from the controllers for {silence_s:.1f} s and may have been"
            " replaced; the outcome is unknown",
            value=f"{silence_s:.1f}",
            limit=self.timeout_s,
        )

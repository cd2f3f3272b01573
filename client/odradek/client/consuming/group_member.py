"""One member of a consumer group: joins, stays alive, reads what it is assigned, leaves.

Problem: assignments, revocations, lost streams, fencing and leaving arrive in any order, and a
partition must never be read by two members at once because one of them mixed them up. Idea: KIP-848
moves nearly all rules to the server, so the member is a small machine. Every reply that carries an
assignment replaces the target. The member then walks there: revoke what is owned beyond it, tell
the application, and confirm what it owns in the next heartbeat; only one walk at a time.

Invariants: `owned` holds only what the shell was told to assign and has not yet been told to give
up; a partition leaves `owned` before the heartbeat that confirms its revocation; a fenced member
owns nothing and joins again with epoch 0; every stream opens with a frame that carries every field.

Rules of the file: every change of `state` is in `_TRANSITIONS`; methods named `on_...` take events
and return effects, in the order in which they are to be performed.

Source: KIP-848; org.apache.kafka.clients.consumer.internals.ConsumerMembershipManager.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import (
    FencedMemberEpochError,
    OdradekError,
    UnknownMemberIdError,
    UnreleasedInstanceIdError,
)
from odradek.protocol.types import GroupId, MemberId

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
LEAVE_STATIC_EPOCH = -2
"""A static member that leaves for a while: its partitions wait for it."""

EXPULSIONS = (FencedMemberEpochError, UnknownMemberIdError)
"""The membership is over: the member gives everything up and joins again."""

_FIRST_HEARTBEAT_INTERVAL_S = 3.0
_FIRST_SESSION_TIMEOUT_S = 45.0
_SILENT_HEARTBEATS = 3  # so many intervals without an answer: look for the coordinator anew


class MemberState(enum.Enum):
    """Where the member stands."""

    UNJOINED = "unjoined"
    JOINING = "joining"
    STABLE = "stable"
    RECONCILING = "reconciling"
    """The shell is revoking or assigning."""
    FENCED = "fenced"
    """Expelled; the shell is telling the application that its partitions are lost."""
    LEAVING = "leaving"
    LEFT = "left"
    FAILED = "failed"


_TRANSITIONS: dict[MemberState, set[MemberState]] = {
    MemberState.UNJOINED: {MemberState.JOINING, MemberState.LEFT, MemberState.FAILED},
    MemberState.JOINING: {
        MemberState.STABLE,
        MemberState.FENCED,
        MemberState.LEAVING,
        MemberState.FAILED,
    },
    MemberState.STABLE: {
        MemberState.RECONCILING,
        MemberState.FENCED,
        MemberState.LEAVING,
        MemberState.FAILED,
    },
    MemberState.RECONCILING: {
        MemberState.STABLE,
        MemberState.FENCED,
        MemberState.LEAVING,
        MemberState.FAILED,
    },
    MemberState.FENCED: {MemberState.JOINING, MemberState.LEFT, MemberState.FAILED},
    MemberState.LEAVING: {MemberState.LEFT},
    MemberState.LEFT: {MemberState.JOINING},
    MemberState.FAILED: {MemberState.LEFT},
}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A frame to send; None stands for a field that did not change."""

    member_epoch: int
    topics: tuple[str, ...] | None = None
    owned: frozenset[TopicIdPartition] | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """A frame received; `assignment` is None when it did not change."""

    member_epoch: int
    heartbeat_interval_s: float
    session_timeout_s: float
    assignment: frozenset[TopicIdPartition] | None = None


@dataclass(frozen=True, slots=True)
class Connect:
    """Find the coordinator, open a stream, then call `on_connected`."""

    after_failure: bool
    """Wait a little first."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame on the open stream."""

    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Give `revoked` up (finish, commit, tell), take `assigned` over, then call `on_reconciled`."""

    revoked: frozenset[TopicIdPartition]
    assigned: frozenset[TopicIdPartition]


@dataclass(frozen=True, slots=True)
class Lose:
    """Stop reading at once, tell the application, then call `on_lost_told`. Commits are refused."""

    partitions: frozenset[TopicIdPartition]
    reason: OdradekError | None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the stream; the membership is over."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Give the application this error: the group refuses the member for good."""

    error: OdradekError


Effect = Connect | Send | Reconcile | Lose | Disconnect | Fail


@dataclass(slots=True)
class GroupMember:
    """The machine. The shell calls one method at a time and performs the effects in order."""

    group: GroupId
    member_id: MemberId
    topics: tuple[str, ...]
    static: bool = False
    """Whether the member has an instance id."""
    state: MemberState = MemberState.UNJOINED
    epoch: int = JOIN_EPOCH
    owned: frozenset[TopicIdPartition] = frozenset()
    heartbeat_interval_s: float = _FIRST_HEARTBEAT_INTERVAL_S
    session_timeout_s: float = _FIRST_SESSION_TIMEOUT_S
    connected: bool = False
    """Whether a stream to the coordinator stands."""
    heard_at_s: float = 0.0
    """When the coordinator last answered."""
    sent_at_s: float = 0.0
    target: frozenset[TopicIdPartition] | None = None
    """The last assignment received; None before the first of this membership."""
    _connected_at_s: float = 0.0
    _walk: Reconcile | None = field(default=None, repr=False)

    def on_start(self, now_s: float) -> list[Effect]:
        """Join, also again after having left."""
        self._enter(MemberState.JOINING)
        self._forget_membership()
        self.heard_at_s = now_s
        return [Connect(after_failure=False)]

    def on_connected(self, now_s: float) -> list[Effect]:
        """A stream to the coordinator stands; introduce the member with every field.

        What a walk under way takes over may be read already, so it counts as owned here: otherwise
        the coordinator could give it to another member before the walk ends.
        """
        if self.state not in _ALIVE:
            return []
        self.connected = True
        self._connected_at_s = now_s
        return [self._send(now_s, topics=self.topics, owned=self.owned | self._taking_over())]

    def on_disconnected(self, error: OdradekError, now_s: float) -> list[Effect]:
        """No stream: it broke, or the coordinator could not be found, or answered with an error.

        Args:
            error: One that is not retriable is the group's refusal.
            now_s: The time.
        """
        if self.state is MemberState.LEAVING:
            return self.on_left()
        if self.state not in _ALIVE:
            return []
        was_connected, self.connected = self.connected, False
        closing: list[Effect] = [Disconnect()] if was_connected else []
        if isinstance(error, EXPULSIONS):
            return closing + self._on_fenced(error)
        if self._is_refusal(error, now_s):
            return [*closing, self._lose(error), self._fail(error)]
        return [*closing, Connect(after_failure=True)]

    def on_reply(self, reply: HeartbeatReply, now_s: float) -> list[Effect]:
        """The coordinator answered."""
        if self.state is MemberState.LEAVING and reply.member_epoch < JOIN_EPOCH:
            return self.on_left()
        if self.state not in _ALIVE:
            return []
        self.heard_at_s = now_s
        self.epoch = reply.member_epoch
        if reply.heartbeat_interval_s > 0:
            self.heartbeat_interval_s = reply.heartbeat_interval_s
        if reply.session_timeout_s > 0:
            self.session_timeout_s = reply.session_timeout_s
        if self.state is MemberState.JOINING:
            self._enter(MemberState.STABLE)
        if reply.assignment is not None:
            self.target = reply.assignment
        return self._reconcile()

    def on_reconciled(self, now_s: float) -> list[Effect]:
        """The shell has performed `Reconcile`; confirm what is owned now."""
        walk, self._walk = self._walk, None
        if self.state is not MemberState.RECONCILING or walk is None:
            return []
        self.owned = (self.owned - walk.revoked) | walk.assigned
        self._enter(MemberState.STABLE)
        effects: list[Effect] = []
        if self.connected:
            effects.append(self._send(now_s, owned=self.owned))
        return effects + self._reconcile()

    def on_lost_told(self, now_s: float) -> list[Effect]:
        """The application knows that its partitions are lost; join again."""
        if self.state is not MemberState.FENCED:
            return []
        self._enter(MemberState.JOINING)
        self.heard_at_s = now_s
        return [Connect(after_failure=True)]

    def on_subscribed(self, topics: Iterable[str], now_s: float) -> list[Effect]:
        """The application wants other topics."""
        self.topics = tuple(topics)
        if self.state in _ALIVE and self.connected:
            return [self._send(now_s, topics=self.topics)]
        return []

    def on_tick(self, now_s: float) -> list[Effect]:
        """Send a sign of life when one is due; give up a membership nobody confirms any more."""
        if self.state not in _ALIVE:
            return []
        if self.epoch > JOIN_EPOCH and now_s - self.heard_at_s >= self.session_timeout_s:
            # The coordinator has given our partitions to others, or will before it hears us again.
            return [Disconnect(), *self._on_fenced(None)]
        if not self.connected:
            return []
        silent_s = now_s - max(self.heard_at_s, self._connected_at_s)
        if silent_s >= _SILENT_HEARTBEATS * self.heartbeat_interval_s:
            # A paused process breaks no stream; meanwhile another node may have taken over.
            self.connected = False
            return [Disconnect(), Connect(after_failure=True)]
        if now_s >= self.next_heartbeat_s:
            return [self._send(now_s)]
        return []

    def on_leave(self, now_s: float, *, for_good: bool = False) -> list[Effect]:
        """Leave; the shell has finished, committed and told everything.

        Args:
            now_s: The time.
            for_good: A static member that will not come back.
        """
        if self.state in {MemberState.LEFT, MemberState.LEAVING}:
            return []
        if self.state not in _ALIVE or not self.connected:
            if self.state in _ALIVE:
                self._enter(MemberState.LEAVING)
            self._enter(MemberState.LEFT)
            self._forget_membership()
            return [Disconnect()]
        self._enter(MemberState.LEAVING)
        self.epoch = LEAVE_STATIC_EPOCH if self.static and not for_good else LEAVE_EPOCH
        self.owned = frozenset()
        return [self._send(now_s, owned=self.owned)]

    def on_left(self) -> list[Effect]:
        """The coordinator confirmed, or does not matter any more."""
        if self.state is not MemberState.LEAVING:
            return []
        self._enter(MemberState.LEFT)
        self._forget_membership()
        return [Disconnect()]

    @property
    def next_heartbeat_s(self) -> float:
        """When the next sign of life is due."""
        return self.sent_at_s + self.heartbeat_interval_s

    def _reconcile(self) -> list[Effect]:
        if self.state is not MemberState.STABLE or self.target is None or self.target == self.owned:
            return []
        self._enter(MemberState.RECONCILING)
        self._walk = Reconcile(self.owned - self.target, self.target - self.owned)
        return [self._walk]

    def _is_refusal(self, error: OdradekError, now_s: float) -> bool:
        if isinstance(error, UnreleasedInstanceIdError):
            # Our own predecessor, killed without leaving, holds the id until its session ends.
            return now_s - self.heard_at_s >= 2 * self.session_timeout_s
        return not error.retriable

    def _on_fenced(self, reason: OdradekError | None) -> list[Effect]:
        lost = self._lose(reason)
        self._enter(MemberState.FENCED)
        return [lost]

    def _fail(self, error: OdradekError) -> Fail:
        self._enter(MemberState.FAILED)
        return Fail(error)

    def _lose(self, reason: OdradekError | None) -> Lose:
        """Give everything up, also what a walk under way was about to take over."""
        lost = Lose(self.owned | self._taking_over(), reason)
        self._forget_membership()
        return lost

    def _taking_over(self) -> frozenset[TopicIdPartition]:
        return self._walk.assigned if self._walk is not None else frozenset()

    def _forget_membership(self) -> None:
        self.epoch = JOIN_EPOCH
        self.owned = frozenset()
        self.target = None
        self._walk = None
        self.connected = False

    def _send(
        self,
        now_s: float,
        *,
        topics: tuple[str, ...] | None = None,
        owned: frozenset[TopicIdPartition] | None = None,
    ) -> Send:
        self.sent_at_s = now_s
        return Send(Heartbeat(self.epoch, topics, owned))

    def _enter(self, state: MemberState) -> None:
        assert state in _TRANSITIONS[self.state], f"{self.state.name} -> {state.name}"
        self.state = state


_ALIVE = frozenset({MemberState.JOINING, MemberState.STABLE, MemberState.RECONCILING})

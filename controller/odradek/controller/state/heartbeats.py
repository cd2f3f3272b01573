"""Which nodes live, as one controller hears it. Soft state: never replicated. Pure.

Problem: a dead node must lose its leaderships at once, a slow one must not. Idea: every node keeps
a heartbeat stream to every controller. A stream that breaks means that the process died: a short
grace for a reconnect, then the node is fenced. Silence on a standing stream may be a pause or a
network: a whole session. Passive controllers listen too, so that whoever becomes active knows, and
goes on with the session where its predecessor was: two failures take no longer than one.

Time is this controller's own: its clock stands still while its process does. A node was not silent
in a pause of whoever listens; but the silence before it counts on.

Invariants: only a node of the incarnation in force is fenced for what that incarnation did; a node
that a controller has not heard in this incarnation has a whole session once that one is active.

Source: Apache Kafka's BrokerHeartbeatManager; the broken stream is ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from odradek.controller.state.nodes import FenceNode, ReportStorage, RetireNode, UnfenceNode
from odradek.controller.state.records import Node
from odradek.protocol.types import Incarnation, NodeId

# What passes beyond this from one tick or heartbeat to the next was a pause of this process.
_PAUSE_S = 1.0
_UNREGISTERED = Incarnation(0)

Due = FenceNode | UnfenceNode | RetireNode | ReportStorage


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life.

    Attributes:
        incarnation: The node's registration; 0 before the first.
        version: The metadata version it has applied.
        wants_shutdown: It wishes to stop.
        storage_full: Its disk reserve is reached.
    """

    node_id: NodeId
    incarnation: Incarnation
    version: int
    wants_shutdown: bool = False
    storage_full: bool = False


@dataclass(slots=True)
class _Pulse:
    """What was heard of one node; times are the controller's own."""

    streams: int = 0
    incarnation: Incarnation = _UNREGISTERED
    version: int = 0
    # Since when it wishes to stop; None while it does not.
    leaving_since_s: float | None = None
    storage_full: bool = False
    # None: never, in this incarnation.
    heard_at_s: float | None = None
    # When the last stream broke; None while one stands.
    broken_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatPolicy:
    """How long to wait.

    Attributes:
        session_timeout_s: How long a silent node is kept.
        grace_s: How long a node is kept whose stream broke.
        retire_timeout_s: How long a node that wishes to stop may take to see what moved from it.
        settle_s: How long a node must have been up before it takes back what it should lead.
    """

    session_timeout_s: float = 6.0
    grace_s: float = 0.2
    retire_timeout_s: float = 3.0
    settle_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.grace_s <= self.session_timeout_s:
            raise ValueError("grace_s must be above 0 and at most session_timeout_s")


class Heartbeats:
    """The pulses of all nodes, and what is due because of them."""

    def __init__(self, policy: HeartbeatPolicy) -> None:
        """Begin passive, having heard nobody."""
        self._policy = policy
        self._pulses: dict[NodeId, _Pulse] = {}
        self._active_since_s: float | None = None
        self._looked_at_s: float | None = None
        self._paused_s = 0.0
        # Since when each unfenced incarnation has been so, as far as this controller saw.
        self._up_since_s: dict[NodeId, tuple[Incarnation, float]] = {}

    def on_active(self, now_s: float) -> None:
        """This controller is active from now on."""
        self._active_since_s = self._own_s(now_s)
        self._up_since_s.clear()

    def on_passive(self) -> None:
        """Another controller decides."""
        self._active_since_s = None

    def on_heartbeat(self, heartbeat: Heartbeat, now_s: float, *, first: bool) -> None:
        """A node spoke; `first` on this stream."""
        own_s = self._own_s(now_s)
        pulse = self._pulses.setdefault(heartbeat.node_id, _Pulse())
        pulse.streams += first
        if heartbeat.incarnation < pulse.incarnation:
            return  # an older process, not gone yet
        pulse.incarnation = heartbeat.incarnation
        pulse.version = heartbeat.version
        pulse.storage_full = heartbeat.storage_full
        if not heartbeat.wants_shutdown:
            pulse.leaving_since_s = None
        elif pulse.leaving_since_s is None:
            pulse.leaving_since_s = own_s
        pulse.heard_at_s = own_s
        pulse.broken_at_s = None

    def on_stream_closed(self, heartbeat: Heartbeat, now_s: float, *, registered: bool) -> None:
        """A stream ended whose last heartbeat was this one; `registered`: there is such a node."""
        pulse = self._pulses[heartbeat.node_id]
        pulse.streams -= 1
        assert pulse.streams >= 0, "each stream closes once"
        if pulse.streams == 0 and heartbeat.incarnation == pulse.incarnation:
            pulse.broken_at_s = self._own_s(now_s)
        if pulse.streams == 0 and not registered:
            del self._pulses[heartbeat.node_id]  # whoever it was: ids can be made up

    def due(self, nodes: Iterable[Node], now_s: float) -> list[Due]:
        """Return what to decide now, given the registered nodes; nothing while passive.

        To be called often, while passive too: that is how a pause of this process is noticed.
        """
        own_s = self._own_s(now_s)
        if self._active_since_s is None:
            return []
        due: list[Due] = []
        for node in nodes:
            self._note_up(node, now_s)
            pulse = self._pulses.get(node.node_id)
            if pulse is None or pulse.incarnation != node.incarnation:
                # Another process spoke, or none ever did: this incarnation is silent.
                pulse = _Pulse()
            if node.fenced:
                if self._may_lead(node, pulse, own_s):
                    due.append(UnfenceNode(node.node_id, node.incarnation, pulse.version))
            elif self._is_dead(pulse, own_s) or self._has_retired(node, pulse, own_s):
                due.append(FenceNode(node.node_id, node.incarnation))
            elif pulse.leaving_since_s is not None:
                if not node.stopping:
                    due.append(RetireNode(node.node_id, node.incarnation))
            elif pulse.heard_at_s is not None and pulse.storage_full is not node.storage_full:
                due.append(ReportStorage(node.node_id, node.incarnation, pulse.storage_full))
        return due

    def next_due_s(self, now_s: float) -> float | None:
        """Return when the grace of a broken stream ends next; None when none does."""
        if self._active_since_s is None:
            return None
        ends_s = (
            max(pulse.broken_at_s, self._active_since_s) + self._policy.grace_s + self._paused_s
            for pulse in self._pulses.values()
            if pulse.broken_at_s is not None
        )
        return min((end_s for end_s in ends_s if end_s > now_s), default=None)

    def settled(self, now_s: float) -> tuple[NodeId, ...]:
        """Return the nodes that have been up for a while, in order."""
        return tuple(
            sorted(
                node_id
                for node_id, (_, since_s) in self._up_since_s.items()
                if now_s - since_s >= self._policy.settle_s
            )
        )

    def _note_up(self, node: Node, now_s: float) -> None:
        if node.fenced:
            self._up_since_s.pop(node.node_id, None)
        elif self._up_since_s.get(node.node_id, (None,))[0] != node.incarnation:
            self._up_since_s[node.node_id] = (node.incarnation, now_s)

    def _has_retired(self, node: Node, pulse: _Pulse, own_s: float) -> bool:
        """Tell whether a node that wishes to stop has seen that others lead instead."""
        if pulse.leaving_since_s is None or not node.stopping:
            return False
        waited_s = own_s - pulse.leaving_since_s
        return pulse.version >= node.stopping_version or waited_s >= self._policy.retire_timeout_s

    def _may_lead(self, node: Node, pulse: _Pulse, own_s: float) -> bool:
        return (
            pulse.incarnation == node.incarnation
            and pulse.version >= node.fenced_version
            and pulse.streams > 0
            and pulse.leaving_since_s is None
            and not self._is_dead(pulse, own_s)
        )

    def _is_dead(self, pulse: _Pulse, own_s: float) -> bool:
        assert self._active_since_s is not None, "only the active controller judges"
        since_s = self._active_since_s if pulse.heard_at_s is None else pulse.heard_at_s
        if own_s - since_s >= self._policy.session_timeout_s:
            return True
        if pulse.broken_at_s is None:
            return False
        return own_s - max(pulse.broken_at_s, self._active_since_s) >= self._policy.grace_s

    def _own_s(self, now_s: float) -> float:
        """Return the time on this controller's own clock."""
        before_s, self._looked_at_s = self._looked_at_s, now_s
        if before_s is not None:
            self._paused_s += max(0.0, now_s - before_s - _PAUSE_S)
        return now_s - self._paused_s

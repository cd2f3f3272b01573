"""Three controllers that decide with the production state machine.

Raft itself is simulated in `tests.simulation.raft`; here it is what it promises: one log, one
leader a term, commands of a deposed leader that may or may not have made it. Everything above
is production code: image, decisions, heartbeats.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from odradek.controller.state.decide import (
    Answer,
    FinishElections,
    NodeReply,
    NodeRequest,
    Reply,
    Request,
    decide,
)
from odradek.controller.state.groups.model import Group
from odradek.controller.state.heartbeats import Due, Heartbeat, HeartbeatPolicy, Heartbeats
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.records import Command, ControllerChanged, Node, Partition, Topic
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import ControllerId, GroupId, NodeId, PartitionUid, TopicId
from tests.simulation.cluster.events import Process
from tests.simulation.cluster.network import Half, on_death
from tests.simulation.cluster.quorum import Quorum

CLUSTER_ID = "simulated"
POLICY = HeartbeatPolicy(session_timeout_s=6.0, grace_s=0.2)
_TICK_S = 0.05
_CONTACT_S = 1.0

Decided = Callable[[Reply | BrokerError | None, int], None]
"""Told what became of a request, and under which version; None: the outcome is unknown."""


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """What a controller answers to a heartbeat."""

    controller: "SimulatedController"
    epoch: int | None
    fenced: bool = True
    must_register: bool = False
    may_shut_down: bool = False


@dataclass(frozen=True, slots=True)
class Metadata:
    """The cluster as of one version."""

    epoch: int
    version: int
    nodes: dict[NodeId, Node]
    topics: dict[TopicId, Topic]
    partitions: dict[PartitionUid, Partition]
    groups: dict[GroupId, Group]


@dataclass(slots=True)
class _Pending:
    request: Request
    decided: Decided
    outcome: Reply | BrokerError | None = None


@dataclass(slots=True)
class _Watcher:
    half: Half
    node_id: NodeId
    is_behind: bool = False


class SimulatedController(Process):
    """One controller."""

    def __init__(self, controller_id: ControllerId, quorum: Quorum) -> None:
        super().__init__(f"controller-{controller_id}", quorum.scheduler)
        self.controller_id = controller_id
        self.quorum = quorum
        self.chance = quorum.chance
        self.image = ClusterImage()
        self.applied = 0
        self._halves: list[Half] = []

    def start(self) -> None:
        """Begin passive, with what the journal holds."""
        self.begin_life()
        self.epoch: int | None = None
        self.heartbeats = Heartbeats(POLICY)
        self.watchers: list[_Watcher] = []
        self._queue: deque[_Pending] = deque()
        self._batch: list[_Pending] = []
        self._is_busy = False
        self._deciding: set[NodeId] = set()
        self._contact_s = self.now_s
        self.every(_TICK_S, self._tick)

    def die(self) -> None:
        """Be killed."""
        self.end_life()
        self.quorum.on_leader_gone(self)
        halves, self._halves = self._halves, []
        on_death(halves)

    # The log

    def catch_up(self) -> bool:
        """Apply what is committed; return whether the last command was accepted."""
        accepted = True
        for command in self.quorum.committed[self.applied :]:
            self.applied += 1
            if command is not None:
                accepted = self.image.apply_command(self.applied, command)
        return accepted

    def lead(self, term: int) -> None:
        """Raft has elected this one."""
        self.catch_up()
        begin = ControllerChanged(self.controller_id, CLUSTER_ID)
        command = Command(term, 0, (begin,))

        def begun(accepted: bool | None) -> None:  # noqa: FBT001
            if accepted:
                self.epoch = term
                self._contact_s = self.now_s
                self.heartbeats.on_active(self.now_s)
                self.request(FinishElections(), lambda *_: None)
            else:
                self.quorum.on_leader_gone(self)

        self.quorum.propose(self, term, command, begun)

    def resign(self) -> None:
        """Be passive."""
        self.epoch = None
        self.quorum.on_leader_gone(self)
        self.heartbeats.on_passive()
        for pending in (*self._batch, *self._queue):
            pending.decided(None, 0)
        self._batch, self._is_busy = [], False
        self._queue.clear()
        for watcher in self.watchers:
            watcher.half.close()
        self.watchers.clear()

    def request(self, request: Request, decided: Decided) -> None:
        """Decide something; refused with None unless active."""
        if self.epoch is None:
            decided(None, 0)
            return
        self._queue.append(_Pending(request, decided))
        self._round()

    def _round(self) -> None:
        if self._is_busy or not self._queue or self.epoch is None:
            return
        self._is_busy = True
        draft = Draft(self.image)
        self._batch = list(self._queue)
        self._queue.clear()
        for pending in self._batch:
            before = draft.image.partitions.copy()
            try:
                pending.outcome = decide(draft, pending.request, self.chance, self._encode)
            except BrokerError as error:
                pending.outcome = error
            for told in self.quorum.on_decided:
                told(pending.request, before, draft.image)
        records = draft.take_records()
        sequence = self.image.command_sequence + 1
        command = Command(self.epoch, sequence, records) if records else None
        self.quorum.propose(self, self.epoch, command, self._on_committed)

    def _encode(self, request: NodeRequest, reply: NodeReply) -> bytes:
        del request
        key = len(self.quorum.replies).to_bytes(8, "big")
        self.quorum.replies[key] = reply
        return key

    def _on_committed(self, accepted: bool | None) -> None:  # noqa: FBT001
        if not accepted:
            self.resign()
            return
        batch, self._batch, self._is_busy = self._batch, [], False
        for pending in batch:
            pending.decided(pending.outcome, self.image.version)
        self._publish()
        self._round()

    def reply_of(self, answer: Answer) -> NodeReply:
        """Return what an answer says."""
        return self.quorum.replies[answer.encoded]

    # Nodes

    def _tick(self) -> None:
        if self.epoch is None:
            self.heartbeats.due((), self.now_s)
            return
        if self.quorum.reaches_majority(self):
            self._contact_s = self.now_s
        if self.epoch != self.quorum.term or self.now_s - self._contact_s > _CONTACT_S:
            self.resign()
            return
        for due in self.heartbeats.due(self.image.nodes.values(), self.now_s):
            if due.node_id not in self._deciding:
                self._deciding.add(due.node_id)
                self.request(due, self._judged(due))

    def _judged(self, due: Due) -> Decided:
        def decided(*_: Any) -> None:
            self._deciding.discard(due.node_id)

        return decided

    def accept_heartbeats(self, half: Half) -> "HeartbeatEnd":
        """A node opened its heartbeat stream."""
        self._halves.append(half)
        return HeartbeatEnd(self, half)

    def accept_watch(self, half: Half, node_id: NodeId) -> "WatchEnd":
        """A node wants the metadata."""
        self._halves.append(half)
        end = WatchEnd(self, half)
        if self.epoch is None:
            half.close()
        else:
            self.watchers.append(_Watcher(half, node_id))
            half.send(self.metadata())
        return end

    def metadata(self) -> Metadata:
        """Return the cluster as of now."""
        assert self.epoch is not None
        image = self.image
        return Metadata(
            epoch=self.epoch,
            version=image.version,
            nodes=dict(image.nodes),
            topics=dict(image.topics),
            partitions=dict(image.partitions),
            groups=dict(image.groups),
        )

    def _publish(self) -> None:
        if self.epoch is not None and self.watchers:
            metadata = self.metadata()
            for watcher in self.watchers:
                lag_s = self.quorum.watch_lag_s(watcher.node_id)
                if lag_s and not watcher.is_behind:
                    watcher.is_behind = True
                    self.after(lag_s, partial(self._catch_up, watcher))
                elif not watcher.is_behind:
                    watcher.half.send(metadata)

    def _catch_up(self, watcher: _Watcher) -> None:
        """Tell the present state: one that is slow does not hear of what was in between."""
        watcher.is_behind = False
        if self.epoch is not None:
            watcher.half.send(self.metadata())


@dataclass(slots=True)
class WatchEnd:
    """The controller's end of a metadata stream."""

    controller: SimulatedController
    half: Half

    def on_frame(self, frame: Any) -> None:
        """Nodes say nothing on it."""

    def on_broken(self) -> None:
        """Nobody listens any more."""
        watchers = self.controller.watchers
        watchers[:] = [each for each in watchers if each.half is not self.half]


@dataclass(slots=True)
class HeartbeatEnd:
    """The controller's end of a heartbeat stream."""

    controller: SimulatedController
    half: Half
    last: Heartbeat | None = field(default=None)

    def on_frame(self, frame: Any) -> None:
        """A node is alive."""
        assert isinstance(frame, Heartbeat)
        controller = self.controller
        controller.heartbeats.on_heartbeat(frame, controller.now_s, first=self.last is None)
        self.last = frame
        node = controller.image.nodes.get(frame.node_id)
        self.half.send(
            HeartbeatAnswer(
                controller,
                controller.epoch,
                fenced=node is None or node.fenced,
                must_register=node is None or node.incarnation != frame.incarnation,
                may_shut_down=node is not None and node.fenced and frame.wants_shutdown,
            )
        )

    def on_broken(self) -> None:
        """The node died, or the network did."""
        if self.last is not None:
            controller = self.controller
            registered = self.last.node_id in controller.image.nodes
            controller.heartbeats.on_stream_closed(
                self.last, controller.now_s, registered=registered
            )

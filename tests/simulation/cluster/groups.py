"""Coordinators on the nodes that lead `__consumer_offsets`, made of the production cores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

from odradek.controller.state import groups as controller_groups
from odradek.controller.state.decide import Answer, ChangeGroups
from odradek.controller.state.groups import (
    GroupChange,
    GroupChanges,
    GroupDecision,
    GroupDeleted,
    MemberJoined,
    MemberLeft,
    MemberOwns,
    MemberProfile,
)
from odradek.node.coordination.frames import (
    Effect,
    Frame,
    Proposed,
    ReplyDue,
    StreamEnded,
    StreamId,
)
from odradek.node.coordination.members import GroupMembers
from odradek.node.coordination.model import (
    Change,
    Deleted,
    Group,
    GroupTimes,
    Joined,
    Left,
    Member,
    Owns,
    TopicIdPartition,
)
from odradek.node.coordination.offsets import (
    Commit,
    CommittedOffsets,
    accept_commit,
    check_committer,
)
from odradek.node.coordination.outbox import Outbox
from odradek.node.coordination.records import OffsetCommitted
from odradek.protocol.errors import BrokerError, CoordinatorLoadInProgressError, NotCoordinatorError
from odradek.protocol.types import GroupId, LeaderEpoch, Offset, PartitionIndex
from tests.simulation.cluster.network import Half, Once

if TYPE_CHECKING:
    from tests.simulation.cluster.replica import SimulatedReplica

TIMES = GroupTimes(
    session_timeout_s=6.0,
    heartbeat_interval_s=1.0,
    reconnect_grace_s=1.5,
    join_debounce_s=0.25,
    rebalance_timeout_s=6.0,
)


@dataclass(frozen=True, slots=True)
class MemberSays(Once):
    """A frame on a member's stream, numbered by the member."""

    stream: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class MemberHears(Once):
    """A reply; an assignment, or the end of the stream."""

    stream: int
    member_epoch: int
    assignment: frozenset[TopicIdPartition] | None = None
    ended: bool = False
    error: BrokerError | None = None


@dataclass(frozen=True, slots=True)
class CommitOffset(Once):
    """A member commits one position; the correlation counts its commits."""

    correlation: int
    group: GroupId
    member_id: str
    member_epoch: int
    partition: TopicIdPartition
    offset: Offset


@dataclass(frozen=True, slots=True)
class FetchOffset:
    """A member asks for a position."""

    correlation: int
    group: GroupId
    member_id: str
    member_epoch: int
    partition: TopicIdPartition


@dataclass(frozen=True, slots=True)
class OffsetAnswer:
    """To both: the offset that is committed."""

    correlation: int
    offset: Offset | None
    error: BrokerError | None = None


@dataclass(slots=True)
class SimulatedCoordinator:
    """The groups of one internal partition, as long as a node leads it in one epoch."""

    replica: "SimulatedReplica"
    epoch: LeaderEpoch
    members: GroupMembers = field(default_factory=lambda: GroupMembers(TIMES))
    offsets: CommittedOffsets = field(default_factory=CommittedOffsets)
    outbox: Outbox = field(default_factory=Outbox)
    is_ready: bool = False
    is_closed: bool = False
    _streams: dict[StreamId, tuple[Half, int]] = field(default_factory=dict)
    _ids: dict[tuple[int, int], StreamId] = field(default_factory=dict)
    _is_submitting: bool = False

    # What the node tells

    def tick(self) -> None:
        """Load once that can be; expel; send what is due."""
        if self.is_closed:
            return
        if not self.is_ready:
            self._load()
            return
        self._perform(self.members.on_tick(self._now_s))
        self._submit()

    def on_groups(self) -> None:
        """The controller's word on all groups there are."""
        node = self.replica.node
        assert node.metadata is not None
        changed = [
            node_group(group)
            for group in node.metadata.groups.values()
            if group.coordinator_partition == self.replica.place.index
        ]
        gone = self.members.groups.keys() - {group.group for group in changed}
        self._perform(self.members.on_groups(changed, sorted(gone), self._now_s))

    def close(self) -> None:
        """Another coordinator takes over."""
        self.is_closed = True
        error = NotCoordinatorError("deposed")
        for half, number in self._streams.values():
            half.send(MemberHears(number, 0, ended=True, error=error))
        self._streams.clear()

    def _load(self) -> None:
        if not self.replica.reached_epoch_start:
            return
        for batch in self.replica.committed_batches():
            record = self.replica.node.world.offset_records.get(batch.crc)
            if record is not None:
                self.offsets.apply(record)
        self.is_ready = True
        self.on_groups()

    # Members

    def on_member(self, half: Half, says: MemberSays) -> None:
        """A frame came in."""
        refusal = self._refusal()
        if refusal is not None:
            half.send(MemberHears(says.stream, 0, ended=True, error=refusal))
            return
        key = (id(half), says.stream)
        stream = self._ids.get(key)
        if stream is None:
            stream = self._ids[key] = StreamId(len(self._ids) + 1)
            self._streams[stream] = (half, says.stream)
        if stream in self._streams:
            self._perform(self.members.on_frame(stream, says.frame, self._now_s))

    def on_half_broken(self, half: Half) -> None:
        """A client's connection is gone, and with it its streams."""
        for stream, (theirs, _) in list(self._streams.items()):
            if theirs is half:
                del self._streams[stream]
                self.members.on_stream_broken(stream, self._now_s)

    def commit(self, half: Half, request: CommitOffset) -> None:
        """Append a valid commit; answer once it is committed."""
        node = self.replica.node
        try:
            committer = self._committer(request)
            commit = Commit(
                topic_id=request.partition.topic_id,
                topic="",
                partition=request.partition.partition,
                offset=request.offset,
                leader_epoch=-1,
                metadata="",
                sequence=request.correlation,
            )
            accepted = accept_commit(committer, commit, node.image, node.wall.now_ms)
            record = self.offsets.accept(accepted)
        except BrokerError as error:
            half.send(OffsetAnswer(request.correlation, None, error))
            return
        content = node.world.next_content()
        node.world.offset_records[content] = record

        def done(error: BrokerError | None) -> None:
            if error is None:
                self._apply(record)
            offset = None if error else record.offset
            half.send(OffsetAnswer(request.correlation, offset, error))

        self.replica.append_own(content, done)

    def fetch(self, half: Half, request: FetchOffset) -> None:
        """Answer with what is committed, once the ISR agrees that this is the coordinator."""
        try:
            self._committer(request)
        except BrokerError as error:
            half.send(OffsetAnswer(request.correlation, None, error))
            return

        def confirmed(error: BrokerError | None) -> None:
            found = self.offsets.of(request.group).get(request.partition)
            offset = found.offset if found and not error else None
            half.send(OffsetAnswer(request.correlation, offset, error or self._refusal()))

        self.replica.confirm_leadership(confirmed)

    def _committer(self, request: CommitOffset | FetchOffset) -> Any:
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        return check_committer(
            request.group,
            self.members.groups.get(request.group),
            request.member_id,
            request.member_epoch,
            fenced=self.members.is_fenced(request.group, request.member_id),
        )

    def _apply(self, record: OffsetCommitted) -> None:
        self.offsets.apply(record)

    def _refusal(self) -> BrokerError | None:
        if self.is_closed:
            return NotCoordinatorError("deposed")
        return None if self.is_ready else CoordinatorLoadInProgressError()

    # Inside

    @property
    def _now_s(self) -> float:
        return self.replica.node.now_s

    def _perform(self, effects: list[Effect]) -> None:
        if not self.is_ready:
            return
        for effect in effects:
            match effect:
                case Proposed():
                    self.outbox.add(effect.group, effect.change, effect.due_s)
                case ReplyDue():
                    self._reply(effect.stream)
                case StreamEnded():
                    self._end(effect)
                case _:
                    assert_never(effect)
        self._submit()

    def _reply(self, stream: StreamId) -> None:
        reply = self.members.reply(stream)
        if reply is not None and stream in self._streams:
            half, number = self._streams[stream]
            half.send(MemberHears(number, reply.member_epoch, reply.assignment))

    def _end(self, ended: StreamEnded) -> None:
        found = self._streams.pop(ended.stream, None)
        if found is not None:
            half, number = found
            half.send(MemberHears(number, ended.member_epoch, ended=True, error=ended.error))
        self.members.on_stream_broken(ended.stream, self._now_s)

    def _submit(self) -> None:
        if self._is_submitting or self.is_closed:
            return
        changes = self.outbox.take(self._now_s)
        if changes:
            self._is_submitting = True
            self._ask(changes)

    def _ask(self, changes: list[tuple[GroupId, Change]]) -> None:
        request = ChangeGroups(
            self.epoch,
            GroupChanges(
                PartitionIndex(self.replica.place.index),
                tuple(controller_change(group, change) for group, change in changes),
            ),
        )
        self.replica.node.link.submit(request, self._decided(changes))

    def _decided(
        self, changes: list[tuple[GroupId, Change]]
    ) -> Callable[[Answer | BrokerError | None, Any], None]:
        def decided(answer: Answer | BrokerError | None, reply: Any) -> None:
            if self.is_closed:
                return
            if isinstance(answer, NotCoordinatorError):
                self.close()
                return
            if not isinstance(reply, GroupDecision):
                self.replica.node.after(0.1, lambda: self._ask(changes))
                return
            self._is_submitting = False
            for (group, change), error in zip(changes, reply.errors, strict=True):
                self._perform(self.members.on_decided(group, change, error, self._now_s))
            self._submit()

        return decided


def node_group(group: controller_groups.Group) -> Group:
    """Return a controller's group as a node knows it."""
    return Group(
        group=group.group,
        coordinator_partition=group.coordinator_partition,
        group_epoch=group.group_epoch,
        assignment_epoch=group.assignment_epoch,
        members={key: _node_member(member) for key, member in group.members.items()},
    )


def _node_member(member: controller_groups.Member) -> Member:
    return Member(
        member_id=member.member_id,
        instance_id=member.profile.instance_id,
        topics=member.profile.topics,
        rebalance_timeout_s=member.profile.rebalance_timeout_s,
        member_epoch=member.member_epoch,
        assigned={_node_partition(key): epoch for key, epoch in member.assigned.items()},
        revoking={_node_partition(key): epoch for key, epoch in member.revoking.items()},
        target=frozenset(map(_node_partition, member.target)),
        away=member.profile.away,
    )


def _node_partition(partition: controller_groups.TopicIdPartition) -> TopicIdPartition:
    return TopicIdPartition(partition.topic_id, partition.partition)


def controller_change(group: GroupId, change: Change) -> GroupChange:
    """Return a coordinator's change as the controller knows it."""
    match change:
        case Joined():
            profile = MemberProfile(
                member_id=change.member_id,
                instance_id=change.instance_id,
                rebalance_timeout_s=change.rebalance_timeout_s,
                topics=change.topics,
                assignor=change.assignor,
            )
            return MemberJoined(group, profile)
        case Left():
            return MemberLeft(group=group, member_id=change.member_id, away=change.away)
        case Owns():
            return MemberOwns(
                group=group,
                member_id=change.member_id,
                member_epoch=change.member_epoch,
                owned=frozenset(
                    controller_groups.TopicIdPartition(each.topic_id, each.partition)
                    for each in change.owned
                ),
            )
        case Deleted():
            return GroupDeleted(group)
        case _:
            assert_never(change)

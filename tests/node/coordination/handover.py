"""The SDK's member, the coordinator and the controller, wired by queues a test schedules at will.

Frames and replies keep their order within a stream and are delayed at will; so are the controller's
decisions. Streams break, and the coordinator may hear of it, and of what was sent on them, when
their members speak on newer ones. Coordinators restart, members leave, die and come back.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import count
from random import Random

from odradek.client.consuming import group_member as sdk
from odradek.client.consuming.positions import TopicIdPartition as SdkPartition
from odradek.controller.groups_wire import command_from_proto, group_to_proto
from odradek.controller.state import groups as controller
from odradek.node.coordination.frames import (
    Effect,
    Frame,
    Proposed,
    ReplyDue,
    StreamEnded,
    StreamId,
)
from odradek.node.coordination.members import GroupMembers
from odradek.node.coordination.model import Change, GroupTimes, TopicIdPartition
from odradek.node.coordination.outbox import Outbox
from odradek.node.coordination.translation import change_to_proto, group_from_proto
from odradek.protocol.errors import BrokerError, NotCoordinatorError
from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName
from odradek.v1 import controller_pb2

GROUP = GroupId("g")
TOPIC, TOPIC_ID = TopicName("gps"), TopicId(b"g" * 16)


@dataclass(frozen=True)
class Topics:
    partition_count: int

    def topic_by_name(self, name: TopicName) -> controller.SubscribedTopic | None:
        known = controller.SubscribedTopic(TOPIC_ID, TOPIC, self.partition_count)
        return known if name == TOPIC else None

    def topic_by_id(self, topic_id: TopicId) -> controller.SubscribedTopic | None:
        return self.topic_by_name(TOPIC) if topic_id == TOPIC_ID else None

    def racks(self, partition: controller.TopicIdPartition) -> frozenset[str]:
        return frozenset()


@dataclass
class Stream:
    stream_id: StreamId
    up: deque[Frame] = field(default_factory=deque)
    down: deque[sdk.HeartbeatReply | BrokerError] = field(default_factory=deque)
    reply_due: bool = False


@dataclass
class Client:
    machine: sdk.GroupMember
    stream: Stream | None = None
    wants_stream: bool = False
    walk: sdk.Reconcile | None = None
    must_tell_loss: bool = False

    @property
    def reads(self) -> set[TopicIdPartition]:
        """What its application may be reading, or about to read."""
        taking = self.walk.assigned if self.walk else frozenset()
        return {
            TopicIdPartition(each.topic_id, each.partition)
            for each in {*self.machine.owned, *taking}
        }


class Handover:
    def __init__(self, partition_count: int, member_count: int) -> None:
        self.now_s = 0.0
        self.topics = Topics(partition_count)
        self.groups: dict[GroupId, controller.Group] = {}
        self.coordinator = GroupMembers(GroupTimes())
        self.outbox = Outbox()
        self.in_flight: deque[tuple[list[tuple[GroupId, Change]], list[BrokerError | None]]] = (
            deque()
        )
        self.streams: dict[StreamId, Stream] = {}
        """All that the coordinator has not seen break."""
        self.abandoned: deque[Stream] = deque()
        """Those of them that their members have given up."""
        self.stream_ids = count(1)
        self.clients = [
            Client(sdk.GroupMember(GROUP, MemberId(f"m{number}"), (TOPIC,)))
            for number in range(member_count)
        ]

    # The schedule

    def step(self, random: Random) -> None:
        """Do one of the things that can happen now."""
        client = random.choice(self.clients)
        everything = {
            lambda: self.start(client): 6,
            lambda: self.connect(client): 8,
            lambda: self.send_up(client): 12,
            lambda: self.read_down(client): 8,
            lambda: self.finish_walk(client): 6,
            lambda: self.write_reply(random): 14,
            self.decide: 24,
            lambda: self.pass_time(random.choice([0.01, 0.1, 0.3, 3.0])): 6,
            lambda: self.break_stream(client): 0.5,
            lambda: self.hear_of_abandoned(random): 4,
            lambda: self.leave(client): 2,
            self.restart_coordinator: 0.1,
        }
        (action,) = random.choices(list(everything), list(everything.values()))
        action()
        self.check_single_readers()

    def settle(self, random: Random) -> None:
        """Let everything that can happen happen, without accidents, until nothing changes."""
        for _ in range(120):
            self.hear_of_abandoned(random)
            for client in self.clients:
                self.start(client)
                self.connect(client)
                for _ in range(10):
                    self.send_up(client)
                for _ in range(4):
                    self.write_reply(random)
                    self.read_down(client)
                    self.finish_walk(client)
            self.decide()
            self.pass_time(1.0)
            self.check_single_readers()

    def start(self, client: Client) -> None:
        if client.machine.state in {sdk.MemberState.UNJOINED, sdk.MemberState.LEFT}:
            self.perform(client, client.machine.on_start(self.now_s))
        if client.must_tell_loss:
            client.must_tell_loss = False
            self.perform(client, client.machine.on_lost_told(self.now_s))

    def connect(self, client: Client) -> None:
        if client.wants_stream:
            client.wants_stream = False
            client.stream = Stream(StreamId(next(self.stream_ids)))
            self.streams[client.stream.stream_id] = client.stream
            self.perform(client, client.machine.on_connected(self.now_s))

    def send_up(self, client: Client) -> None:
        if client.stream and client.stream.up and client.stream.stream_id in self.streams:
            frame = client.stream.up.popleft()
            self.obey(self.coordinator.on_frame(client.stream.stream_id, frame, self.now_s))

    def write_reply(self, random: Random) -> None:
        due = [each for each in self.streams.values() if each.reply_due]
        if due:
            stream = random.choice(due)
            stream.reply_due = False
            reply = self.coordinator.reply(stream.stream_id)
            if reply is not None:
                stream.down.append(reply_for_sdk(reply.member_epoch, reply.assignment))

    def read_down(self, client: Client) -> None:
        if client.stream and client.stream.down:
            message = client.stream.down.popleft()
            if isinstance(message, BrokerError):
                client.stream = None
                self.perform(client, client.machine.on_disconnected(message, self.now_s))
            else:
                self.perform(client, client.machine.on_reply(message, self.now_s))

    def finish_walk(self, client: Client) -> None:
        if client.walk:
            client.walk = None
            self.perform(client, client.machine.on_reconciled(self.now_s))

    def decide(self) -> None:
        """The controller decides what is due; later the feed, then the answer, arrive."""
        if self.in_flight:
            changes, errors = self.in_flight.popleft()
            fed = [group_from_proto(group_to_proto(each)) for each in self.groups.values()]
            self.obey(self.coordinator.on_groups(fed, [], self.now_s))
            for (group, change), error in zip(changes, errors, strict=True):
                self.obey(self.coordinator.on_decided(group, change, error, self.now_s))
            return
        changes = self.outbox.take(self.now_s)
        if changes:
            command = controller_pb2.ChangeGroupsCommand(
                changes=[change_to_proto(group, change) for group, change in changes]
            )
            decision = controller.decide(self.groups, command_from_proto(command), self.topics)
            for record in decision.records:
                controller.apply(self.groups, record)
            self.in_flight.append((changes, list(decision.errors)))

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.obey(self.coordinator.on_tick(self.now_s))
        for client in self.clients:
            self.perform(client, client.machine.on_tick(self.now_s))

    def break_stream(self, client: Client) -> None:
        """The member notices, perhaps while frames and replies are still on their way."""
        if client.stream:
            self.abandoned.append(client.stream)
            client.stream = None
            error = NotCoordinatorError("broken")
            self.perform(client, client.machine.on_disconnected(error, self.now_s))

    def hear_of_abandoned(self, random: Random) -> None:
        """The coordinator gets a frame that was on its way, or hears that the stream is over."""
        if self.abandoned:
            stream = random.choice(self.abandoned)
            if stream.up and stream.stream_id in self.streams and random.random() < 0.7:
                frame = stream.up.popleft()
                self.obey(self.coordinator.on_frame(stream.stream_id, frame, self.now_s))
            else:
                self.abandoned.remove(stream)
                self.close(stream)

    def leave(self, client: Client) -> None:
        self.perform(client, client.machine.on_leave(self.now_s))

    def restart_coordinator(self) -> None:
        """Another node takes over, from the controller's present state."""
        for client in self.clients:
            self.break_stream(client)
        self.streams.clear()
        self.abandoned.clear()
        self.outbox, self.in_flight = Outbox(), deque()
        self.coordinator = GroupMembers(GroupTimes())
        fed = [group_from_proto(group_to_proto(each)) for each in self.groups.values()]
        self.coordinator.on_groups(fed, [], self.now_s)

    # Effects

    def perform(self, client: Client, effects: list[sdk.Effect]) -> None:
        for effect in effects:
            match effect:
                case sdk.Connect():
                    assert client.stream is None, "one stream at a time"
                    assert not client.wants_stream, "one stream at a time"
                    client.wants_stream = True
                case sdk.Send():
                    if client.stream:
                        client.stream.up.append(frame_for_node(client, effect.heartbeat))
                case sdk.Reconcile():
                    client.walk = effect
                case sdk.Lose():
                    client.walk = None
                    client.must_tell_loss = client.machine.state is sdk.MemberState.FENCED
                case sdk.Disconnect():
                    client.walk = (
                        None if client.machine.state is sdk.MemberState.LEFT else client.walk
                    )
                    client.wants_stream = False
                    if client.stream:
                        self.abandoned.append(client.stream)
                        client.stream = None
                case sdk.Fail():
                    raise effect.error

    def obey(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Proposed():
                    self.outbox.add(effect.group, effect.change, effect.due_s)
                case ReplyDue():
                    if effect.stream in self.streams:
                        self.streams[effect.stream].reply_due = True
                case StreamEnded():
                    self.end(effect)

    def end(self, ended: StreamEnded) -> None:
        stream = self.streams.get(ended.stream)
        if stream is None:
            return
        if ended.error is not None or ended.member_epoch < 0:
            stream.down.append(ended.error or reply_for_sdk(ended.member_epoch, None))
        else:
            stream.down.append(NotCoordinatorError("closed"))
        self.abandoned.append(stream)

    def close(self, stream: Stream) -> None:
        if self.streams.pop(stream.stream_id, None) is not None:
            self.coordinator.on_stream_broken(stream.stream_id, self.now_s)

    # What must hold

    def check_single_readers(self) -> None:
        """No two standing members read one partition; who was expelled may not know it yet."""
        readers: dict[TopicIdPartition, MemberId] = {}
        standing = self.groups[GROUP].members if GROUP in self.groups else {}
        for client in self.clients:
            member_id = client.machine.member_id
            if member_id not in standing or self.coordinator.is_fenced(GROUP, member_id):
                continue
            for partition in client.reads:
                assert partition not in readers, (
                    f"{partition.partition} is read by {readers[partition]} and {member_id}"
                )
                readers[partition] = member_id


def frame_for_node(client: Client, heartbeat: sdk.Heartbeat) -> Frame:
    owned = heartbeat.owned
    return Frame(
        group=GROUP,
        member_id=client.machine.member_id,
        member_epoch=heartbeat.member_epoch,
        topics=None if heartbeat.topics is None else frozenset(map(TopicName, heartbeat.topics)),
        owned=None
        if owned is None
        else frozenset(TopicIdPartition(each.topic_id, each.partition) for each in owned),
    )


def reply_for_sdk(epoch: int, assignment: frozenset[TopicIdPartition] | None) -> sdk.HeartbeatReply:
    return sdk.HeartbeatReply(
        member_epoch=epoch,
        heartbeat_interval_s=3.0,
        session_timeout_s=45.0,
        assignment=None
        if assignment is None
        else frozenset(
            SdkPartition(TOPIC, PartitionIndex(each.partition), each.topic_id)
            for each in assignment
        ),
    )

"""A node's group service on a real port, over an internal partition and a controller in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from odradek.controller import groups_wire
from odradek.controller.state import groups as controller
from odradek.node.api.group import GroupServicer
from odradek.node.cluster.image import ClusterImage
from odradek.node.coordination.coordination import Coordination
from odradek.node.coordination.model import GroupTimes
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    NotCoordinatorError,
    NotLeaderOrFollowerError,
    error_from_proto,
)
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.record_batch import BatchHeader, stamp
from odradek.protocol.types import (
    FIRST_OFFSET,
    NO_LEADER_EPOCH,
    GroupId,
    LeaderEpoch,
    Offset,
    PartitionIndex,
    TopicId,
    TopicName,
)
from odradek.rpc.server import Server
from odradek.v1 import controller_pb2, error_pb2, group_pb2, group_pb2_grpc

from .cluster import GPS, NODE, OFFSETS, image_of, topic

PATIENT = GroupTimes(heartbeat_interval_s=0.1, join_debounce_s=0.05)
"""Nobody is expelled while a test runs, however busy the machine."""
HASTY = replace(PATIENT, session_timeout_s=0.9, reconnect_grace_s=0.2)
"""For tests that wait for somebody's end."""
WAIT_S = 20.0
TOO_LARGE = "too-large"
"""A group whose assignment fits into no record: what is asked for it is refused as a whole."""
ONLY_PARTITION = PartitionIndex(0)


@dataclass
class InternalLog:
    """What is on disk: outlives its leaders."""

    batches: list[tuple[Offset, bytes]] = field(default_factory=list)
    end: Offset = FIRST_OFFSET


@dataclass
class Led:
    """One leader epoch of the internal partition."""

    log: InternalLog
    leader_epoch: LeaderEpoch
    deposed: bool = False
    appends: int = 0
    may_read: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def log_start_offset(self) -> Offset:
        return FIRST_OFFSET

    @property
    def high_watermark(self) -> Offset:
        return self.log.end

    async def append(self, batch: bytes) -> Offset:
        await asyncio.sleep(0)
        if self.deposed:
            raise NotLeaderOrFollowerError("deposed")
        self.appends += 1
        stamped = bytearray(batch)
        stamp(stamped, self.log.end, self.leader_epoch)
        base = self.log.end
        self.log.batches.append((base, bytes(stamped)))
        self.log.end = BatchHeader.parse(stamped).next_offset
        return base

    async def read(self, offset: Offset, max_bytes: int) -> list[memoryview | bytes]:
        """One batch at a time."""
        return next([batch] for base, batch in self.log.batches if base >= offset)

    async def confirm_leadership(self) -> None:
        await self.may_read.wait()
        if self.deposed:
            raise NotLeaderOrFollowerError("deposed")


@dataclass
class World:
    """The cluster around one node."""

    image: ClusterImage
    log: InternalLog = field(default_factory=InternalLog)
    groups: dict[GroupId, controller.Group] = field(default_factory=dict)
    leader_epoch: LeaderEpoch = NO_LEADER_EPOCH
    coordination: Coordination = field(init=False)
    led: Led = field(init=False)
    internal_topics_created: int = 0
    times: GroupTimes = PATIENT

    def __post_init__(self) -> None:
        self.coordination = Coordination(controller=self, cluster=self, times=self.times)

    # The controller's side

    async def change_groups(
        self,
        coordinator_partition: PartitionIndex,
        leader_epoch: LeaderEpoch,
        changes: list[controller_pb2.GroupChange],
    ) -> list[BrokerError | None]:
        await asyncio.sleep(0)
        if leader_epoch != self.leader_epoch:
            raise NotCoordinatorError("another leader epoch")
        if any(each.group == TOO_LARGE for each in changes):
            raise InvalidRequestError("the request makes a record of 600000 bytes; split it")
        command = controller_pb2.ChangeGroupsCommand(
            coordinator_partition=coordinator_partition, changes=changes
        )
        decision = controller.decide(self.groups, groups_wire.command_from_proto(command), self)
        self.apply(decision.records)
        errors = groups_wire.result_to_proto(decision).errors
        return [error_from_proto(each) if each.code else None for each in errors]

    def apply(self, records: Iterable[controller.GroupRecord]) -> None:
        before = dict(self.groups)
        for record in records:
            controller.apply(self.groups, record)
        changed = [each for key, each in self.groups.items() if before.get(key) is not each]
        removed = [key for key in before if key not in self.groups]
        self.coordination.on_groups([groups_wire.group_to_proto(each) for each in changed], removed)

    async def create_internal_topic(self, name: str) -> None:
        await asyncio.sleep(0)
        self.internal_topics_created += 1
        self.image = image_of(
            *self.image.topics.values(), topic(CONSUMER_OFFSETS, OFFSETS, 1), version=9
        )

    def topic_by_name(self, name: TopicName) -> controller.SubscribedTopic | None:
        known = self.image.topic_named(name)
        if known is None or known.internal:
            return None
        return controller.SubscribedTopic(known.topic_id, known.name, len(known.partitions))

    def topic_by_id(self, topic_id: TopicId) -> controller.SubscribedTopic | None:
        known = self.image.topics.get(topic_id)
        return None if known is None else self.topic_by_name(known.name)

    def racks(self, partition: controller.TopicIdPartition) -> frozenset[str]:
        return frozenset()

    # The node's side

    def lead(self, *, may_read: bool = True) -> None:
        """One metadata step: this node leads under a new epoch."""
        self.leader_epoch = LeaderEpoch(self.leader_epoch + 1)
        self.led = Led(self.log, self.leader_epoch)
        if may_read:
            self.led.may_read.set()
        self.coordination.on_leading(ONLY_PARTITION, self.led)
        fed = [groups_wire.group_to_proto(each) for each in self.groups.values()]
        self.coordination.on_groups(fed, [], snapshot=True)


@dataclass
class Broker:
    """A running node, as clients see it."""

    world: World
    stub: Any

    async def commit(
        self,
        member: str,
        epoch: int,
        offset: int,
        partition: int = 0,
        *,
        group: str = "g",
        sequence: int = 0,
    ) -> int:
        """Return the error code of the only partition."""
        request = group_pb2.CommitOffsetsRequest(
            group=group,
            member_id=member,
            member_epoch=epoch,
            sequence=sequence,
            offsets=[
                group_pb2.OffsetCommit(
                    topic_id=GPS, topic="gps", partition=partition, offset=offset, leader_epoch=0
                )
            ],
        )
        response = await self.stub.CommitOffsets(request, timeout=WAIT_S)
        code: int = response.offsets[0].error.code
        return code

    async def committed(self, group: str = "g") -> dict[int, int]:
        request = group_pb2.FetchOffsetsRequest(group=group, member_epoch=-1)
        response = await self.stub.FetchOffsets(request, timeout=WAIT_S)
        return {each.partition: each.offset for each in response.offsets}

    async def describe(self, group: str = "g") -> group_pb2.GroupDescription:
        request = group_pb2.DescribeGroupsRequest(groups=[group])
        response = await self.stub.DescribeGroups(request, timeout=WAIT_S)
        described: group_pb2.GroupDescription = response.groups[0]
        return described


@dataclass
class Member:
    """A member that does at once what it is told; `silent` makes it hang."""

    broker: Broker
    name: str
    instance_id: str = ""
    group: str = "g"
    epoch: int = 0
    owned: frozenset[int] = frozenset()
    error: int = 0
    silent: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _call: Any = None
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _task: "asyncio.Task[None] | None" = None
    _beats: "asyncio.Task[None] | None" = None

    async def join(self) -> "Member":
        """Open a stream and send everything."""
        self._call = self.broker.stub.Heartbeat()
        await self._write(self._frame(everything=True))
        self._task = asyncio.create_task(self._read())
        self._beats = asyncio.create_task(self._beat())
        return self

    def _frame(
        self, *, everything: bool = False, epoch: int | None = None
    ) -> group_pb2.GroupServiceHeartbeatRequest:
        owned = group_pb2.TopicPartitions(topic_id=GPS, partitions=sorted(self.owned))
        return group_pb2.GroupServiceHeartbeatRequest(
            group=self.group,
            member_id=self.name,
            instance_id=self.instance_id,
            member_epoch=self.epoch if epoch is None else epoch,
            topics=["gps"],
            subscription_changed=everything,
            owned=[owned],
            owned_changed=True,
        )

    async def _write(self, frame: group_pb2.GroupServiceHeartbeatRequest) -> None:
        async with self._writing:  # gRPC takes one message at a time, and two tasks write
            await self._call.write(frame)

    async def _read(self) -> None:
        while True:
            reply = await self._call.read()
            async with self.changed:
                if reply is grpc.aio.EOF:
                    return
                self.error, self.epoch = reply.error.code, reply.member_epoch
                if reply.assignment_changed:
                    self.owned = frozenset(
                        index for topic in reply.assignment for index in topic.partitions
                    )
                self.changed.notify_all()
            if reply.assignment_changed and not self.silent:
                await self._write(self._frame())

    async def _beat(self) -> None:
        while not self._call.done():
            await asyncio.sleep(PATIENT.heartbeat_interval_s)
            if not self.silent and self.epoch > 0:
                await self._write(self._frame())

    async def until(self, condition: Any) -> None:
        """Wait until something holds of this member."""
        async with asyncio.timeout(WAIT_S), self.changed:
            await self.changed.wait_for(lambda: condition(self))

    async def leave(self, epoch: int = -1) -> None:
        await self._write(self._frame(epoch=epoch))
        await self.until(lambda member: member.epoch == epoch)
        await self.die()

    async def die(self) -> None:
        """End without a word."""
        for task in (self._beats, self._task):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._call is not None:
            self._call.cancel()


@asynccontextmanager
async def running_broker(
    *, has_internal_topic: bool = True, times: GroupTimes = PATIENT
) -> AsyncIterator[Broker]:
    topics = [topic("gps", GPS, 6)]
    if has_internal_topic:
        topics.append(topic(CONSUMER_OFFSETS, OFFSETS, 1))
    world = World(image_of(*topics), times=times)
    server = Server("127.0.0.1:0")
    servicer = GroupServicer(NODE, world.coordination, world, world)
    group_pb2_grpc.add_GroupServiceServicer_to_server(servicer, server.grpc)
    port = await server.start()
    coordination = asyncio.create_task(world.coordination.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Broker(world, group_pb2_grpc.GroupServiceStub(channel))
    await server.drain(0.0)
    coordination.cancel()
    await asyncio.gather(coordination, return_exceptions=True)


async def until_serving(broker: Broker) -> None:
    """Wait until the coordinator has replayed its log: each question lets it go on."""
    loading = error_pb2.ERROR_CODE_COORDINATOR_LOAD_IN_PROGRESS
    async with asyncio.timeout(WAIT_S):
        while (await broker.describe()).error.code == loading:
            pass

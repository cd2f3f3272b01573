"""A group coordinator in memory, after KIP-848: targets, hand-over after confirmation, fencing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from odradek.client.cluster.coordinator import from_topic_partitions, topic_partitions
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import (
    BrokerError,
    FencedMemberEpochError,
    GroupIdNotFoundError,
    NotCoordinatorError,
    UnknownMemberIdError,
    error_to_proto,
)
from odradek.protocol.types import PartitionIndex, TopicId, TopicName
from odradek.v1 import group_pb2
from tests.client.fake_node import FakeCluster, FakeNode, FakeTopic

HEARTBEAT_MS = 50


@dataclass(eq=False)
class HeldCommits:
    """Commits wait until they are let go."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class FakeMember:
    """A member as the coordinator sees it."""

    member_id: str
    topics: tuple[str, ...] = ()
    epoch: int = 0
    owned: frozenset[TopicIdPartition] = frozenset()
    assigned: frozenset[TopicIdPartition] | None = None
    """What was last sent."""
    outgoing: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)


class FakeGroups:
    """The groups of a cluster; one node coordinates all of them.

    Attributes:
        coordinator_id: That node.
        offsets: By group, topic id and partition: offset, epoch and metadata.
        commits: Every commit that took effect, in order: partition, offset.
        commit_errors: For the commit calls to come, in order; raised by the call.
        offset_errors: For the calls to come that read offsets.
        silent: While set, heartbeats are not answered.
        history: What members confirmed to own, in order: member id, partition names.
    """

    def __init__(self, cluster: FakeCluster, *, session_timeout_ms: int = 45_000) -> None:
        self.cluster = cluster
        self.coordinator_id = 1
        self.session_timeout_ms = session_timeout_ms
        self.members: dict[str, dict[str, FakeMember]] = {}
        self.epochs: dict[str, int] = {}
        self.offsets: dict[tuple[str, bytes, int], tuple[int, int, str]] = {}
        self.commits: list[tuple[str, int]] = []
        self.commit_sequences: list[int] = []
        self.commit_errors: list[BrokerError] = []
        self.offset_errors: list[BrokerError] = []
        self.join_errors: list[BrokerError] = []
        self.silent = False
        self.history: list[tuple[str, tuple[str, ...]]] = []
        self.left: list[tuple[str, int]] = []
        self.heartbeats = 0
        self._changed = asyncio.Event()

    def committed(self, group: str, topic: FakeTopic, partition: int) -> int | None:
        found = self.offsets.get((group, topic.topic_id, partition))
        return None if found is None else found[0]

    def commit(
        self, group: str, topic: FakeTopic, partition: int, offset: int, epoch: int = -1
    ) -> None:
        self.offsets[group, topic.topic_id, partition] = (offset, epoch, "")

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition over the groups holds."""
        async with asyncio.timeout(20):
            while not holds():
                await self._changed.wait()

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def fence(self, group: str, member_id: str, error: BrokerError | None = None) -> None:
        """Expel a member; its partitions are free at once."""
        member = self.members[group].pop(member_id)
        fenced = error or FencedMemberEpochError("expelled")
        member.outgoing.put_nowait(
            group_pb2.GroupServiceHeartbeatResponse(error=error_to_proto(fenced))
        )
        self.rebalance(group)

    def rebalance(self, group: str) -> None:
        """A new target: partitions in turn to members as they joined; each is told its part."""
        self.epochs[group] = self.epochs.get(group, 0) + 1
        self.offer(group)

    def target(self, group: str) -> dict[str, set[TopicIdPartition]]:
        members = list(self.members[group].values())
        target: dict[str, set[TopicIdPartition]] = {each.member_id: set() for each in members}
        turn = 0
        for topic in self.cluster.topics.values():
            for index in range(len(topic.partitions)):
                takers = [each for each in members if topic.name in each.topics]
                if takers:
                    taker = takers[turn % len(takers)]
                    target[taker.member_id].add(
                        TopicIdPartition(
                            TopicName(topic.name), PartitionIndex(index), TopicId(topic.topic_id)
                        )
                    )
                    turn += 1
        return target

    def offer(self, group: str) -> None:
        target = self.target(group)
        for member in self.members[group].values():
            taken = frozenset().union(
                *(each.owned for each in self.members[group].values() if each is not member),
                *(
                    each.assigned or frozenset()
                    for each in self.members[group].values()
                    if each is not member
                ),
            )
            now = frozenset(target[member.member_id]) - taken
            if now != member.assigned:
                member.assigned = now
                member.outgoing.put_nowait(self.reply(group, member, changed=True))

    def reply(
        self, group: str, member: FakeMember, *, changed: bool = False
    ) -> group_pb2.GroupServiceHeartbeatResponse:
        if member.owned == frozenset(self.target(group).get(member.member_id, ())):
            member.epoch = self.epochs[group]
        return group_pb2.GroupServiceHeartbeatResponse(
            member_epoch=max(member.epoch, 1),
            heartbeat_interval_ms=HEARTBEAT_MS,
            session_timeout_ms=self.session_timeout_ms,
            assignment_changed=changed,
            assignment=topic_partitions(member.assigned or ()) if changed else (),
            group_epoch=self.epochs[group],
        )

    def on_heartbeat(self, request: group_pb2.GroupServiceHeartbeatRequest) -> FakeMember | None:
        """Apply a frame; None when it asks to leave."""
        self.heartbeats += 1
        members = self.members.setdefault(request.group, {})
        if request.member_epoch < 0:
            members.pop(request.member_id, None)
            self.left.append((request.member_id, request.member_epoch))
            self.rebalance(request.group)
            self.notify()
            return None
        if request.member_epoch == 0 and self.join_errors:
            raise self.join_errors.pop(0)
        member = members.get(request.member_id)
        if member is None and request.member_epoch > 0:
            raise UnknownMemberIdError("no such member")
        if member is None or (request.member_epoch == 0 and request.subscription_changed):
            member = members[request.member_id] = FakeMember(request.member_id)
            member.topics = tuple(request.topics)
            self.rebalance(request.group)
        if request.owned_changed:
            owned = from_topic_partitions(request.owned)
            if owned != member.owned:
                member.owned = owned
                names = tuple(sorted(map(str, owned)))
                self.history.append((member.member_id, names))
            self.offer(request.group)
        self.notify()
        return member

    def fetch_offsets(
        self, request: group_pb2.FetchOffsetsRequest
    ) -> group_pb2.FetchOffsetsResponse:
        found = []
        for each in request.partitions:
            for index in each.partitions:
                offset, epoch, metadata = self.offsets.get(
                    (request.group, each.topic_id, index), (-1, -1, "")
                )
                found.append(
                    group_pb2.CommittedOffset(
                        topic_id=each.topic_id,
                        topic=each.topic,
                        partition=index,
                        offset=offset,
                        leader_epoch=epoch,
                        metadata=metadata,
                    )
                )
        return group_pb2.FetchOffsetsResponse(offsets=found)

    def commit_offsets(
        self, request: group_pb2.CommitOffsetsRequest
    ) -> group_pb2.CommitOffsetsResponse:
        self.commit_sequences.append(request.sequence)
        if self.commit_errors:
            raise self.commit_errors.pop(0)
        members = self.members.get(request.group, {})
        if request.member_id and request.member_id not in members:
            raise UnknownMemberIdError("no such member")
        results = []
        for each in request.offsets:
            key = (request.group, each.topic_id, each.partition)
            self.offsets[key] = (each.offset, each.leader_epoch, each.metadata)
            self.commits.append((f"{each.topic}-{each.partition}", each.offset))
            results.append(
                group_pb2.OffsetCommitResult(topic_id=each.topic_id, partition=each.partition)
            )
        self.notify()
        return group_pb2.CommitOffsetsResponse(offsets=results)


class FakeGroupService:
    """One node's group service."""

    def __init__(self, node: FakeNode, groups: FakeGroups) -> None:
        self._node = node
        self._groups = groups
        self.streams: set[asyncio.Task[Any]] = set()
        self.listing = asyncio.Event()
        """Set once somebody asks for a list."""
        self.listable = asyncio.Event()
        """Cleared: does not answer who asks for a list."""
        self.listable.set()
        self._held: HeldCommits | None = None
        node.servicers.append(self._serve)

    def _serve(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name),
                request_deserializer=getattr(group_pb2, f"{name}Request").FromString,
                response_serializer=getattr(group_pb2, f"{name}Response").SerializeToString,
            )
            for name in (
                "FindCoordinator",
                "FetchOffsets",
                "CommitOffsets",
                "ListGroups",
                "DescribeGroups",
            )
        }
        handlers["Heartbeat"] = grpc.stream_stream_rpc_method_handler(
            self.Heartbeat,
            request_deserializer=group_pb2.GroupServiceHeartbeatRequest.FromString,
            response_serializer=group_pb2.GroupServiceHeartbeatResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("odradek.v1.GroupService", handlers),)
        )

    def hold_commits(self) -> HeldCommits:
        self._held = HeldCommits()
        return self._held

    def break_streams(self) -> None:
        for stream in list(self.streams):
            stream.cancel()

    async def FindCoordinator(self, request: Any, context: Any) -> Any:  # noqa: N802
        node = self._groups.cluster.nodes[self._groups.coordinator_id]
        return group_pb2.FindCoordinatorResponse(
            node_id=node.node_id, host="127.0.0.1", port=node.port
        )

    async def ListGroups(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.listing.set()
        await self._node.reading.wait()
        await self.listable.wait()
        here = self._groups.coordinator_id == self._node.node_id
        names = self._groups.members if here else ()
        return group_pb2.ListGroupsResponse(
            groups=[group_pb2.GroupListing(group=name) for name in names]
        )

    async def DescribeGroups(self, request: Any, context: Any) -> Any:  # noqa: N802
        """A coordinator that knows no group."""
        await self._require_coordinator(context)
        unknown = error_to_proto(GroupIdNotFoundError("there is no such group here"))
        return group_pb2.DescribeGroupsResponse(
            groups=[
                group_pb2.GroupDescription(group=each, error=unknown) for each in request.groups
            ]
        )

    async def FetchOffsets(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._require_coordinator(context)
        if self._groups.offset_errors:
            raise self._groups.offset_errors.pop(0)
        return self._groups.fetch_offsets(request)

    async def CommitOffsets(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self._held is not None:
            self._held.reached.set()
            await self._held.let_go.wait()
        await self._require_coordinator(context)
        return self._groups.commit_offsets(request)

    async def Heartbeat(self, _: object, context: Any) -> None:  # noqa: N802
        if self._groups.coordinator_id != self._node.node_id:
            await context.write(_error(NotCoordinatorError("not here")))
            return
        task = asyncio.current_task()
        assert task is not None
        self.streams.add(task)
        writer: asyncio.Task[None] | None = None
        try:
            while (request := await context.read()) is not grpc.aio.EOF:
                if self._groups.silent:
                    continue
                member = self._groups.on_heartbeat(request)
                if member is None:
                    await context.write(
                        group_pb2.GroupServiceHeartbeatResponse(member_epoch=request.member_epoch)
                    )
                    continue
                if writer is None:
                    writer = asyncio.create_task(self._write(context, member))
                if member.outgoing.empty():
                    changed = request.subscription_changed
                    member.outgoing.put_nowait(
                        self._groups.reply(request.group, member, changed=changed)
                    )
        except BrokerError as error:
            await context.write(_error(error))
        except asyncio.CancelledError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream breaks")
        finally:
            self.streams.discard(task)
            if writer is not None:
                writer.cancel()

    async def _write(self, context: Any, member: FakeMember) -> None:
        while True:
            await context.write(await member.outgoing.get())

    async def _require_coordinator(self, context: Any) -> None:
        if self._groups.coordinator_id != self._node.node_id:
            raise NotCoordinatorError("not here")


def _error(error: BrokerError) -> group_pb2.GroupServiceHeartbeatResponse:
    return group_pb2.GroupServiceHeartbeatResponse(error=error_to_proto(error))

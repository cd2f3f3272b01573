"""GroupService: membership and committed offsets, translated.

What concerns a whole call is raised and becomes its status; what concerns one partition, one group
or the end of a membership travels in the response.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import grpc

from odradek.node.api.limits import NAMES_MAX, check_count
from odradek.node.cluster.image import ClusterImage, PartitionState, TopicState
from odradek.node.coordination.boundaries import ClusterSource, GroupController
from odradek.node.coordination.coordination import Coordination
from odradek.node.coordination.description import description, listing, state_of
from odradek.node.coordination.groups import MemberStream, PartitionGroups
from odradek.node.coordination.model import TopicIdPartition
from odradek.node.coordination.offsets import Commit
from odradek.node.coordination.records import OffsetCommitted, OffsetForgotten
from odradek.node.coordination.translation import (
    frame_from_proto,
    last_reply_to_proto,
    partitions_from_proto,
    reply_to_proto,
)
from odradek.protocol.errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    NonEmptyGroupError,
    RequestTimedOutError,
    error_to_proto,
)
from odradek.protocol.hashing import coordinator_partition
from odradek.protocol.names import CONSUMER_OFFSETS, check_group_id
from odradek.protocol.types import NodeId, Offset, TopicId, TopicName
from odradek.rpc.server import first_request
from odradek.v1 import group_pb2 as pb
from odradek.v1 import group_pb2_grpc

_CREATE_TIMEOUT_S: Final = 10.0
_REQUEST_TIMEOUT_S: Final = 30.0
_NO_OFFSET: Final = Offset(-1)


class GroupServicer(group_pb2_grpc.GroupServiceServicer):
    """Serves the groups coordinated here, and names the coordinator of any other."""

    def __init__(
        self,
        node_id: NodeId,
        coordination: Coordination,
        cluster: ClusterSource,
        controller: GroupController,
    ) -> None:
        self._node_id = node_id
        self._coordination = coordination
        self._cluster = cluster
        self._controller = controller
        self._creating = asyncio.Lock()

    async def FindCoordinator(  # noqa: N802  the contract's name
        self, request: pb.FindCoordinatorRequest, context: Any
    ) -> pb.FindCoordinatorResponse:
        """Name the node that coordinates a group; the first call ever creates the internal topic.

        Raises:
            CoordinatorNotAvailableError: Nobody leads the group's partition at the moment.
        """
        del context
        group = check_group_id(request.group)
        topic = await self._consumer_offsets()
        partition = topic.partitions[coordinator_partition(group, len(topic.partitions))]
        node = self._cluster.image.nodes.get(partition.leader_id)
        if node is None or node.fenced:
            raise _no_leader(partition)
        return pb.FindCoordinatorResponse(
            node_id=node.node_id, host=node.host, port=node.port, partition=partition.index
        )

    # The generated type knows generators only; gRPC takes coroutines that read and write, too.
    async def Heartbeat(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.GroupServiceHeartbeatRequest], context: Any
    ) -> None:
        """Keep one member: frames in, epochs and assignments out, as soon as they change."""
        del request_iterator  # read() and write() can be used side by side; an iterator cannot
        first = await first_request(context.read())
        if first is grpc.aio.EOF:
            return
        try:
            groups = self._coordination.of_group(check_group_id(first.group))
            with groups.stream() as stream:
                groups.on_frame(stream, frame_from_proto(first, _host_of(context)))
                reading = asyncio.create_task(_read_frames(groups, stream, context))
                try:
                    await self._write_replies(groups, stream, reading, context)
                finally:
                    reading.cancel()
                    await asyncio.wait((reading,))
        except BrokerError as error:
            await context.write(last_reply_to_proto(0, error))

    async def _write_replies(
        self,
        groups: PartitionGroups,
        stream: MemberStream,
        reading: "asyncio.Task[None]",
        context: Any,
    ) -> None:
        """Write what is due until the membership ends or the member falls silent for good."""
        # Reading ends with the member's last frame, or with an error to be raised here.
        reading.add_done_callback(lambda _: stream.wake())
        while True:
            await stream.due()
            if stream.ended is not None:
                last = stream.ended
                if last.error is not None or last.member_epoch < 0:
                    await context.write(last_reply_to_proto(last.member_epoch, last.error))
                return  # without a word: the member has a newer stream
            if reading.done():
                reading.result()
                return
            reply = groups.reply(stream)
            if reply is not None:
                names = _names(self._cluster.image)
                await context.write(reply_to_proto(reply, self._coordination.times, names))

    async def CommitOffsets(  # noqa: N802
        self, request: pb.CommitOffsetsRequest, context: Any
    ) -> pb.CommitOffsetsResponse:
        """Commit what is valid; answers once it is committed.

        Raises:
            NotCoordinatorError, CoordinatorLoadInProgressError: Ask again, or elsewhere.
            UnknownMemberIdError, FencedMemberEpochError, NonEmptyGroupError: Nothing was committed.
        """
        check_count("offsets", len(request.offsets))
        group = check_group_id(request.group)
        groups = self._coordination.of_group(group)
        committer = groups.committer(group, request.member_id, request.member_epoch)
        accepted: list[OffsetCommitted] = []
        errors: list[BrokerError | None] = []
        for each in request.offsets:
            commit = Commit(
                topic_id=each.topic_id,
                topic=each.topic,
                partition=each.partition,
                offset=each.offset,
                leader_epoch=each.leader_epoch,
                metadata=each.metadata,
                sequence=request.sequence,
            )
            try:
                accepted.append(groups.accept(committer, commit))
            except BrokerError as error:
                errors.append(error)
            else:
                errors.append(None)
        await _in_time(groups.append(accepted), context)
        return pb.CommitOffsetsResponse(
            offsets=[
                _result(each.topic_id, each.partition, error)
                for each, error in zip(request.offsets, errors, strict=True)
            ]
        )

    async def FetchOffsets(  # noqa: N802
        self, request: pb.FetchOffsetsRequest, context: Any
    ) -> pb.FetchOffsetsResponse:
        """Return committed offsets, of some partitions or of all that have one."""
        _check_partitions(request.partitions)
        group = check_group_id(request.group)
        groups = self._coordination.of_group(group)
        if request.member_id:
            groups.committer(group, request.member_id, request.member_epoch)
        committed = await _in_time(groups.committed(group), context)
        names = _names(self._cluster.image)
        if not request.partitions:
            ordered = sorted(committed, key=lambda each: each.partition)
            return pb.FetchOffsetsResponse(
                offsets=[
                    _committed(each, names.get(each.partition.topic_id, "")) for each in ordered
                ]
            )
        known = {each.partition: each for each in committed}
        answers: list[pb.CommittedOffset] = []
        for topic in request.partitions:
            answers += _committed_in(topic, self._cluster.image, known)
        return pb.FetchOffsetsResponse(offsets=answers)

    async def ListGroups(  # noqa: N802
        self, request: pb.ListGroupsRequest, context: Any
    ) -> pb.ListGroupsResponse:
        """List the groups coordinated here; partitions still being replayed are left out."""
        del context
        found = [
            group
            for groups in self._coordination.all()
            if groups.is_ready
            for group in groups.groups()
            if not request.states or state_of(group) in request.states
        ]
        found.sort(key=lambda each: each.group)
        return pb.ListGroupsResponse(groups=map(listing, found))

    async def DescribeGroups(  # noqa: N802
        self, request: pb.DescribeGroupsRequest, context: Any
    ) -> pb.DescribeGroupsResponse:
        """Describe groups, each with its own error."""
        del context
        check_count("groups", len(request.groups), NAMES_MAX)
        return pb.DescribeGroupsResponse(groups=map(self._describe, request.groups))

    def _describe(self, name: str) -> pb.GroupDescription:
        try:
            group = check_group_id(name)
            found = self._coordination.of_group(group).group(group)
        except BrokerError as error:
            return pb.GroupDescription(group=name, error=error_to_proto(error))
        return description(found, _names(self._cluster.image), self._node_id)

    async def DeleteGroups(  # noqa: N802
        self, request: pb.DeleteGroupsRequest, context: Any
    ) -> pb.DeleteGroupsResponse:
        """Delete empty groups with their offsets."""
        check_count("groups", len(request.groups), NAMES_MAX)
        results = []
        for name in request.groups:
            result = pb.DeleteGroupResult(group=name)
            try:
                group = check_group_id(name)
                deletion = self._coordination.of_group(group).delete_group(group)
                await _in_time(deletion, context)
            except BrokerError as error:
                result.error.CopyFrom(error_to_proto(error))
            results.append(result)
        return pb.DeleteGroupsResponse(groups=results)

    async def DeleteOffsets(  # noqa: N802
        self, request: pb.DeleteOffsetsRequest, context: Any
    ) -> pb.DeleteOffsetsResponse:
        """Delete committed offsets of partitions whose topic nobody in the group subscribes.

        Raises:
            GroupIdNotFoundError: There is no such group.
        """
        _check_partitions(request.partitions)
        group_id = check_group_id(request.group)
        groups = self._coordination.of_group(group_id)
        group = groups.group(group_id)
        subscribed = {name for each in group.members.values() for name in each.topics}
        names = _names(self._cluster.image)
        results: list[pb.OffsetCommitResult] = []
        tombstones: list[OffsetForgotten] = []
        for topic in request.partitions:
            for partition in partitions_from_proto(topic):
                name = names.get(partition.topic_id)
                error = None
                if name in subscribed:
                    error = NonEmptyGroupError(
                        f"members of group {group_id!r} read topic {name!r}",
                        field="partitions.topic",
                        value=name,
                    )
                else:
                    tombstones.append(OffsetForgotten(group_id, partition))
                results.append(_result(partition.topic_id, partition.partition, error))
        await _in_time(groups.append(tombstones), context)
        return pb.DeleteOffsetsResponse(offsets=results)

    async def _consumer_offsets(self) -> TopicState:
        """Return the internal topic; have it created when there is none."""
        topic = self._cluster.image.topic_named(CONSUMER_OFFSETS)
        if topic is None:
            try:
                async with asyncio.timeout(_CREATE_TIMEOUT_S), self._creating:
                    if self._cluster.image.topic_named(CONSUMER_OFFSETS) is None:
                        await self._controller.create_internal_topic(CONSUMER_OFFSETS)
            except TimeoutError as error:
                raise CoordinatorNotAvailableError(
                    f"topic {CONSUMER_OFFSETS} could not be created in {_CREATE_TIMEOUT_S} s"
                ) from error
            topic = self._cluster.image.topic_named(CONSUMER_OFFSETS)
        if topic is None:
            raise CoordinatorNotAvailableError(f"topic {CONSUMER_OFFSETS} is being created")
        return topic


async def _read_frames(groups: PartitionGroups, stream: MemberStream, context: Any) -> None:
    host = _host_of(context)
    while stream.ended is None:
        request = await context.read()
        if request is grpc.aio.EOF:
            return
        groups.on_frame(stream, frame_from_proto(request, host))


async def _in_time(answer: Any, context: Any) -> Any:
    """Await an answer for as long as the client does, and no longer than is reasonable."""
    remaining_s = context.time_remaining()
    timeout_s = min(_REQUEST_TIMEOUT_S if remaining_s is None else remaining_s, _REQUEST_TIMEOUT_S)
    try:
        async with asyncio.timeout(timeout_s):
            return await answer
    except TimeoutError as error:
        raise RequestTimedOutError(
            f"not done within {timeout_s:.1f} s; it may still be done"
        ) from error


def _host_of(context: Any) -> str:
    """Return the peer's address: gRPC says `ipv4:10.0.0.7:5432` or `ipv6:%5B::1%5D:5432`."""
    _, _, address = context.peer().partition(":")
    host: str = address.rpartition(":")[0]
    return host.replace("%5B", "").replace("%5D", "")


def _names(image: ClusterImage) -> dict[TopicId, TopicName]:
    return {topic_id: topic.name for topic_id, topic in image.topics.items()}


def _check_partitions(topics: Sequence[pb.TopicPartitions]) -> None:
    check_count("topics", len(topics))
    check_count("partitions", sum(len(each.partitions) for each in topics))


def _no_leader(partition: PartitionState) -> CoordinatorNotAvailableError:
    return CoordinatorNotAvailableError(
        f"{CONSUMER_OFFSETS}-{partition.index} has no leader at the moment",
        field="group",
        value=partition.leader_id,
    )


def _result(topic_id: bytes, partition: int, error: BrokerError | None) -> pb.OffsetCommitResult:
    return pb.OffsetCommitResult(
        topic_id=topic_id,
        partition=partition,
        error=None if error is None else error_to_proto(error),
    )


def _committed(committed: OffsetCommitted, name: str) -> pb.CommittedOffset:
    return pb.CommittedOffset(
        topic_id=committed.partition.topic_id,
        topic=name,
        partition=committed.partition.partition,
        offset=committed.offset,
        leader_epoch=committed.leader_epoch,
        metadata=committed.metadata,
        commit_time_ms=committed.commit_time_ms,
    )


def _committed_in(
    wanted: pb.TopicPartitions,
    image: ClusterImage,
    known: dict[TopicIdPartition, OffsetCommitted],
) -> Iterable[pb.CommittedOffset]:
    """Answer for the partitions of one topic, each with its own error."""
    for index in wanted.partitions:
        answer = pb.CommittedOffset(
            topic_id=wanted.topic_id,
            topic=wanted.topic,
            partition=index,
            offset=_NO_OFFSET,
            leader_epoch=-1,
        )
        try:
            topic = image.topic(wanted.topic_id, wanted.topic)
            partition = image.partition(topic, index)
        except BrokerError as error:
            answer.error.CopyFrom(error_to_proto(error))
            yield answer
            continue
        found = known.get(TopicIdPartition(topic.topic_id, partition.index))
        answer.topic_id, answer.topic = topic.topic_id, topic.name
        yield answer if found is None else _committed(found, topic.name)

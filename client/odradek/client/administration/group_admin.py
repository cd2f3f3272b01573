"""Administration of consumer groups: who reads what, how far, and from where next.

A group's coordinator answers for it; a list is put together from all nodes.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias, TypeVar

import grpc

from odradek.client.administration.admin_calls import AdminCalls, raise_first
from odradek.client.administration.descriptions import (
    CommittedOffset,
    GroupDescription,
    GroupMemberDescription,
    GroupMemberState,
    GroupState,
    GroupSummary,
)
from odradek.client.administration.group_listing import groups_of_all, with_near_names
from odradek.client.cluster.connections import Connection, unary
from odradek.client.cluster.coordinator import NO_MEMBER, Coordinator, from_topic_partitions
from odradek.client.cluster.image import TopicInfo
from odradek.client.cluster.log_offsets import at_time, list_offsets
from odradek.client.cluster.retries import retrying
from odradek.client.cluster.scope import Scope
from odradek.client.config import Isolation
from odradek.client.consuming.positions import (
    Anchor,
    LogPosition,
    Target,
    TopicIdPartition,
)
from odradek.protocol.errors import (
    GroupIdNotFoundError,
    InvalidRequestError,
    OdradekError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    error_from_proto,
)
from odradek.protocol.names import check_group_id
from odradek.protocol.types import (
    NO_LEADER_EPOCH,
    Offset,
    PartitionIndex,
    TopicName,
    TopicPartition,
)
from odradek.v1 import error_pb2, group_pb2

Q = TypeVar("Q")
A = TypeVar("A")

OffsetPoint: TypeAlias = Literal["earliest", "latest"] | int | datetime | timedelta
"""An end of the log, an offset, a moment, or so long ago."""

_GROUP_STATES = {
    group_pb2.GROUP_STATE_EMPTY: GroupState.EMPTY,
    group_pb2.GROUP_STATE_ASSIGNING: GroupState.ASSIGNING,
    group_pb2.GROUP_STATE_RECONCILING: GroupState.RECONCILING,
    group_pb2.GROUP_STATE_STABLE: GroupState.STABLE,
    group_pb2.GROUP_STATE_DEAD: GroupState.DEAD,
}
_MEMBER_STATES = {
    group_pb2.MEMBER_STATE_STABLE: GroupMemberState.STABLE,
    group_pb2.MEMBER_STATE_UNREVOKED_PARTITIONS: GroupMemberState.UNREVOKED_PARTITIONS,
    group_pb2.MEMBER_STATE_UNRELEASED_PARTITIONS: GroupMemberState.UNRELEASED_PARTITIONS,
}


class HasError(Protocol):
    """One entry of an answer."""

    @property
    def error(self) -> error_pb2.Error:
        """Why it was refused."""

    def HasField(self, name: Literal["error"], /) -> bool:  # noqa: N802 protobuf's name
        """True when it was refused."""


class GroupAdmin:
    """The part of the admin face that is about groups and offsets."""

    def __init__(self, scope: Scope, calls: AdminCalls) -> None:
        self._scope = scope
        self._calls = calls

    async def list_groups(self) -> list[GroupSummary]:
        """Return every group of the cluster, by name.

        Raises:
            NodesUnreachableError: No node answered at all.
            ConnectionLostError, RequestTimedOutError: A live node did not answer, so the list would
                have holes.
        """
        self._scope.check()
        await self._scope.metadata.ready(timeout_s=self._scope.options.operation_timeout_s)
        found = {
            each.group: GroupSummary(
                each.group, _GROUP_STATES.get(each.state, GroupState.UNKNOWN), each.member_count
            )
            for each in await self._retrying(lambda: groups_of_all(self._scope), "list groups")
        }
        return [found[group] for group in sorted(found)]

    async def describe_group(self, group: str) -> GroupDescription:
        """Return a group with its members.

        Raises:
            GroupIdNotFoundError: With near names.
        """
        answer = await self._at_coordinator(
            group,
            lambda node: node.group.DescribeGroups,
            group_pb2.DescribeGroupsRequest(groups=[group]),
            lambda answer: answer.groups,
        )
        (described,) = answer.groups
        return GroupDescription(
            described.group,
            _GROUP_STATES.get(described.state, GroupState.UNKNOWN),
            described.group_epoch,
            described.assignment_epoch,
            described.assignor,
            described.coordinator_id,
            tuple(_member(each) for each in described.members),
        )

    async def delete_group(self, group: str) -> None:
        """Delete an empty group with its offsets.

        Raises:
            NonEmptyGroupError: It has members.
            GroupIdNotFoundError: With near names.
        """
        await self._at_coordinator(
            group,
            lambda node: node.group.DeleteGroups,
            group_pb2.DeleteGroupsRequest(groups=[group]),
            lambda answer: answer.groups,
        )

    async def committed_offsets(self, group: str) -> dict[TopicPartition, CommittedOffset]:
        """Return every offset a group has committed."""
        answer = await self._at_coordinator(
            group,
            lambda node: node.group.FetchOffsets,
            group_pb2.FetchOffsetsRequest(group=group, member_epoch=NO_MEMBER[1]),
            lambda answer: answer.offsets,
        )
        return {
            TopicPartition(TopicName(each.topic), PartitionIndex(each.partition)): CommittedOffset(
                each.offset, each.metadata, each.commit_time_ms
            )
            for each in sorted(answer.offsets, key=lambda each: (each.topic, each.partition))
            if each.offset >= 0
        }

    async def delete_offsets(self, group: str, topic: str) -> None:
        """Forget what a group has committed in a topic nobody in it reads.

        Raises:
            NonEmptyGroupError: A member subscribes the topic.
        """
        info = await self._topic(topic)
        await self._at_coordinator(
            group,
            lambda node: node.group.DeleteOffsets,
            group_pb2.DeleteOffsetsRequest(
                group=group,
                partitions=[
                    group_pb2.TopicPartitions(
                        topic_id=info.topic_id,
                        topic=info.name,
                        partitions=range(len(info.partitions)),
                    )
                ],
            ),
            lambda answer: answer.offsets,
        )

    async def list_offsets(
        self, topic: str, at: OffsetPoint = "latest", *, partitions: Iterable[int] | None = None
    ) -> dict[TopicPartition, int]:
        """Return where a point lies in each partition.

        Args:
            topic: Which.
            at: An end, a moment, or so long ago: the first record at or after it, else the end.
            partitions: Which; None: all.

        Raises:
            UnknownTopicOrPartitionError: With near names.
            OffsetOutOfRangeError: `at` is an offset the log does not have.
        """
        found = await self._find(topic, at, partitions)
        return {partition.name: position.offset for partition, position in found.items()}

    async def reset_offsets(
        self, group: str, topic: str, to: OffsetPoint, *, partitions: Iterable[int] | None = None
    ) -> dict[TopicPartition, int]:
        """Let an empty group go on from another place.

        Args:
            group: Which; it needs no members, and need not exist.
            topic: In which topic.
            to: As in `list_offsets`.
            partitions: Which; None: all.

        Returns:
            The offsets committed.

        Raises:
            NonEmptyGroupError: It has members: stop its consumers first.
            OffsetOutOfRangeError: `to` is an offset the log does not have.
        """
        check_group_id(group)
        found = await self._find(topic, to, partitions)
        await self._at_coordinator(
            group,
            lambda node: node.group.CommitOffsets,
            group_pb2.CommitOffsetsRequest(
                group=group,
                member_epoch=NO_MEMBER[1],
                offsets=[
                    group_pb2.OffsetCommit(
                        topic_id=partition.topic_id,
                        topic=partition.topic,
                        partition=partition.partition,
                        offset=position.offset,
                        leader_epoch=position.leader_epoch,
                    )
                    for partition, position in found.items()
                ],
            ),
            lambda answer: answer.offsets,
        )
        return {partition.name: position.offset for partition, position in found.items()}

    # ------------------------------------------------------------------ inside

    async def _topic(self, name: str) -> TopicInfo:
        self._scope.check()
        return await self._scope.metadata.topic(
            name, timeout_s=self._scope.options.operation_timeout_s
        )

    async def _at_coordinator(
        self,
        group: str,
        method: Callable[[Connection], grpc.aio.UnaryUnaryMultiCallable[Q, A]],
        request: Q,
        results: Callable[[A], Iterable[HasError]],
    ) -> A:
        """Ask the coordinator, wherever it moves; raise the first error among the results."""
        self._scope.check()
        name = check_group_id(group)

        async def attempt() -> A:
            connection = await Coordinator(self._scope, name).connection()
            answer = await unary(
                method(connection), request, timeout_s=self._scope.options.request_timeout_s
            )
            raise_first(
                error_from_proto(each.error) for each in results(answer) if each.HasField("error")
            )
            return answer

        try:
            return await self._retrying(attempt, f"group {group!r}")
        except GroupIdNotFoundError as unknown:
            raise await with_near_names(self._scope, unknown, group) from None

    async def _find(
        self, topic: str, at: OffsetPoint, partitions: Iterable[int] | None
    ) -> dict[TopicIdPartition, LogPosition]:
        info = await self._topic(topic)
        count = len(info.partitions)
        wanted = range(count) if partitions is None else sorted(set(partitions))
        for index in wanted:
            if not 0 <= index < count:
                raise UnknownTopicOrPartitionError(
                    f"topic {topic!r} has partitions 0 to {count - 1}, not {index}",
                    field="partitions",
                    value=index,
                    limit=count - 1,
                )
        every = [
            TopicIdPartition(info.name, PartitionIndex(each), info.topic_id) for each in wanted
        ]
        if isinstance(at, int):
            return await self._check_offset(every, at)
        return await self._ask(dict.fromkeys(every, _target(at)))

    async def _check_offset(
        self, partitions: list[TopicIdPartition], offset: int
    ) -> dict[TopicIdPartition, LogPosition]:
        first = await self._ask(dict.fromkeys(partitions, Anchor.EARLIEST))
        end = await self._ask(dict.fromkeys(partitions, Anchor.LATEST))
        for each in partitions:
            if not first[each].offset <= offset <= end[each].offset:
                raise OffsetOutOfRangeError(
                    f"{each} has offsets {first[each].offset} to {end[each].offset}, not {offset}",
                    field="to",
                    value=offset,
                    limit=f"{first[each].offset}..{end[each].offset}",
                )
        return dict.fromkeys(partitions, LogPosition(Offset(offset), NO_LEADER_EPOCH))

    async def _ask(
        self, questions: Mapping[TopicIdPartition, Target]
    ) -> dict[TopicIdPartition, LogPosition]:
        async def attempt() -> dict[TopicIdPartition, LogPosition]:
            answers = await list_offsets(self._scope, questions, Isolation.READ_COMMITTED)
            raise_first(each for each in answers.values() if isinstance(each, OdradekError))
            return {
                partition: answer
                for partition, answer in answers.items()
                if isinstance(answer, LogPosition)
            }

        return await self._retrying(attempt, "list offsets")

    async def _retrying(self, attempt: Callable[[], Awaitable[A]], what: str) -> A:
        return await retrying(
            attempt,
            what=what,
            timeout_s=self._scope.options.operation_timeout_s,
            chance=self._scope.chance,
        )


def _target(at: datetime | timedelta | str) -> Target:
    match at:
        case datetime() | timedelta():
            return at_time(at, time.time())
        case "earliest":
            return Anchor.EARLIEST
        case "latest":
            return Anchor.LATEST
    raise InvalidRequestError(
        f"{at!r} is not 'earliest', 'latest', an offset, a datetime or a timedelta",
        field="to",
        value=at,
    )


def _member(member: group_pb2.GroupMemberDescription) -> GroupMemberDescription:
    return GroupMemberDescription(
        member_id=member.member_id,
        instance_id=member.instance_id or None,
        client_id=member.client_id,
        client_host=member.client_host,
        member_epoch=member.member_epoch,
        state=_MEMBER_STATES.get(member.state, GroupMemberState.UNKNOWN),
        topics=tuple(member.topics),
        assigned=_partitions(member.assigned),
        target=_partitions(member.target),
        rack=member.rack,
    )


def _partitions(listed: Iterable[group_pb2.TopicPartitions]) -> tuple[TopicPartition, ...]:
    return tuple(sorted(each.name for each in from_topic_partitions(listed)))

"""The node that coordinates a group, and what it is asked: committed offsets.

Every node can name the coordinator. It is remembered until somebody finds it gone; each request is
one attempt, and whoever asks decides about repeating it.
"""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import grpc

from odradek.client.cluster.connections import Connection, unary
from odradek.client.cluster.scope import Scope
from odradek.client.consuming.positions import CommitPoint, LogPosition, TopicIdPartition
from odradek.client.errors import NodesUnreachableError
from odradek.protocol.errors import (
    BrokerError,
    OdradekError,
    RequestTimedOutError,
    error_from_proto,
)
from odradek.protocol.types import (
    GroupId,
    LeaderEpoch,
    MemberId,
    Offset,
    PartitionIndex,
    TopicId,
    TopicName,
)
from odradek.rpc.channels import ConnectionLostError
from odradek.v1 import group_pb2

Q = TypeVar("Q")
A = TypeVar("A")

NO_MEMBER: Final = (MemberId(""), -1)
"""Member id and epoch of a reader outside the group: manual assignment and tools."""

_FIND_TIMEOUT_S: Final = 2.0


class Coordinator:
    """One group's coordinator, as far as this consumer knows."""

    def __init__(self, scope: Scope, group: GroupId) -> None:
        self._scope = scope
        self._group = group
        self._address: str | None = None
        self._commits = 0

    async def connection(self) -> Connection:
        """Return the connection to the coordinator, asking any node if it is not known.

        Raises:
            NodesUnreachableError: No node answers.
            BrokerError: What a node answered; retriable when there is no coordinator right now.
        """
        if self._address is None:
            self._address = await self._find()
        return self._scope.connections.to(self._address)

    def forget(self) -> None:
        """Ask again next time: the coordinator did not answer, or says it is none."""
        self._address = None

    async def commit(
        self, points: Sequence[CommitPoint], member: tuple[MemberId, int], metadata: str = ""
    ) -> list[BrokerError | None]:
        """Commit offsets, once.

        Args:
            points: What to commit.
            member: Member id and epoch.
            metadata: Free text for each of them.

        Returns:
            For each point why it was refused, or None.

        Raises:
            OdradekError: The call as a whole failed; its outcome may be unknown.
        """
        self._commits += 1
        request = group_pb2.CommitOffsetsRequest(
            group=self._group,
            member_id=member[0],
            member_epoch=member[1],
            sequence=self._commits,
            offsets=[
                group_pb2.OffsetCommit(
                    topic_id=point.partition.topic_id,
                    topic=point.partition.topic,
                    partition=point.partition.partition,
                    offset=point.offset,
                    leader_epoch=point.leader_epoch,
                    metadata=metadata,
                )
                for point in points
            ],
        )
        connection = await self.connection()
        answer = await self._call(connection.group.CommitOffsets, request)
        refused = {
            (result.topic_id, result.partition): error_from_proto(result.error)
            for result in answer.offsets
            if result.HasField("error")
        }
        self._heed(refused.values())
        return [refused.get((each.partition.topic_id, each.partition.partition)) for each in points]

    async def committed(
        self,
        partitions: Iterable[TopicIdPartition],
        member: tuple[MemberId, int],
        *,
        require_stable: bool,
    ) -> dict[TopicIdPartition, LogPosition | None]:
        """Read committed offsets, once; None where there is none.

        Raises:
            OdradekError: The call, or one of its partitions, failed.
        """
        wanted = {(each.topic_id, each.partition): each for each in partitions}
        request = group_pb2.FetchOffsetsRequest(
            group=self._group,
            member_id=member[0],
            member_epoch=member[1],
            partitions=topic_partitions(wanted.values()),
            require_stable=require_stable,
        )
        connection = await self.connection()
        answer = await self._call(connection.group.FetchOffsets, request)
        errors = [error_from_proto(each.error) for each in answer.offsets if each.HasField("error")]
        self._heed(errors)
        if errors:
            raise errors[0]
        found: dict[TopicIdPartition, LogPosition | None] = dict.fromkeys(wanted.values())
        for each in answer.offsets:
            key = (TopicId(each.topic_id), PartitionIndex(each.partition))
            if key in wanted and each.offset >= 0:
                found[wanted[key]] = LogPosition(
                    Offset(each.offset), LeaderEpoch(each.leader_epoch)
                )
        return found

    async def _find(self) -> str:
        last: OdradekError | None = None
        for address in self._scope.metadata.addresses():
            try:
                found = await unary(
                    self._scope.connections.to(address).group.FindCoordinator,
                    group_pb2.FindCoordinatorRequest(group=self._group),
                    timeout_s=min(_FIND_TIMEOUT_S, self._scope.options.request_timeout_s),
                )
            except (ConnectionLostError, RequestTimedOutError) as error:
                last = error
            else:
                return f"{found.host}:{found.port}"
        raise NodesUnreachableError(
            f"no node names the coordinator of group {self._group!r}: {last}",
            field="group",
            value=self._group,
        )

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q) -> A:
        try:
            return await unary(method, request, timeout_s=self._scope.options.request_timeout_s)
        except OdradekError as error:
            self._heed([error])
            raise

    def _heed(self, errors: Iterable[OdradekError]) -> None:
        """Look for the coordinator anew after errors that say it moved."""
        if any(
            error.refreshes_metadata or isinstance(error, RequestTimedOutError) for error in errors
        ):
            self.forget()


def topic_partitions(partitions: Iterable[TopicIdPartition]) -> list[group_pb2.TopicPartitions]:
    """Group partitions by topic, as the contract lists them."""
    by_topic: dict[tuple[TopicName, TopicId], list[int]] = {}
    for each in sorted(partitions):
        by_topic.setdefault((each.topic, each.topic_id), []).append(each.partition)
    return [
        group_pb2.TopicPartitions(topic_id=topic_id, topic=topic, partitions=indexes)
        for (topic, topic_id), indexes in by_topic.items()
    ]


def from_topic_partitions(
    listed: Iterable[group_pb2.TopicPartitions],
) -> frozenset[TopicIdPartition]:
    """Return the partitions a contract's list names."""
    return frozenset(
        TopicIdPartition(TopicName(each.topic), PartitionIndex(index), TopicId(each.topic_id))
        for each in listed
        for index in each.partitions
    )

"""Administration of replicas: how many, where, and which nodes are to be empty.

A call returns once its moves have begun; they end by themselves, as new replicas come into sync.
"""

from collections.abc import Sequence

from odradek.client.administration.admin_calls import AdminCalls, int32, raise_first
from odradek.client.administration.descriptions import (
    PartitionDescription,
    Reassignment,
    ReplicaProgress,
    TopicSummary,
)
from odradek.protocol.errors import (
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    NodeIdNotRegisteredError,
    UnknownTopicOrPartitionError,
    error_from_proto,
)
from odradek.v1 import admin_pb2, metadata_pb2


class ReplicaAdmin:
    """The part of the admin face that moves replicas."""

    _calls: AdminCalls

    async def alter_replication(
        self, topic: str, replication: int, *, validate_only: bool = False
    ) -> TopicSummary:
        """Give every partition of a topic more or fewer replicas.

        Args:
            topic: Which.
            replication: How many each is to have.
            validate_only: Check and change nothing.

        Raises:
            InvalidReplicationFactorError: None, or more than there are live nodes.
            InvalidConfigError: Fewer than the topic's min.insync.replicas.
            UnknownTopicOrPartitionError: With near names.
        """
        new = admin_pb2.TopicReplication(
            topic=admin_pb2.TopicRef(name=topic),
            replication_factor=int32(
                replication, field="replication", refusal=InvalidReplicationFactorError
            ),
        )
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.AlterReplication,
            admin_pb2.AlterReplicationRequest(topics=[new], validate_only=validate_only),
            what="alter replication",
        )
        (result,) = answer.topics
        raise_first([error_from_proto(result.error)] if result.HasField("error") else [])
        if not validate_only:
            await self._calls.see(answer.version)
        return TopicSummary(
            result.name, result.topic_id.hex(), result.partitions, result.replication_factor
        )

    async def reassign(self, topic: str, partition: int, replicas: Sequence[int] | None) -> None:
        """Give one partition other replicas, or take that back.

        Args:
            topic: Which.
            partition: Its index.
            replicas: The nodes that are to hold it, the preferred leader first; None ends the move
                under way with the replicas there were before it.

        Raises:
            InvalidReplicaAssignmentError: None, one twice, or a node that is unknown, dead or being
                drained; or nobody with all records would be left.
            UnknownTopicOrPartitionError: With near names.
        """
        move = admin_pb2.PartitionReassignment(
            topic=admin_pb2.TopicRef(name=topic),
            partition=int32(partition, field="partition", refusal=UnknownTopicOrPartitionError),
            replicas=[
                int32(each, field="replicas", refusal=InvalidReplicaAssignmentError)
                for each in replicas or ()
            ],
            cancel=replicas is None,
        )
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.AlterPartitionReassignments,
            admin_pb2.AlterPartitionReassignmentsRequest(partitions=[move]),
            what="reassign a partition",
        )
        raise_first(
            error_from_proto(each.error) for each in answer.partitions if each.HasField("error")
        )
        await self._calls.see(answer.version)

    async def list_reassignments(self) -> list[Reassignment]:
        """Return what is moving and how far it is, internal topics included."""
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.ListPartitionReassignments,
            admin_pb2.ListPartitionReassignmentsRequest(),
            what="list reassignments",
        )
        return [
            Reassignment(
                each.topic,
                describe_partition(each.partition),
                tuple(
                    ReplicaProgress(one.node_id, one.log_bytes, one.missing_bytes)
                    for one in each.progress
                ),
            )
            for each in answer.reassignments
        ]

    async def drain_node(self, node_id: int, *, cancel: bool = False) -> int:
        """Have everything moved off a node, a few partitions at a time, and nothing placed there.

        Args:
            node_id: Which; it may be dead.
            cancel: Let it have replicas again instead.

        Returns:
            How many replicas are to move; `describe_cluster` shows how many are left.

        Raises:
            InvalidReplicationFactorError: The other nodes are too few for what it holds.
            NodeIdNotRegisteredError: There is no such node.
        """
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.DrainNode,
            admin_pb2.DrainNodeRequest(node_id=_node_id(node_id), cancel=cancel),
            what="drain a node",
        )
        await self._calls.see(answer.version)
        return answer.replica_count

    async def remove_node(self, node_id: int) -> None:
        """Forget a node that has stopped and holds nothing.

        Raises:
            InvalidRequestError: It is alive, or holds replicas.
            NodeIdNotRegisteredError: There is no such node.
        """
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.RemoveNode,
            admin_pb2.RemoveNodeRequest(node_id=_node_id(node_id)),
            what="remove a node",
        )
        await self._calls.see(answer.version)


def _node_id(node_id: int) -> int:
    return int32(node_id, field="node_id", refusal=NodeIdNotRegisteredError)


def describe_partition(partition: metadata_pb2.PartitionMetadata) -> PartitionDescription:
    """Return a partition without protobuf."""
    return PartitionDescription(
        partition.partition,
        None if partition.leader_id < 0 else partition.leader_id,
        partition.leader_epoch,
        tuple(partition.replicas),
        tuple(partition.isr),
        tuple(partition.elr),
        tuple(partition.adding_replicas),
        tuple(partition.removing_replicas),
    )

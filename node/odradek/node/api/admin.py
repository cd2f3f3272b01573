"""AdminService: changes go to the active controller, descriptions come from this node's image."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from odradek.node.api.limits import NAMES_MAX, check_count
from odradek.node.cluster.controller_link import ControllerLink
from odradek.node.cluster.controllers import Controllers
from odradek.node.cluster.image import ClusterImage, PartitionState
from odradek.node.cluster.translation import node_to_proto, partition_to_proto
from odradek.node.cluster.view import ClusterView
from odradek.node.replication.lags import Lags
from odradek.protocol.errors import BrokerError, error_to_proto
from odradek.protocol.topic_config import settings_in_force
from odradek.protocol.types import NO_NODE, NodeId
from odradek.v1 import admin_pb2 as pb
from odradek.v1 import admin_pb2_grpc, controller_pb2
from odradek.v1.replica_pb2 import LedLog

_CHANGE_TIMEOUT_S: Final = 15.0
_ANSWER_MARGIN_S: Final = 0.1


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Passes on and describes; decides nothing."""

    def __init__(
        self, view: ClusterView, controllers: Controllers, link: ControllerLink, lags: Lags
    ) -> None:
        self._view = view
        self._controllers = controllers
        self._link = link
        self._lags = lags

    async def CreateTopics(  # noqa: N802
        self, request: pb.CreateTopicsRequest, context: Any
    ) -> pb.CreateTopicsResponse:
        """Create topics; answers once this node knows them."""
        command = controller_pb2.SubmitRequest(create_topics=request)
        return (await self._submit(command, context)).create_topics

    async def DeleteTopics(  # noqa: N802
        self, request: pb.DeleteTopicsRequest, context: Any
    ) -> pb.DeleteTopicsResponse:
        """Delete topics with their data."""
        command = controller_pb2.SubmitRequest(delete_topics=request)
        return (await self._submit(command, context)).delete_topics

    async def CreatePartitions(  # noqa: N802
        self, request: pb.CreatePartitionsRequest, context: Any
    ) -> pb.CreatePartitionsResponse:
        """Add partitions to topics."""
        command = controller_pb2.SubmitRequest(create_partitions=request)
        return (await self._submit(command, context)).create_partitions

    async def AlterTopicConfigs(  # noqa: N802
        self, request: pb.AlterTopicConfigsRequest, context: Any
    ) -> pb.AlterTopicConfigsResponse:
        """Change settings of topics."""
        command = controller_pb2.SubmitRequest(alter_topic_configs=request)
        return (await self._submit(command, context)).alter_topic_configs

    async def AlterReplication(  # noqa: N802
        self, request: pb.AlterReplicationRequest, context: Any
    ) -> pb.AlterReplicationResponse:
        """Give topics more or fewer replicas."""
        command = controller_pb2.SubmitRequest(alter_replication=request)
        return (await self._submit(command, context)).alter_replication

    async def AlterPartitionReassignments(  # noqa: N802
        self, request: pb.AlterPartitionReassignmentsRequest, context: Any
    ) -> pb.AlterPartitionReassignmentsResponse:
        """Give partitions other replicas, or take that back."""
        command = controller_pb2.SubmitRequest(alter_partition_reassignments=request)
        return (await self._submit(command, context)).alter_partition_reassignments

    async def DrainNode(  # noqa: N802
        self, request: pb.DrainNodeRequest, context: Any
    ) -> pb.DrainNodeResponse:
        """Have a node emptied."""
        command = controller_pb2.SubmitRequest(drain_node=request)
        return (await self._submit(command, context)).drain_node

    async def RemoveNode(  # noqa: N802
        self, request: pb.RemoveNodeRequest, context: Any
    ) -> pb.RemoveNodeResponse:
        """Forget a node."""
        command = controller_pb2.SubmitRequest(remove_node=request)
        return (await self._submit(command, context)).remove_node

    async def _submit(
        self, command: controller_pb2.SubmitRequest, context: Any
    ) -> controller_pb2.SubmitResponse:
        remaining_s = context.time_remaining()
        if remaining_s is None:
            return await self._link.submit(command, _CHANGE_TIMEOUT_S)
        # Leave the client time to hear that the outcome is unknown.
        timeout_s = min(max(remaining_s - _ANSWER_MARGIN_S, 0.0), _CHANGE_TIMEOUT_S)
        return await self._link.submit(command, timeout_s)

    async def DescribeTopicConfigs(  # noqa: N802
        self, request: pb.DescribeTopicConfigsRequest, context: Any
    ) -> pb.DescribeTopicConfigsResponse:
        """Return every setting of topics, defaults included."""
        del context
        check_count("topics", len(request.topics), NAMES_MAX)
        image = self._view.image
        return pb.DescribeTopicConfigsResponse(
            topics=[_describe_config(image, ref) for ref in request.topics]
        )

    async def ListPartitionReassignments(  # noqa: N802
        self, request: pb.ListPartitionReassignmentsRequest, context: Any
    ) -> pb.ListPartitionReassignmentsResponse:
        """Return the partitions whose replicas are moving, and how far each replica is."""
        del request, context
        moving = [
            (topic, partition)
            for topic in sorted(self._view.image.topics.values(), key=lambda topic: topic.name)
            for partition in topic.partitions
            if _is_moving(partition)
        ]
        logs = await self._lags.of(partition for _, partition in moving)
        return pb.ListPartitionReassignmentsResponse(
            reassignments=[
                pb.OngoingReassignment(
                    topic=topic.name,
                    topic_id=topic.topic_id,
                    partition=partition_to_proto(partition),
                    progress=_progress(partition, logs.get(partition.uid)),
                )
                for topic, partition in moving
            ]
        )

    async def DescribeCluster(  # noqa: N802
        self, request: pb.DescribeClusterRequest, context: Any
    ) -> pb.DescribeClusterResponse:
        """Count what there is."""
        del request, context
        image = self._view.image
        partitions = [each for topic in image.topics.values() for each in topic.partitions]
        leaders = Counter(partition.leader_id for partition in partitions)
        replicas: Counter[NodeId] = Counter()
        receiving: Counter[NodeId] = Counter()
        leaving: Counter[NodeId] = Counter()
        for partition in partitions:
            replicas.update(partition.replicas)
            receiving.update(partition.adding_replicas)
            leaving.update(partition.removing_replicas)
        return pb.DescribeClusterResponse(
            cluster_id=self._view.cluster_id,
            version=image.version,
            nodes=[
                pb.NodeStatus(
                    node=node_to_proto(node),
                    leader_count=leaders[node.node_id],
                    replica_count=replicas[node.node_id],
                    receiving_count=receiving[node.node_id],
                    leaving_count=leaving[node.node_id],
                )
                for node in image.nodes.values()
            ],
            controllers=[
                pb.ControllerStatus(
                    controller_id=peer.controller_id,
                    address=peer.address,
                    active=peer is self._controllers.active,
                    reachable=peer.reachable,
                )
                for peer in self._controllers.peers
            ],
            topic_count=len(image.topics),
            partition_count=len(partitions),
            leaderless_count=leaders[NO_NODE],
            under_replicated_count=sum(map(_is_under_replicated, partitions)),
            moving_count=sum(map(_is_moving, partitions)),
        )


def _is_moving(partition: PartitionState) -> bool:
    return bool(partition.adding_replicas or partition.removing_replicas)


def _progress(partition: PartitionState, log: LedLog | None) -> Iterator[pb.ReplicaProgress]:
    if log is None:
        return
    for follower in log.followers:
        if follower.node_id in partition.adding_replicas:
            yield pb.ReplicaProgress(
                node_id=follower.node_id,
                log_bytes=log.size_bytes,
                missing_bytes=follower.missing_bytes,
            )


def _is_under_replicated(partition: PartitionState) -> bool:
    """Tell whether a replica that was to be had already is out of sync."""
    expected = set(partition.replicas).difference(partition.adding_replicas)
    return not expected.issubset(partition.isr)


def _describe_config(image: ClusterImage, ref: pb.TopicRef) -> pb.TopicConfigDescription:
    try:
        topic = image.topic(ref.topic_id, ref.name)
    except BrokerError as error:
        return pb.TopicConfigDescription(
            name=ref.name, topic_id=ref.topic_id, error=error_to_proto(error)
        )
    # What a majority is of, while replicas are added: of those there were.
    first = topic.partitions[0]
    replication = len(first.replicas) - len(first.adding_replicas)
    return pb.TopicConfigDescription(
        name=topic.name,
        topic_id=topic.topic_id,
        entries=[
            pb.ConfigEntry(
                key=each.setting.key,
                value=each.value,
                is_default=each.is_default,
                documentation=each.setting.documentation,
            )
            for each in settings_in_force(topic.config, replication=replication)
        ],
    )

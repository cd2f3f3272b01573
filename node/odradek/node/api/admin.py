"""AdminService: changes go to the active controller, descriptions come from this node's image."""

from collections import Counter
from typing import Any, Final

from odradek.node.cluster.controller_link import ControllerLink
from odradek.node.cluster.controllers import Controllers
from odradek.node.cluster.image import ClusterImage
from odradek.node.cluster.translation import node_to_proto
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import BrokerError, error_to_proto
from odradek.protocol.topic_config import settings_in_force
from odradek.protocol.types import NO_NODE, NodeId
from odradek.v1 import admin_pb2 as pb
from odradek.v1 import admin_pb2_grpc, controller_pb2

_CHANGE_TIMEOUT_S: Final = 15.0
_ANSWER_MARGIN_S: Final = 0.1


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Passes on and describes; decides nothing."""

    def __init__(self, view: ClusterView, controllers: Controllers, link: ControllerLink) -> None:
        self._view = view
        self._controllers = controllers
        self._link = link

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
        image = self._view.image
        return pb.DescribeTopicConfigsResponse(
            topics=[_describe_config(image, ref) for ref in request.topics]
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
        for partition in partitions:
            replicas.update(partition.replicas)
        return pb.DescribeClusterResponse(
            cluster_id=self._view.cluster_id,
            version=image.version,
            nodes=[
                pb.NodeStatus(
                    node=node_to_proto(node),
                    leader_count=leaders[node.node_id],
                    replica_count=replicas[node.node_id],
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
            under_replicated_count=sum(len(each.isr) < len(each.replicas) for each in partitions),
        )


def _describe_config(image: ClusterImage, ref: pb.TopicRef) -> pb.TopicConfigDescription:
    try:
        topic = image.topic(ref.topic_id, ref.name)
    except BrokerError as error:
        return pb.TopicConfigDescription(
            name=ref.name, topic_id=ref.topic_id, error=error_to_proto(error)
        )
    replication = len(topic.partitions[0].replicas)
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

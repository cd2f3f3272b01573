"""From the wire's metadata messages to the client's image."""

from odradek.client.cluster.image import (
    ClusterImage,
    NodeInfo,
    PartitionInfo,
    TopicInfo,
    with_partition,
)
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicName
from odradek.v1 import metadata_pb2


def apply_update(image: ClusterImage, response: metadata_pb2.WatchMetadataResponse) -> ClusterImage:
    """Return the image after an update, applied as one step."""
    update = response.update
    nodes = {} if update.snapshot else dict(image.nodes)
    topics = {} if update.snapshot else dict(image.topics)
    names = {} if update.snapshot else dict(image.names)
    for node in update.nodes:
        nodes[NodeId(node.node_id)] = node_info(node)
    for node_id in update.removed_node_ids:
        nodes.pop(NodeId(node_id), None)
    for removed in update.removed_topic_ids:
        name = names.pop(TopicId(removed), None)
        if name is not None and topics[name].topic_id == removed:
            del topics[name]
    for topic in update.topics:
        info = topic_info(topic)
        topics[info.name] = info
        names[info.topic_id] = info.name
    for changed in update.partitions:
        name = names.get(TopicId(changed.topic_id))
        if name is not None:
            topics[name] = with_partition(topics[name], partition_info(changed.partition))
    return ClusterImage(response.cluster_id, update.version, nodes, topics, names)


def node_info(node: metadata_pb2.NodeMetadata) -> NodeInfo:
    """Translate a node."""
    return NodeInfo(
        NodeId(node.node_id), node.host, node.port, node.rack, node.fenced, node.draining
    )


def topic_info(topic: metadata_pb2.TopicMetadata) -> TopicInfo:
    """Translate a topic."""
    return TopicInfo(
        TopicName(topic.name),
        TopicId(topic.topic_id),
        tuple(partition_info(each) for each in topic.partitions),
        topic.internal,
        dict(topic.config),
    )


def partition_info(partition: metadata_pb2.PartitionMetadata) -> PartitionInfo:
    """Translate a partition."""
    return PartitionInfo(
        PartitionIndex(partition.partition),
        NodeId(partition.leader_id),
        LeaderEpoch(partition.leader_epoch),
        tuple(NodeId(each) for each in partition.replicas),
        tuple(NodeId(each) for each in partition.isr),
    )

"""What nodes are told of the cluster."""

from odradek.controller.state.image import ClusterImage
from odradek.controller.state.records import Node, Partition, Topic
from odradek.protocol.names import INTERNAL_TOPICS
from odradek.v1 import metadata_pb2


def node_to_proto(node: Node) -> metadata_pb2.NodeMetadata:
    """Return the message of a node."""
    return metadata_pb2.NodeMetadata(
        node_id=node.node_id,
        host=node.host,
        port=node.port,
        rack=node.rack,
        fenced=node.fenced,
        incarnation=node.incarnation,
        draining=node.draining,
        stopping=node.stopping,
        storage_full=node.storage_full,
        store_set_aside=node.store_set_aside,
    )


def topic_to_proto(image: ClusterImage, topic: Topic) -> metadata_pb2.TopicMetadata:
    """Return the message of a topic, whole."""
    return metadata_pb2.TopicMetadata(
        name=topic.name,
        topic_id=topic.topic_id,
        internal=topic.name in INTERNAL_TOPICS,
        partitions=(
            partition_to_proto(index, partition)
            for index, partition in enumerate(image.partitions_of(topic))
        ),
        config=dict(topic.config),
    )


def partition_to_proto(index: int, partition: Partition) -> metadata_pb2.PartitionMetadata:
    """Return the message of a partition."""
    return metadata_pb2.PartitionMetadata(
        partition=index,
        uid=partition.uid,
        leader_id=partition.leader,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replicas=partition.replicas,
        isr=partition.isr,
        elr=partition.elr,
        last_known_elr=partition.last_known_elr,
        adding_replicas=partition.adding,
        removing_replicas=partition.removing,
    )

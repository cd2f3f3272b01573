"""Cluster metadata between the contract's messages and the image's values."""

from collections.abc import Iterable
from types import MappingProxyType

from odradek.node.cluster.image import ImageUpdate, NodeState, PartitionState, TopicState
from odradek.protocol.types import (
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)
from odradek.v1 import metadata_pb2


def update_from_proto(update: metadata_pb2.MetadataUpdate) -> ImageUpdate:
    """Read an image or a delta."""
    return ImageUpdate(
        version=update.version,
        snapshot=update.snapshot,
        nodes=tuple(map(_node_from_proto, update.nodes)),
        removed_node_ids=tuple(map(NodeId, update.removed_node_ids)),
        topics=tuple(map(_topic_from_proto, update.topics)),
        removed_topic_ids=tuple(map(TopicId, update.removed_topic_ids)),
        partitions=tuple(
            (TopicId(each.topic_id), _partition_from_proto(each.partition))
            for each in update.partitions
        ),
        next_partition_uid=PartitionUid(update.next_partition_uid),
    )


def update_to_proto(update: ImageUpdate) -> metadata_pb2.MetadataUpdate:
    """Write an image or a delta."""
    return metadata_pb2.MetadataUpdate(
        version=update.version,
        snapshot=update.snapshot,
        nodes=map(node_to_proto, update.nodes),
        removed_node_ids=update.removed_node_ids,
        topics=map(topic_to_proto, update.topics),
        removed_topic_ids=update.removed_topic_ids,
        partitions=(
            metadata_pb2.PartitionUpdate(topic_id=topic_id, partition=partition_to_proto(each))
            for topic_id, each in update.partitions
        ),
    )


def node_to_proto(node: NodeState) -> metadata_pb2.NodeMetadata:
    """Write a node."""
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


def topic_to_proto(topic: TopicState) -> metadata_pb2.TopicMetadata:
    """Write a topic."""
    return metadata_pb2.TopicMetadata(
        name=topic.name,
        topic_id=topic.topic_id,
        internal=topic.internal,
        partitions=map(partition_to_proto, topic.partitions),
        config=topic.config,
    )


def _node_from_proto(node: metadata_pb2.NodeMetadata) -> NodeState:
    return NodeState(
        node_id=NodeId(node.node_id),
        host=node.host,
        port=node.port,
        rack=node.rack,
        fenced=node.fenced,
        incarnation=Incarnation(node.incarnation),
        draining=node.draining,
        stopping=node.stopping,
        storage_full=node.storage_full,
        store_set_aside=node.store_set_aside,
    )


def _topic_from_proto(topic: metadata_pb2.TopicMetadata) -> TopicState:
    return TopicState(
        name=TopicName(topic.name),
        topic_id=TopicId(topic.topic_id),
        internal=topic.internal,
        partitions=tuple(map(_partition_from_proto, topic.partitions)),
        config=MappingProxyType(dict(topic.config)),
    )


def _partition_from_proto(partition: metadata_pb2.PartitionMetadata) -> PartitionState:
    return PartitionState(
        index=PartitionIndex(partition.partition),
        uid=PartitionUid(partition.uid),
        leader_id=NodeId(partition.leader_id),
        leader_epoch=LeaderEpoch(partition.leader_epoch),
        partition_epoch=PartitionEpoch(partition.partition_epoch),
        replicas=_node_ids(partition.replicas),
        isr=_node_ids(partition.isr),
        elr=_node_ids(partition.elr),
        last_known_elr=_node_ids(partition.last_known_elr),
        adding_replicas=_node_ids(partition.adding_replicas),
        removing_replicas=_node_ids(partition.removing_replicas),
    )


def partition_to_proto(partition: PartitionState) -> metadata_pb2.PartitionMetadata:
    """Write a partition."""
    return metadata_pb2.PartitionMetadata(
        partition=partition.index,
        uid=partition.uid,
        leader_id=partition.leader_id,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replicas=partition.replicas,
        isr=partition.isr,
        elr=partition.elr,
        last_known_elr=partition.last_known_elr,
        adding_replicas=partition.adding_replicas,
        removing_replicas=partition.removing_replicas,
    )


def _node_ids(ids: Iterable[int]) -> tuple[NodeId, ...]:
    return tuple(map(NodeId, ids))

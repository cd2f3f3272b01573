"""The controllers' metadata as a node keeps it."""

from odradek.controller.state.records import Partition
from odradek.node.cluster.image import ImageUpdate, NodeState, PartitionState, TopicState
from odradek.protocol.names import CONSUMER_OFFSETS
from tests.simulation.cluster.controllers import Metadata


def image_update(metadata: Metadata) -> ImageUpdate:
    """Return metadata as a node's update."""
    return ImageUpdate(
        version=metadata.version,
        nodes=tuple(
            NodeState(
                node_id=node.node_id,
                host=node.host,
                port=node.port,
                fenced=node.fenced,
                incarnation=node.incarnation,
                stopping=node.stopping,
            )
            for node in metadata.nodes.values()
        ),
        topics=tuple(
            TopicState(
                name=topic.name,
                topic_id=topic.topic_id,
                internal=topic.name == CONSUMER_OFFSETS,
                config=dict(topic.config),
                partitions=tuple(
                    partition_state(index, metadata.partitions[uid])
                    for index, uid in enumerate(topic.partitions)
                ),
            )
            for topic in metadata.topics.values()
        ),
    )


def partition_state(index: int, partition: Partition) -> PartitionState:
    """Return a controller's partition as a node knows it."""
    return PartitionState(
        index=index,  # type: ignore[arg-type]
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

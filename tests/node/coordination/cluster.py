"""An image with two topics, and groups as a controller would feed them."""

from odradek.node.cluster.image import (
    ClusterImage,
    ImageUpdate,
    NodeState,
    PartitionState,
    TopicState,
)
from odradek.node.coordination.model import Group, Member, TopicIdPartition
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import (
    GroupId,
    Incarnation,
    LeaderEpoch,
    MemberId,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)

GROUP = GroupId("live-map")
NODE = NodeId(1)
GPS, ORDERS, OFFSETS = (TopicId(letter * 16) for letter in (b"g", b"o", b"c"))


def gps(index: int) -> TopicIdPartition:
    return TopicIdPartition(GPS, PartitionIndex(index))


def topic(name: str, topic_id: TopicId, partition_count: int, leader: NodeId = NODE) -> TopicState:
    return TopicState(
        name=TopicName(name),
        topic_id=topic_id,
        internal=name == CONSUMER_OFFSETS,
        partitions=tuple(
            PartitionState(
                index=PartitionIndex(index),
                uid=PartitionUid(topic_id[0] * 1000 + index),
                leader_id=leader,
                leader_epoch=LeaderEpoch(0),
                partition_epoch=PartitionEpoch(0),
                replicas=(NODE,),
                isr=(NODE,),
            )
            for index in range(partition_count)
        ),
    )


def image_of(*topics: TopicState, version: int = 1) -> ClusterImage:
    node = NodeState(node_id=NODE, host="broker", port=7070, incarnation=Incarnation(1))
    return ClusterImage().apply(ImageUpdate(version=version, nodes=(node,), topics=topics))


IMAGE = image_of(topic("gps", GPS, 6), topic("orders", ORDERS, 3))


def group_of(*members: Member, epoch: int = 5) -> Group:
    return Group(
        group=GROUP,
        coordinator_partition=PartitionIndex(0),
        group_epoch=epoch,
        assignment_epoch=epoch,
        assignor="uniform",
        members={each.member_id: each for each in members},
    )


def member_of(
    name: str,
    assigned: dict[int, int] | None = None,
    revoking: dict[int, int] | None = None,
    *,
    epoch: int = 5,
    instance_id: str = "",
    away: bool = False,
) -> Member:
    """A member with partitions of `gps`: index -> assignment epoch."""
    return Member(
        member_id=MemberId(name),
        instance_id=instance_id,
        topics=frozenset([TopicName("gps")]),
        member_epoch=epoch,
        assigned={gps(index): since for index, since in (assigned or {}).items()},
        revoking={gps(index): since for index, since in (revoking or {}).items()},
        target=frozenset(map(gps, assigned or {})),
        away=away,
    )

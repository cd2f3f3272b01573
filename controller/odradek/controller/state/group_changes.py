"""Where consumer groups meet the rest of the cluster's state. Pure.

`groups/` knows members and assignments; here it learns which topics there are, which coordinator
may speak, and when topics came and went.
"""

from dataclasses import dataclass

from odradek.controller.state import groups
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.records import Topic
from odradek.protocol.errors import NotCoordinatorError
from odradek.protocol.names import CONSUMER_OFFSETS, INTERNAL_TOPICS
from odradek.protocol.types import LeaderEpoch, NodeId, TopicId, TopicName


@dataclass(frozen=True, slots=True)
class TopicsOfImage:
    """The topics as groups see them; internal ones cannot be subscribed."""

    image: ClusterImage

    def topic_by_name(self, name: TopicName) -> groups.SubscribedTopic | None:
        """Return the topic of this name that may be subscribed."""
        return _subscribed(self.image.topic_named(name))

    def topic_by_id(self, topic_id: TopicId) -> groups.SubscribedTopic | None:
        """Return the topic of this id that may be subscribed."""
        return _subscribed(self.image.topics.get(topic_id))

    def racks(self, partition: groups.TopicIdPartition) -> frozenset[str]:
        """Return the racks of the nodes that hold a replica."""
        found = self.image.partition(partition.topic_id, partition.partition)
        if found is None:
            return frozenset()
        nodes = (self.image.nodes.get(node_id) for node_id in found.replicas)
        return frozenset(node.rack for node in nodes if node is not None and node.rack)


def change_groups(
    draft: Draft, node_id: NodeId, leader_epoch: LeaderEpoch, changes: groups.GroupChanges
) -> groups.GroupDecision:
    """Decide what a coordinator tells of its groups.

    Raises:
        NotCoordinatorError: Another node coordinates these groups, or this one under another leader
            epoch of the partition: it must start from the state at its election.
    """
    image = draft.image
    topic = image.topic_named(CONSUMER_OFFSETS)
    partition = None
    if topic is not None:
        partition = image.partition(topic.topic_id, changes.coordinator_partition)
    if partition is None or partition.leader != node_id or partition.leader_epoch != leader_epoch:
        raise NotCoordinatorError(
            f"node {node_id} does not lead {CONSUMER_OFFSETS}-{changes.coordinator_partition} under"
            f" leader epoch {leader_epoch}",
            field="leader_epoch",
            value=leader_epoch,
            limit="" if partition is None else partition.leader_epoch,
        )
    decision = groups.decide(image.groups, changes, TopicsOfImage(image))
    for record in decision.records:
        draft.record(record)
    return decision


def adapt_groups(draft: Draft, names: frozenset[TopicName]) -> None:
    """Recompute the assignments of groups that subscribe topics created, grown or deleted."""
    topics = TopicsOfImage(draft.image)
    for record in groups.on_topics_changed(draft.image.groups, topics, names):
        draft.record(record)


def _subscribed(topic: Topic | None) -> groups.SubscribedTopic | None:
    if topic is None or topic.name in INTERNAL_TOPICS:
        return None
    return groups.SubscribedTopic(topic.topic_id, topic.name, len(topic.partitions))

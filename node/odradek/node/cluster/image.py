"""The cluster as this node knows it: nodes, topics, partitions. Pure.

Problem: many coroutines read the cluster's state while it changes under them. Idea: an image is a
value; applying an update makes the next one, so that whoever holds one sees one consistent cut.

Invariants: `version` only grows; a topic is found by its name and by its id or by neither;
`partitions[i].index == i`.

Source: Kafka's MetadataImage and MetadataDelta (KIP-500).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from odradek.protocol.errors import (
    BrokerError,
    InconsistentTopicIdError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.names import near_names
from odradek.protocol.types import (
    NO_NODE,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)

NO_TOPIC_ID = TopicId(b"")
NOT_TOLD = PartitionUid(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A registered node."""

    node_id: NodeId
    host: str
    port: int
    rack: str = ""
    fenced: bool = False
    incarnation: Incarnation
    draining: bool = False
    stopping: bool = False
    storage_full: bool = False
    store_set_aside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionState:
    """A partition; see PartitionMetadata in metadata.proto for each field."""

    index: PartitionIndex
    uid: PartitionUid
    leader_id: NodeId
    leader_epoch: LeaderEpoch
    partition_epoch: PartitionEpoch
    replicas: tuple[NodeId, ...]
    isr: tuple[NodeId, ...]
    elr: tuple[NodeId, ...] = ()
    last_known_elr: tuple[NodeId, ...] = ()
    adding_replicas: tuple[NodeId, ...] = ()
    removing_replicas: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic with all its partitions."""

    name: TopicName
    topic_id: TopicId
    internal: bool = False
    partitions: tuple[PartitionState, ...]
    config: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageUpdate:
    """One step from an image to the next, or a whole image."""

    version: int
    snapshot: bool = False
    nodes: tuple[NodeState, ...] = ()
    removed_node_ids: tuple[NodeId, ...] = ()
    topics: tuple[TopicState, ...] = ()
    removed_topic_ids: tuple[TopicId, ...] = ()
    partitions: tuple[tuple[TopicId, PartitionState], ...] = ()
    next_partition_uid: PartitionUid = NOT_TOLD


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """One consistent cut of the cluster."""

    version: int = 0
    nodes: Mapping[NodeId, NodeState] = field(default_factory=lambda: MappingProxyType({}))
    topics: Mapping[TopicId, TopicState] = field(default_factory=lambda: MappingProxyType({}))
    _id_by_name: Mapping[TopicName, TopicId] = field(default_factory=lambda: MappingProxyType({}))
    next_partition_uid: PartitionUid = NOT_TOLD
    """Every partition that ever was has a lower one."""

    def apply(self, update: ImageUpdate) -> "ClusterImage":
        """Return the image after one update."""
        if update.snapshot:
            return ClusterImage().apply(replace(update, snapshot=False))
        assert update.version >= self.version, "versions only grow"
        nodes = dict(self.nodes)
        for node_id in update.removed_node_ids:
            nodes.pop(node_id, None)
        nodes.update((node.node_id, node) for node in update.nodes)
        topics, names = self.topics, self._id_by_name
        if update.removed_topic_ids or update.topics:
            names = dict(names)
            for topic_id in update.removed_topic_ids:
                if topic_id in topics:
                    names.pop(topics[topic_id].name, None)
            names.update((topic.name, topic.topic_id) for topic in update.topics)
        if update.removed_topic_ids or update.topics or update.partitions:
            changed = {
                key: value for key, value in topics.items() if key not in update.removed_topic_ids
            }
            changed.update((topic.topic_id, topic) for topic in update.topics)
            for topic_id, partitions in _by_topic(update.partitions).items():
                changed[topic_id] = _with_partitions(changed[topic_id], partitions)
            topics = changed
        next_uid = max(self.next_partition_uid, update.next_partition_uid)
        return ClusterImage(update.version, nodes, topics, names, next_uid)

    def snapshot(self) -> ImageUpdate:
        """Return the update that makes this image out of nothing."""
        return ImageUpdate(
            version=self.version,
            snapshot=True,
            nodes=tuple(self.nodes.values()),
            topics=tuple(self.topics.values()),
        )

    def topic_named(self, name: str) -> TopicState | None:
        """Return a topic by name."""
        topic_id = self._id_by_name.get(TopicName(name))
        return None if topic_id is None else self.topics[topic_id]

    def topic(self, topic_id: bytes, name: str) -> TopicState:
        """Return the topic a request names, by id if it has one, else by name.

        Raises:
            UnknownTopicIdError: No such id (yet).
            InconsistentTopicIdError: The name belongs to another id.
            UnknownTopicOrPartitionError: No such name; near names are suggested.
        """
        if not topic_id:
            found = self.topic_named(name)
            if found is None:
                raise self.unknown_topic(name)
            return found
        found = self.topics.get(TopicId(topic_id))
        if found is None:
            raise self.unknown_topic_id(topic_id, name)
        if name and name != found.name:
            raise InconsistentTopicIdError(
                f"topic id {topic_id.hex()} belongs to {found.name!r}, not to {name!r}",
                field="topic",
                value=name,
                limit=found.name,
            )
        return found

    def partition(self, topic: TopicState, index: int) -> PartitionState:
        """Return one partition of a topic.

        Raises:
            UnknownTopicOrPartitionError: The topic has no such partition.
        """
        if not 0 <= index < len(topic.partitions):
            raise UnknownTopicOrPartitionError(
                f"topic {topic.name!r} has no partition {index},"
                f" its last one is {len(topic.partitions) - 1}",
                field="partition",
                value=index,
                limit=len(topic.partitions) - 1,
            )
        return topic.partitions[index]

    def unknown_topic(self, name: str) -> UnknownTopicOrPartitionError:
        """Make the error for a topic that is not there, with the names it may have meant."""
        visible = (topic.name for topic in self.topics.values() if not topic.internal)
        near = near_names(name, visible)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        return UnknownTopicOrPartitionError(
            f"topic {name!r} does not exist{hint}", field="topic", value=name, suggestions=near
        )

    def unknown_topic_id(self, topic_id: bytes, name: str = "") -> UnknownTopicIdError:
        """Make the error for an id that was deleted, or is not known here yet."""
        return UnknownTopicIdError(
            f"no topic has the id {topic_id.hex()}" + (f" (its name was {name!r})" if name else ""),
            field="topic_id",
            value=topic_id.hex(),
        )

    def leader_of(self, topic_id: bytes, name: str, index: int) -> tuple[NodeId, LeaderEpoch]:
        """Return who leads a partition, as a hint beside an error; -1 when unknown."""
        topic = self.topics.get(TopicId(topic_id)) or self.topic_named(name)
        if topic is None or not 0 <= index < len(topic.partitions):
            return NO_NODE, LeaderEpoch(-1)
        partition = topic.partitions[index]
        return partition.leader_id, partition.leader_epoch


def not_leader(topic: TopicState, partition: PartitionState) -> BrokerError:
    """Make the error for a request that needs the leader, which is elsewhere."""
    name = f"{topic.name}-{partition.index}"
    if partition.leader_id == NO_NODE:
        return LeaderNotAvailableError(f"partition {name} has no leader at the moment")
    return NotLeaderOrFollowerError(
        f"partition {name} is led by node {partition.leader_id} in epoch {partition.leader_epoch}",
        field="partition",
        value=partition.index,
    )


def _by_topic(
    partitions: Iterable[tuple[TopicId, PartitionState]],
) -> dict[TopicId, list[PartitionState]]:
    by_topic: dict[TopicId, list[PartitionState]] = {}
    for topic_id, partition in partitions:
        by_topic.setdefault(topic_id, []).append(partition)
    return by_topic


def _with_partitions(topic: TopicState, changed: Iterable[PartitionState]) -> TopicState:
    partitions = list(topic.partitions)
    for partition in changed:
        assert partitions[partition.index].uid == partition.uid, "uids are never reused"
        partitions[partition.index] = partition
    return replace(topic, partitions=tuple(partitions))

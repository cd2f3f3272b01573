"""The cluster as of one Raft index: what all records so far have made. Pure.

Problem: every controller must reach the same state from the same log, and a decision must not touch
it before it is committed. Idea: frozen values in dictionaries; `apply` replaces values; a draft is
a shallow copy on which decisions are tried, thrown away when their outcome is unknown.

Invariants: `apply` is total: it never raises, and what does not fit changes nothing. A change in
several commands takes effect with the last one, or, when that never comes, not at all. `version`
only grows. `topic_ids`, `places` and `partitions` always agree with `topics`.

Source: Apache Kafka's MetadataImage and MetadataDelta.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from odradek.controller.state.answers import AnswerTable
from odradek.controller.state.groups.model import Group
from odradek.controller.state.groups.records import apply as apply_to_groups
from odradek.controller.state.records import (
    Command,
    ControllerChanged,
    Node,
    NodeConditionChanged,
    NodeFenced,
    NodeRegistered,
    NodeRemoved,
    NodeUnfenced,
    Partition,
    PartitionChanged,
    PartitionPlace,
    PartitionsAdded,
    ProducerIdsGranted,
    Record,
    RequestAnswered,
    Topic,
    TopicConfigChanged,
    TopicCreated,
    TopicDeleted,
    keeps_only_pages,
)
from odradek.protocol.types import (
    ControllerId,
    GroupId,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionIndex,
    PartitionUid,
    ProducerId,
    TopicId,
    TopicName,
)

NO_CONTROLLER = ControllerId(-1)
_FIRST_INCARNATION = Incarnation(1)
_FIRST_PARTITION_UID = PartitionUid(1)
_FIRST_PRODUCER_ID = ProducerId(0)


@dataclass(slots=True)
class ClusterImage:
    """The state. Mutated by `apply` alone.

    Attributes:
        version: The Raft index of the last command applied.
        cluster_id: Empty until the first controller became active.
        controller_id: The controller whose commands are in force.
        controller_epoch: Its epoch (Raft term).
        command_sequence: The last command of that epoch.
        places: Where each partition uid belongs.
        answers: What was answered to each node's present incarnation.
        unfinished: Records of a change in several commands whose last one has not come yet.
    """

    version: int = 0
    cluster_id: str = ""
    controller_id: ControllerId = NO_CONTROLLER
    controller_epoch: int = 0
    command_sequence: int = 0
    next_incarnation: Incarnation = _FIRST_INCARNATION
    next_partition_uid: PartitionUid = _FIRST_PARTITION_UID
    next_producer_id: ProducerId = _FIRST_PRODUCER_ID
    nodes: dict[NodeId, Node] = field(default_factory=dict)
    topics: dict[TopicId, Topic] = field(default_factory=dict)
    topic_ids: dict[TopicName, TopicId] = field(default_factory=dict)
    partitions: dict[PartitionUid, Partition] = field(default_factory=dict)
    places: dict[PartitionUid, PartitionPlace] = field(default_factory=dict)
    groups: dict[GroupId, Group] = field(default_factory=dict)
    answers: AnswerTable = field(default_factory=AnswerTable)
    unfinished: tuple[Record, ...] = ()

    def copy(self) -> "ClusterImage":
        """Return an independent image; a few microseconds per thousand values."""
        return replace(
            self,
            nodes=self.nodes.copy(),
            topics=self.topics.copy(),
            topic_ids=self.topic_ids.copy(),
            partitions=self.partitions.copy(),
            places=self.places.copy(),
            groups=self.groups.copy(),
            answers=self.answers.copy(),
        )

    def topic_named(self, name: str) -> Topic | None:
        """Return the topic of a name."""
        topic_id = self.topic_ids.get(TopicName(name))
        return None if topic_id is None else self.topics[topic_id]

    def partition(self, topic_id: TopicId, index: PartitionIndex) -> Partition | None:
        """Return a partition by its place."""
        topic = self.topics.get(topic_id)
        if topic is None or not 0 <= index < len(topic.partitions):
            return None
        return self.partitions[topic.partitions[index]]

    def partitions_of(self, topic: Topic) -> Iterator[Partition]:
        """Yield the partitions of a topic, by index."""
        for uid in topic.partitions:
            yield self.partitions[uid]

    def is_alive(self, node_id: NodeId) -> bool:
        """Tell whether the node is registered and may lead."""
        node = self.nodes.get(node_id)
        return node is not None and not node.fenced

    def apply_command(self, index: int, command: Command) -> bool:
        """Apply a committed command, or refuse it: every controller does the same.

        Args:
            index: Its Raft index; becomes the version.
            command: What was committed.

        Returns:
            False when it is not the next one of the epoch in force, nor begins a newer one; then
            nothing changed but the version.
        """
        self.version = max(self.version, index)
        epoch, sequence = command.controller_epoch, command.sequence
        begins = epoch > self.controller_epoch and sequence == 0
        if not begins and (epoch, sequence) != (self.controller_epoch, self.command_sequence + 1):
            return False
        self.controller_epoch, self.command_sequence = epoch, sequence
        records, self.unfinished = self.completed_by(command), ()
        if command.continues:
            self.unfinished = records
            return True
        for record in records:
            self.apply(record)
        return True

    def completed_by(self, command: Command) -> tuple[Record, ...]:
        """Return the records of an accepted command with those it goes on from."""
        return self.unfinished + command.records if command.continued else command.records

    def apply(self, record: Record) -> None:  # noqa: C901, PLR0912 - one case a record
        """Make one change; total: what does not fit changes nothing."""
        match record:
            case PartitionChanged():  # first: one death may bring thousands
                if record.partition.uid in self.partitions:
                    self.partitions[record.partition.uid] = record.partition
            case ControllerChanged():
                self.controller_id = record.controller_id
                self.cluster_id = self.cluster_id or record.cluster_id
            case NodeRegistered():
                self._register(record.node)
            case NodeFenced():
                self._set_fenced(record.node_id, fenced=True)
            case NodeUnfenced():
                self._set_fenced(record.node_id, fenced=False)
            case NodeConditionChanged():
                self._set_condition(record)
            case NodeRemoved():
                self.nodes.pop(record.node_id, None)
                self.answers.forget(record.node_id)
            case TopicCreated():
                self._create_topic(record)
            case TopicDeleted():
                self._delete_topic(record.topic_id)
            case TopicConfigChanged():
                self._configure_topic(record)
            case PartitionsAdded():
                self._add_partitions(record)
            case ProducerIdsGranted():
                self.next_producer_id = max(self.next_producer_id, record.next_producer_id)
            case RequestAnswered():
                self._answer(record)
            case _:
                apply_to_groups(self.groups, record)

    def _register(self, node: Node) -> None:
        self.nodes[node.node_id] = replace(
            node,
            fenced=True,
            fenced_version=self.version,
            stopping_version=0,
        )
        self.next_incarnation = Incarnation(max(self.next_incarnation, node.incarnation + 1))
        self.answers.forget(node.node_id)

    def _set_fenced(self, node_id: NodeId, *, fenced: bool) -> None:
        node = self.nodes.get(node_id)
        if node is not None and node.fenced is not fenced:
            version = self.version if fenced else node.fenced_version
            self.nodes[node_id] = replace(node, fenced=fenced, fenced_version=version)

    def _set_condition(self, record: NodeConditionChanged) -> None:
        node = self.nodes.get(record.node_id)
        if node is None:
            return
        since = node.stopping_version or self.version
        self.nodes[record.node_id] = replace(
            node,
            stopping_version=since if record.stopping else 0,
            draining=record.draining,
            storage_full=record.storage_full,
        )

    def _create_topic(self, record: TopicCreated) -> None:
        topic = record.topic
        if topic.topic_id in self.topics or topic.name in self.topic_ids:
            return
        self.topics[topic.topic_id] = replace(topic, partitions=())
        self.topic_ids[topic.name] = topic.topic_id
        self._add_partitions(PartitionsAdded(topic.topic_id, record.partitions))

    def _configure_topic(self, record: TopicConfigChanged) -> None:
        topic = self.topics.get(record.topic_id)
        if topic is None:
            return
        until = self.version if keeps_only_pages(topic.config) else topic.pages_until_version
        self.topics[topic.topic_id] = replace(
            topic, config=record.config, pages_until_version=until
        )

    def _add_partitions(self, record: PartitionsAdded) -> None:
        topic = self.topics.get(record.topic_id)
        if topic is None:
            return
        uids = topic.partitions
        for index, partition in enumerate(record.partitions, len(uids)):
            self.partitions[partition.uid] = partition
            self.places[partition.uid] = PartitionPlace(topic.topic_id, PartitionIndex(index))
            self.next_partition_uid = PartitionUid(max(self.next_partition_uid, partition.uid + 1))
        added = tuple(partition.uid for partition in record.partitions)
        self.topics[topic.topic_id] = replace(topic, partitions=uids + added)

    def _delete_topic(self, topic_id: TopicId) -> None:
        topic = self.topics.pop(topic_id, None)
        if topic is None:
            return
        del self.topic_ids[topic.name]
        for uid in topic.partitions:
            del self.partitions[uid]
            del self.places[uid]

    def _answer(self, record: RequestAnswered) -> None:
        node = self.nodes.get(record.node_id)
        if node is not None and node.incarnation == record.incarnation:
            self.answers.remember(record)


@dataclass(frozen=True, slots=True)
class PossibleLoss:
    """A partition was given to a leader that may lack acknowledged records: nobody has them."""

    uid: PartitionUid
    leader: NodeId
    leader_epoch: LeaderEpoch


class Draft:
    """An image on which decisions are tried, and the records they made.

    A decision raises before it records anything, or not at all.
    """

    def __init__(self, image: ClusterImage) -> None:
        """Begin at an image, which stays as it is."""
        self.image = image.copy()
        self.image.version += 1  # at least; what is decided is in no version known so far
        self._records: list[Record] = []
        self._reports: list[PossibleLoss] = []

    def report(self, loss: PossibleLoss) -> None:
        """Have something told to people once the decision is committed."""
        self._reports.append(loss)

    def record(self, record: Record) -> None:
        """Decide one change: visible to the decisions after it."""
        self.image.apply(record)
        self._records.append(record)

    @property
    def record_count(self) -> int:
        """How many records have been made since the last call of `take_records`."""
        return len(self._records)

    def take_records(self) -> tuple[Record, ...]:
        """Return the records since the last call."""
        taken = tuple(self._records)
        self._records.clear()
        return taken

    def take_reports(self) -> tuple[PossibleLoss, ...]:
        """Return the reports since the last call."""
        taken = tuple(self._reports)
        self._reports.clear()
        return taken

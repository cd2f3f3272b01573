"""Which things a record changed: what a watcher must be told of. Pure.

Idea: instead of a queue of changes, each watcher keeps the *names* of what changed since it was
last told; when it can be told again, it gets their present values. However slow it is, memory is
bounded by the image, nothing is told twice, and versions never go backwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from odradek.controller.state.records import (
    ControllerChanged,
    NodeConditionChanged,
    NodeFenced,
    NodeRegistered,
    NodeRemoved,
    NodeUnfenced,
    PartitionChanged,
    PartitionsAdded,
    ProducerIdsGranted,
    Record,
    RequestAnswered,
    TopicConfigChanged,
    TopicCreated,
    TopicDeleted,
)
from odradek.protocol.types import GroupId, NodeId, PartitionUid, TopicId


@dataclass(slots=True)
class Touched:
    """Names of nodes, topics, partitions and groups; new, changed or gone."""

    nodes: set[NodeId] = field(default_factory=set)
    topics: set[TopicId] = field(default_factory=set)
    partitions: set[PartitionUid] = field(default_factory=set)
    groups: set[GroupId] = field(default_factory=set)

    def add(self, records: Iterable[Record]) -> None:
        """Add what these records change."""
        for record in records:
            self._add_one(record)

    def update(self, other: "Touched") -> None:
        """Add what another has."""
        self.nodes |= other.nodes
        self.topics |= other.topics
        self.partitions |= other.partitions
        self.groups |= other.groups

    def _add_one(self, record: Record) -> None:
        match record:
            case PartitionChanged():
                self.partitions.add(record.partition.uid)
            case NodeRegistered():
                self.nodes.add(record.node.node_id)
            case NodeFenced() | NodeUnfenced() | NodeConditionChanged() | NodeRemoved():
                self.nodes.add(record.node_id)
            case TopicCreated():
                self.topics.add(record.topic.topic_id)
            case TopicDeleted() | TopicConfigChanged() | PartitionsAdded():
                self.topics.add(record.topic_id)
            case ControllerChanged() | ProducerIdsGranted() | RequestAnswered():
                pass  # nodes hear of these, if at all, as answers
            case _:
                self.groups.add(record.group)

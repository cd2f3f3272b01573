"""What the cluster consists of, and the records that change it. Pure.

Problem: the state must be the same on every controller, live and on replay. Idea: values are frozen
and whole; a record carries the new value of one thing, never an instruction to compute it, so that
a log written by one release means the same to the next.

Invariants: a partition uid, a topic id and an incarnation are never reused; epochs only grow.

Source: Apache Kafka's metadata records (KRaft): RegisterBroker, PartitionChange, and so on.
"""

from dataclasses import dataclass
from typing import NamedTuple

from odradek.controller.state.groups.records import GroupRecord
from odradek.protocol.topic_config import Flush
from odradek.protocol.types import (
    NO_NODE,
    ControllerId,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    ProducerId,
    TopicId,
    TopicName,
)

TopicSettings = tuple[tuple[str, str], ...]
"""Settings that differ from the defaults, as pairs of key and value ordered by key."""


def setting(config: TopicSettings, key: str, default: str) -> str:
    """Return one of a topic's settings."""
    return next((value for name, value in config if name == key), default)


def keeps_only_pages(config: TopicSettings) -> bool:
    """Tell whether acknowledged records may be in the page cache alone (`flush=os`)."""
    return setting(config, "flush", Flush.COMMIT.value) == Flush.OS.value


FIRST_LEADER_EPOCH = LeaderEpoch(0)
FIRST_PARTITION_EPOCH = PartitionEpoch(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A registered node.

    Attributes:
        directory_id: The UUID of its data directory.
        process_id: Names the process that registered.
        rack: Its failure domain; may be empty.
        fenced: It may not lead.
        fenced_version: The version that holds its registration or its latest fencing: what it must
            have seen before it may lead again.
        stopping_version: The version that holds its wish to stop; 0 while it has none.
        draining: An operator wants it empty; outlives its registrations.
        storage_full: Its disk reserve is reached.
        store_set_aside: A damaged store of its was set aside, and no operator has decided on it.
    """

    node_id: NodeId
    incarnation: Incarnation
    directory_id: bytes
    process_id: bytes
    host: str
    port: int
    rack: str = ""
    software_version: str = ""
    fenced: bool = True
    fenced_version: int = 0
    stopping_version: int = 0
    draining: bool = False
    storage_full: bool = False
    store_set_aside: bool = False

    @property
    def stopping(self) -> bool:
        """Its process is about to stop."""
        return self.stopping_version > 0


class Partition(NamedTuple):
    """A partition and where it lives. Its index is its place in the topic's list.

    A tuple because there are tens of thousands, and one death may change them all: making one is
    three times as fast as with a frozen dataclass.

    Attributes:
        leader: NO_NODE when there is none.
        leader_epoch: Grows with each change of the leader, also to none.
        partition_epoch: Grows with each change of any field.
        replicas: Nodes that hold a replica, the preferred leader first.
        isr: Replicas in sync, all alive; empty when the last one died.
        elr: Replicas that left an ISR too small to commit anything since: they have all that was
            committed (KIP-966).
        last_known_elr: Who led last, while nobody leads: all that is left to elect when both
            others are empty (KIP-966).
        adding: Replicas being added by a reassignment.
        removing: Replicas being removed by a reassignment.
    """

    uid: PartitionUid
    leader: NodeId
    replicas: tuple[NodeId, ...]
    isr: tuple[NodeId, ...]
    leader_epoch: LeaderEpoch = FIRST_LEADER_EPOCH
    partition_epoch: PartitionEpoch = FIRST_PARTITION_EPOCH
    elr: tuple[NodeId, ...] = ()
    last_known_elr: tuple[NodeId, ...] = ()
    adding: tuple[NodeId, ...] = ()
    removing: tuple[NodeId, ...] = ()

    @property
    def is_led(self) -> bool:
        """There is a leader."""
        return self.leader != NO_NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic.

    Attributes:
        config: Settings that differ from the defaults.
        partitions: The uid of each partition, by index.
        pages_until_version: The version in which its settings last took the place of some with
            `flush=os`: a node that has not synced since it knows of it may have acknowledged more
            than it has on disk. 0 when there never were any.
    """

    topic_id: TopicId
    name: TopicName
    config: TopicSettings = ()
    partitions: tuple[PartitionUid, ...]
    pages_until_version: int = 0


@dataclass(frozen=True, slots=True)
class PartitionPlace:
    """Which partition of which topic a uid names."""

    topic_id: TopicId
    index: PartitionIndex


@dataclass(frozen=True, slots=True)
class ControllerChanged:
    """Another controller is active.

    Attributes:
        cluster_id: Heeded only as long as the cluster has none.
    """

    controller_id: ControllerId
    cluster_id: str


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """A process registered; applied as fenced, with the versions of the log."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeFenced:
    """A node may not lead."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class NodeUnfenced:
    """A node may lead."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class NodeConditionChanged:
    """What a node says of itself and an operator wants of it, whole.

    Attributes:
        stopping: Its process is about to stop; the version of this is given by the log.
        draining: An operator wants it empty.
        storage_full: Its disk reserve is reached.
    """

    node_id: NodeId
    stopping: bool
    draining: bool
    storage_full: bool


@dataclass(frozen=True, slots=True)
class NodeRemoved:
    """A node is forgotten."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class TopicCreated:
    """A topic exists; `partitions` in the order of `topic.partitions`."""

    topic: Topic
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    """A topic is gone with its partitions."""

    topic_id: TopicId


@dataclass(frozen=True, slots=True)
class TopicConfigChanged:
    """The settings of a topic, whole."""

    topic_id: TopicId
    config: TopicSettings


@dataclass(frozen=True, slots=True)
class PartitionsAdded:
    """A topic has more partitions, after those it had."""

    topic_id: TopicId
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class PartitionChanged:
    """A partition, whole."""

    partition: Partition


@dataclass(frozen=True, slots=True)
class ProducerIdsGranted:
    """Every producer id below this one has been granted."""

    next_producer_id: ProducerId


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """A request that changed something was answered.

    Attributes:
        sequence: The request's number within the incarnation.
        answer: The encoded answer; opaque here.
    """

    node_id: NodeId
    incarnation: Incarnation
    sequence: int
    answer: bytes


Record = (
    ControllerChanged
    | NodeRegistered
    | NodeFenced
    | NodeUnfenced
    | NodeConditionChanged
    | NodeRemoved
    | TopicCreated
    | TopicDeleted
    | TopicConfigChanged
    | PartitionsAdded
    | PartitionChanged
    | ProducerIdsGranted
    | RequestAnswered
    | GroupRecord
)


@dataclass(frozen=True, slots=True)
class Command:
    """What one controller decided, applied as one step.

    Attributes:
        controller_epoch: The epoch (Raft term) of the controller that decided.
        sequence: Counts the commands of that epoch; 0 begins it.
        continued: It goes on with what the command before began.
        continues: The next one goes on with it; nothing takes effect before the last one does.
    """

    controller_epoch: int
    sequence: int
    records: tuple[Record, ...]
    continued: bool = False
    continues: bool = False

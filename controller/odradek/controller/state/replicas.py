"""What people ask about replicas: how many, where, and which nodes should be empty. Pure.

Each topic and each partition of a request succeeds or fails on its own. An answer says that moves
have begun; they end by themselves, as the new replicas come into sync.

Source: Apache Kafka's ReplicationControlManager (alterPartitionReassignments) and KIP-455.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from random import Random

from odradek.controller.state.elections import change, min_insync, topic_of
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.nodes import change_condition
from odradek.controller.state.placement import placeable, resize
from odradek.controller.state.reassignment import begin, can_spare, cancel, is_moving, target_of
from odradek.controller.state.records import Node, NodeRemoved, Partition
from odradek.controller.state.topic_settings import check_insync
from odradek.controller.state.topics import (
    TopicOutcome,
    TopicRef,
    check_public,
    describe,
    find_topic,
    outcome_of,
)
from odradek.protocol.errors import (
    BrokerError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    NodeIdNotRegisteredError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.names import INTERNAL_TOPICS
from odradek.protocol.types import NodeId, PartitionIndex

_TOPICS_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class NewReplication:
    """How many replicas the partitions of a topic are to have."""

    topic: TopicRef
    replication: int


@dataclass(frozen=True, slots=True)
class Reassignment:
    """The replicas one partition is to have, the preferred leader first; None: as before."""

    topic: TopicRef
    index: PartitionIndex
    replicas: tuple[NodeId, ...] | None


@dataclass(frozen=True, slots=True)
class Draining:
    """How many replicas are to leave a node that is to be empty."""

    replica_count: int


@dataclass(frozen=True, slots=True)
class Removed:
    """The node is forgotten."""


def alter_replication(
    draft: Draft, changes: Iterable[NewReplication], chance: Random, *, validate_only: bool = False
) -> tuple[TopicOutcome, ...]:
    """Give topics more or fewer replicas; each succeeds or fails on its own."""
    target = Draft(draft.image) if validate_only else draft
    return tuple(
        outcome_of(partial(_resize, target, each, chance), each.topic.name) for each in changes
    )


def reassign(draft: Draft, reassignments: Iterable[Reassignment]) -> tuple[BrokerError | None, ...]:
    """Give partitions other replicas, or take that back; each is refused or not on its own."""
    outcomes: list[BrokerError | None] = []
    for each in reassignments:
        try:
            _reassign(draft, each)
        except BrokerError as error:
            outcomes.append(error)
        else:
            outcomes.append(None)
    return tuple(outcomes)


def drain(draft: Draft, node_id: NodeId, *, wanted: bool) -> Draining:
    """Have a node emptied, by moves the balancer begins from now on; or have that end.

    Raises:
        NodeIdNotRegisteredError: There is no such node.
        InvalidReplicationFactorError: The others are too few for what it holds.
    """
    node = _node(draft.image, node_id)
    if node.draining is not wanted:
        if wanted:
            _check_can_drain(draft.image, node)
        change_condition(draft, node, draining=wanted)
    return Draining(sum(node_id in target_of(each) for each in draft.image.partitions.values()))


def remove(draft: Draft, node_id: NodeId) -> Removed:
    """Forget a node.

    Raises:
        NodeIdNotRegisteredError: There is no such node.
        InvalidRequestError: It is alive, or holds replicas.
    """
    node = _node(draft.image, node_id)
    count = sum(node_id in each.replicas for each in draft.image.partitions.values())
    if count:
        raise InvalidRequestError(
            f"node {node_id} holds {count} replicas: drain it first",
            field="node_id",
            value=node_id,
        )
    if not node.fenced:
        raise InvalidRequestError(
            f"node {node_id} is alive and would come back: stop it first",
            field="node_id",
            value=node_id,
        )
    draft.record(NodeRemoved(node_id))
    return Removed()


def _resize(draft: Draft, new: NewReplication, chance: Random) -> TopicOutcome:
    topic = find_topic(draft.image, new.topic)
    check_public(topic.name)
    partitions = list(draft.image.partitions_of(topic))
    targets = resize(draft.image, partitions, new.replication, chance)
    check_insync(topic.config, new.replication)
    begun = [begin(each, target) for each, target in zip(partitions, targets, strict=True)]
    for before, after in zip(partitions, begun, strict=True):
        _check_in_sync(draft.image, before, after)
    for before, after in zip(partitions, begun, strict=True):
        change(draft, before, after)
    return describe(draft.image, topic)


def _reassign(draft: Draft, reassignment: Reassignment) -> None:
    image = draft.image
    topic = find_topic(image, reassignment.topic)
    check_public(topic.name)
    partition = image.partition(topic.topic_id, reassignment.index)
    if partition is None:
        raise UnknownTopicOrPartitionError(
            f"topic {topic.name!r} has {len(topic.partitions)} partitions",
            field="partition",
            value=reassignment.index,
            limit=len(topic.partitions) - 1,
        )
    if reassignment.replicas is None:
        if is_moving(partition):
            before = cancel(partition)
            check_insync(topic.config, len(before.replicas))
            _check_in_sync(image, partition, before)
            change(draft, partition, before)
        return
    for node_id in reassignment.replicas:
        node = image.nodes.get(node_id)
        present = node_id in partition.replicas
        if node is None or (not present and (node.fenced or node.draining)):
            raise InvalidReplicaAssignmentError(
                f"node {node_id} is unknown, dead or being drained",
                field="replicas",
                value=node_id,
                limit=[each.node_id for each in placeable(image)],
            )
    check_insync(topic.config, len(reassignment.replicas))
    begun = begin(partition, reassignment.replicas)
    _check_in_sync(image, partition, begun)
    change(draft, partition, begun)


def _check_in_sync(image: ClusterImage, before: Partition, after: Partition) -> None:
    """Refuse to give up, at once, replicas that hold what was acknowledged because of them."""
    minimum = min_insync(topic_of(image, after).config, after)
    if not can_spare(before, after, minimum):
        trusted, left = [*before.isr, *before.elr], [*after.isr, *after.elr]
        raise InvalidReplicaAssignmentError(
            f"of the replicas that have all records, {trusted}, only {left} would be left,"
            f" {minimum} are needed: wait until more of the others are in sync",
            field="replicas",
            value=left,
            limit=minimum,
        )


def _node(image: ClusterImage, node_id: NodeId) -> Node:
    node = image.nodes.get(node_id)
    if node is None:
        raise NodeIdNotRegisteredError(
            f"no node is registered under id {node_id}",
            field="node_id",
            value=node_id,
            limit=sorted(image.nodes),
        )
    return node


def _check_can_drain(image: ClusterImage, node: Node) -> None:
    others = sum(
        not other.draining for other in image.nodes.values() if other.node_id != node.node_id
    )
    stuck = sorted(
        {
            topic_of(image, partition).name
            for partition in image.partitions.values()
            if node.node_id in partition.replicas and _wanted(image, partition) > others
        }
    )
    if not stuck:
        return
    named = ", ".join(stuck[:_TOPICS_NAMED_MAX])
    more = f" and {len(stuck) - _TOPICS_NAMED_MAX} more" if len(stuck) > _TOPICS_NAMED_MAX else ""
    raise InvalidReplicationFactorError(
        f"the other nodes ({others}) cannot hold every replica of {named}{more}: add a node, or"
        " lower their replication first",
        field="node_id",
        value=node.node_id,
        limit=others,
    )


def _wanted(image: ClusterImage, partition: Partition) -> int:
    """Return how many replicas there must be; internal topics make do with fewer nodes."""
    if topic_of(image, partition).name in INTERNAL_TOPICS:
        return 1
    return len(target_of(partition))

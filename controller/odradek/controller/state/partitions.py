"""Who leads a partition and who is in sync. Pure.

Problem: two nodes must never append to one partition under one leader epoch, and no replica may be
elected that lost what it acknowledged. Idea: only the controller changes leader and ISR; each
change of the leader, also to none, raises the leader epoch; leaders propose ISR changes as a
compare-and-set on both epochs, naming each member's incarnation.

Invariants: the leader is in the ISR and alive; one leader per (uid, leader epoch); the ISR is never
empty: its last member stays although it is dead, for nobody else has all acknowledged records.

Source: Apache Kafka's ReplicationControlManager and PartitionChangeBuilder; KIP-966.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.records import Partition, PartitionChanged
from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    NotLeaderOrFollowerError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
)
from odradek.protocol.types import (
    NO_NODE,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    TopicId,
)


@dataclass(frozen=True, slots=True)
class IsrMember:
    """A proposed in-sync replica; `incarnation` as the proposing leader knows it."""

    node_id: NodeId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class IsrProposal:
    """What a leader proposes for one partition, based on both epochs."""

    topic_id: TopicId
    index: PartitionIndex
    leader_epoch: LeaderEpoch
    partition_epoch: PartitionEpoch
    isr: tuple[IsrMember, ...]


@dataclass(frozen=True, slots=True)
class IsrOutcome:
    """What became of a proposal; `partition` as it is afterwards, None when it does not exist."""

    index: PartitionIndex
    partition: Partition | None
    error: BrokerError | None = None


def elect(image: ClusterImage, partition: Partition) -> NodeId:
    """Return who should lead: the first live replica in sync, the preferred one before others."""
    for node_id in partition.replicas:
        if node_id in partition.isr and image.is_alive(node_id):
            return node_id
    return NO_NODE


def depose(draft: Draft, node_id: NodeId) -> None:
    """Take a node, fenced just now, out of every leadership and every ISR that has another member.

    With replication 1 the sole replica stays in the ISR: nobody else could ever lead.
    """
    for partition in list(draft.image.partitions.values()):
        if node_id in partition.isr:
            others = tuple(member for member in partition.isr if member != node_id)
            _change(draft, partition, partition._replace(isr=others or partition.isr))


def promote(draft: Draft, node_id: NodeId) -> None:
    """Elect leaders where there is none and a node, unfenced just now, is in sync."""
    for partition in list(draft.image.partitions.values()):
        if not partition.is_led and node_id in partition.isr:
            _change(draft, partition, partition)


def finish_elections(draft: Draft) -> None:
    """Elect wherever the leader is dead or missing: what a predecessor may have left half-done.

    A decision too large for one command of the log is committed in several.
    """
    for partition in list(draft.image.partitions.values()):
        if not draft.image.is_alive(partition.leader):
            _change(draft, partition, partition)


def propose_isr(
    draft: Draft, node_id: NodeId, proposals: Iterable[IsrProposal]
) -> tuple[IsrOutcome, ...]:
    """Decide ISR changes a leader proposes; each is accepted or refused on its own."""
    outcomes = []
    for proposal in proposals:
        partition = draft.image.partition(proposal.topic_id, proposal.index)
        error = _refusal(draft.image, node_id, partition, proposal)
        if error is None:
            assert partition is not None, "a proposal for no partition is refused"
            isr = tuple(member.node_id for member in proposal.isr)
            elr = tuple(member for member in partition.elr if member not in isr)
            _change(draft, partition, partition._replace(isr=isr, elr=elr))
            partition = draft.image.partitions[partition.uid]
        outcomes.append(IsrOutcome(proposal.index, partition, error))
    return tuple(outcomes)


def _change(draft: Draft, before: Partition, after: Partition) -> None:
    """Record a change with its epochs; the leader goes on when it still may, else another."""
    image = draft.image
    goes_on = before.leader in after.isr and image.is_alive(before.leader)
    leader = before.leader if goes_on else elect(image, after)
    if leader == before.leader and after == before:
        return
    epoch = before.leader_epoch if leader == before.leader else before.leader_epoch + 1
    changed = after._replace(
        leader=leader,
        leader_epoch=LeaderEpoch(epoch),
        partition_epoch=PartitionEpoch(before.partition_epoch + 1),
    )
    draft.record(PartitionChanged(changed))


def _refusal(
    image: ClusterImage, node_id: NodeId, partition: Partition | None, proposal: IsrProposal
) -> BrokerError | None:
    if partition is None:
        return UnknownTopicIdError(
            f"no partition {proposal.index} of a topic {proposal.topic_id.hex()}",
            field="topic_id",
            value=proposal.topic_id.hex(),
        )
    if proposal.leader_epoch < partition.leader_epoch:
        return FencedLeaderEpochError(value=proposal.leader_epoch, limit=partition.leader_epoch)
    if proposal.leader_epoch > partition.leader_epoch:
        return UnknownLeaderEpochError(value=proposal.leader_epoch, limit=partition.leader_epoch)
    if partition.leader != node_id:
        return NotLeaderOrFollowerError(value=node_id, limit=partition.leader)
    if proposal.partition_epoch != partition.partition_epoch:
        return InvalidUpdateVersionError(
            value=proposal.partition_epoch, limit=partition.partition_epoch
        )
    return _ineligible(image, partition, proposal.isr)


def _ineligible(
    image: ClusterImage, partition: Partition, isr: tuple[IsrMember, ...]
) -> BrokerError | None:
    ids = [member.node_id for member in isr]
    if partition.leader not in ids or len(set(ids)) != len(ids):
        return InvalidRequestError(
            f"an ISR of {ids} lacks the leader {partition.leader} or repeats a node",
            field="isr",
            value=ids,
        )
    for member in isr:
        if member.node_id not in partition.replicas:
            return InvalidRequestError(
                f"node {member.node_id} holds no replica",
                field="isr",
                value=member.node_id,
                limit=list(partition.replicas),
            )
        node = image.nodes.get(member.node_id)
        if node is None or node.fenced or node.incarnation != member.incarnation:
            return IneligibleReplicaError(
                f"node {member.node_id} is fenced, or registered again after incarnation"
                f" {member.incarnation}",
                field="isr",
                value=member.incarnation,
            )
    return None

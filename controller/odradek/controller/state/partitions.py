"""Changes of the ISR that leaders propose. Pure.

Problem: a leader knows who keeps up, but not who is alive, nor whether it still leads. Idea: it
proposes; a proposal is a compare-and-set on (leader epoch, partition epoch), naming each member's
incarnation, so that nobody joins who registered again, was fenced, or is about to stop since.

Invariants: what is accepted has the leader in it, and no member that was not alive at that moment;
it raises the partition epoch, also when it changes nothing.

Source: KIP-497 (AlterPartition), KIP-841 and KAFKA-13916 (who may not join), KIP-903
(incarnations).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from odradek.controller.state.elections import change
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
            partition = _accept(draft, partition, proposal)
        outcomes.append(IsrOutcome(proposal.index, partition, error))
    return tuple(outcomes)


def _accept(draft: Draft, before: Partition, proposal: IsrProposal) -> Partition:
    """Raise the partition epoch, come what may: it ends the leader's doubt about older proposals.

    A leader that was refused, or heard nothing, must count everybody it ever proposed in this epoch
    as a member: a repeat may be on its way. It then proposes the ISR as it is.
    """
    change(draft, before, before._replace(isr=tuple(each.node_id for each in proposal.isr)))
    after = draft.image.partitions[before.uid]
    if after.partition_epoch == before.partition_epoch:
        after = before._replace(partition_epoch=PartitionEpoch(before.partition_epoch + 1))
        draft.record(PartitionChanged(after))
    return after


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
        if node.stopping and member.node_id not in partition.isr:
            return IneligibleReplicaError(
                f"node {member.node_id} is about to stop", field="isr", value=member.node_id
            )
    return None

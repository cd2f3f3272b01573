"""What a leader asks the controllers about its ISR, and hears of it."""

from typing import TYPE_CHECKING, Any

from odradek.controller.state.decide import AlterPartitions, PartitionsReply
from odradek.controller.state.partitions import IsrMember, IsrProposal
from odradek.node.replication.isr import ProposeIsr
from odradek.protocol.errors import InvalidUpdateVersionError
from tests.simulation.cluster.oracle import check

if TYPE_CHECKING:
    from tests.simulation.cluster.replica import SimulatedReplica


def propose(replica: "SimulatedReplica", proposal: ProposeIsr) -> None:
    """Ask for an ISR; the leader learns that it was answered, if it still leads."""
    node, leader = replica.node, replica.leader
    asked = IsrProposal(
        node.world.topic_of(replica.uid),
        replica.place.index,
        proposal.leader_epoch,
        proposal.partition_epoch,
        tuple(IsrMember(each.node_id, each.incarnation) for each in proposal.isr),
    )

    def decided(answer: Any, reply: Any) -> None:
        del answer
        if isinstance(reply, PartitionsReply):
            for outcome in reply.outcomes:
                if isinstance(outcome.error, InvalidUpdateVersionError):
                    node.world.oracle.met["stale isr proposals"] += 1
                after = None if outcome.error else outcome.partition
                check(
                    after is None or after.partition_epoch == proposal.partition_epoch + 1,
                    "an ISR change is a compare-and-set",
                    "{} made {}",
                    proposal,
                    after,
                )
        if leader is not None and replica.leader is leader:
            replica.perform(leader.on_proposal_answered(proposal, node.now_s))

    node.link.submit(AlterPartitions((asked,)), decided)

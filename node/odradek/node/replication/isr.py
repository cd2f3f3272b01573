"""Which nodes may be in the ISR, as their leader knows it. Pure.

Problem: between a proposal and its outcome nobody knows the ISR, and a proposal believed dead may
have a repeat on its way. Idea: whoever was ever proposed since the partition epoch in force may be
in; only an image with a newer partition epoch tells, for every proposal is a compare-and-set on it.

Invariants: maximal contains committed; one proposal is under way at a time; nobody proposed is
forgotten before a newer partition epoch.

Source: KIP-497 (AlterPartition), KIP-966 (maximal ISR).
"""

from dataclasses import dataclass
from typing import Final

from odradek.node.cluster.image import PartitionState
from odradek.protocol.types import Incarnation, LeaderEpoch, NodeId, PartitionEpoch

PROPOSAL_RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class IsrMember:
    """A proposed member and the registration it is proposed with."""

    node_id: NodeId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class ProposeIsr:
    """The controller is to be asked for an ISR; answer with `on_proposal_answered`."""

    leader_epoch: LeaderEpoch
    partition_epoch: PartitionEpoch
    isr: tuple[IsrMember, ...]


class InSync:
    """The ISR of one partition during one leader epoch."""

    __slots__ = (
        "_ends_doubt",
        "_pending",
        "_retry_at_s",
        "committed",
        "leader_epoch",
        "maximal",
        "partition_epoch",
    )

    def __init__(self, partition: PartitionState) -> None:
        self.leader_epoch = partition.leader_epoch
        self._take(partition)

    def _take(self, partition: PartitionState) -> None:
        self.partition_epoch = partition.partition_epoch
        self.committed = partition.isr
        self.maximal = frozenset(partition.isr)
        self._pending: ProposeIsr | None = None
        self._ends_doubt = False
        self._retry_at_s = float("-inf")

    def on_image(self, partition: PartitionState) -> bool:
        """An image came; return whether its partition epoch is news."""
        assert partition.leader_epoch == self.leader_epoch, "another epoch is another leader"
        assert partition.partition_epoch >= self.partition_epoch, "epochs only grow"
        if partition.partition_epoch == self.partition_epoch:
            return False
        self._take(partition)
        return True

    def propose(
        self, wanted: tuple[IsrMember, ...], staying: frozenset[NodeId], now_s: float
    ) -> ProposeIsr | None:
        """Return what to ask the controller for, if it is time to ask and anything would change.

        Args:
            wanted: Who should be in, the leader included.
            staying: The present members, but for those that the controller itself is taking out.
            now_s: The clock.
        """
        if self._pending is not None:
            return None
        if now_s < self._retry_at_s:
            if not self._ends_doubt:
                return None
            wanted = tuple(each for each in wanted if each.node_id in self.committed)
        members = {member.node_id for member in wanted}
        is_certain = len(self.maximal) == len(self.committed)
        if is_certain and members == staying:
            return None
        self._pending = ProposeIsr(self.leader_epoch, self.partition_epoch, wanted)
        self.maximal |= members
        return self._pending

    def on_answered(self, proposal: ProposeIsr, now_s: float, *, accepted: bool) -> None:
        """The controller answered, or nobody knows.

        However it was answered, `maximal` stays until an image with a newer partition epoch: a
        repeat may still be on its way. When it was not accepted, the next proposal, at once and
        with nobody new, raises the epoch and ends the doubt; when that fails too, or no image comes
        of one that was accepted, another one is made a moment later.
        """
        if proposal is self._pending:
            self._pending = None
            self._retry_at_s = now_s + PROPOSAL_RETRY_S
            named_others = any(each.node_id not in self.committed for each in proposal.isr)
            self._ends_doubt = named_others and not accepted

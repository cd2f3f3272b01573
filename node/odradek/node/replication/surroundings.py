"""What a replica needs of its node, as it is given it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from odradek.node.replication.follower import Ack
from odradek.node.replication.isr import ProposeIsr
from odradek.node.replication.leader import Diverging, Incarnations, Refused
from odradek.node.replication.session import Announcement
from odradek.node.storage.log_reader import Damage
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import NodeId

if TYPE_CHECKING:
    from odradek.node.replication.partition import PartitionReplica


class Links(Protocol):
    """Carries what replicas tell other nodes; nothing here waits."""

    def follow(self, replica: "PartitionReplica") -> None:
        """The replica follows its leader from now on: tell it `on_connected`, and push to it."""

    def unfollow(self, replica: "PartitionReplica") -> None:
        """No longer."""

    def announce(self, replica: "PartitionReplica", announcement: Announcement) -> None:
        """Tell the leader where the log ends."""

    def ack(self, replica: "PartitionReplica", ack: Ack) -> None:
        """Tell the leader how much is on disk."""

    def lead(self, replica: "PartitionReplica") -> None:
        """The replica leads from now on: give it what followers announced too early."""

    def push_due(self, replica: "PartitionReplica", follower: NodeId) -> None:
        """Send a follower what follows its cursor."""

    def answer(self, replica: "PartitionReplica", answer: Diverging | Refused) -> None:
        """Tell a follower that its announcement does not fit."""

    def high_watermark_advanced(self, replica: "PartitionReplica") -> None:
        """Let followers hear of it before long."""

    def propose_isr(self, replica: "PartitionReplica", proposal: ProposeIsr) -> None:
        """Ask the controller."""

    async def confirm_leadership(self, replica: "PartitionReplica") -> None:
        """Return once every other member of the ISR knows of no later leader.

        Raises:
            NotLeaderOrFollowerError: One does, or cannot be asked.
        """

    async def repair(self, replica: "PartitionReplica", damage: Damage, bytes_max: int) -> bool:
        """Put right damaged batches with what another replica has; return whether it did."""


class Alone:
    """The links of a node that has no other to speak to."""

    def follow(self, replica: "PartitionReplica") -> None:
        """Nobody is there to follow."""

    unfollow = lead = high_watermark_advanced = follow

    def announce(self, replica: "PartitionReplica", announcement: Announcement) -> None:
        """Nobody listens."""

    def ack(self, replica: "PartitionReplica", ack: Ack) -> None:
        """Nobody listens."""

    def push_due(self, replica: "PartitionReplica", follower: NodeId) -> None:
        """Nobody is there to push to."""

    def answer(self, replica: "PartitionReplica", answer: Diverging | Refused) -> None:
        """Nobody asked."""

    def propose_isr(self, replica: "PartitionReplica", proposal: ProposeIsr) -> None:
        """Nobody decides."""

    async def confirm_leadership(self, replica: "PartitionReplica") -> None:
        """Nobody objects."""

    async def repair(self, replica: "PartitionReplica", damage: Damage, bytes_max: int) -> bool:
        """Nobody has another copy."""
        del replica, damage, bytes_max
        return False


@dataclass(frozen=True, slots=True)
class ReplicaSurroundings:
    """What every replica of a node shares.

    Attributes:
        node_id: This node.
        lapsed: Why nothing may be acknowledged at the moment, or None.
        unsynced: Called when a replica has changed something that awaits a group commit.
        incarnations: The nodes that are not fenced, as of the image in force.
        links: To the other nodes.
        new_session: Numbers announcements.
        storage_refused: Called when a replica met a full disk.
    """

    node_id: NodeId
    lapsed: Callable[[], BrokerError | None]
    unsynced: Callable[["PartitionReplica"], None]
    incarnations: Callable[[], Incarnations] = dict
    links: Links = field(default_factory=Alone)
    new_session: Callable[[], int] = lambda: 1
    storage_refused: Callable[[], None] = lambda: None

"""Performs what a leader's core decides, but for answering those who wait.

Invariant: what happens to the core and what follows from it is one step, without an await.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from odradek.node.replication.isr import ProposeIsr
from odradek.node.replication.leader import Effect, LeaderReplica, PushDue
from odradek.node.replication.progress import Cursor
from odradek.node.replication.session import Announcement, HighWatermarkAdvanced
from odradek.node.replication.surroundings import Links
from odradek.node.storage.log import PartitionLog
from odradek.protocol.errors import BrokerError, NotEnoughReplicasAfterAppendError
from odradek.protocol.types import Incarnation, NodeId, Offset

if TYPE_CHECKING:
    from odradek.node.replication.partition import PartitionReplica


class Leading:
    """One replica, as long as it leads in one epoch.

    Args:
        core: Decides.
        log: This node's.
        replica: Whose it is.
        links: To the other nodes.
        advanced: Called with the high watermark when it moved.
    """

    def __init__(
        self,
        core: LeaderReplica,
        log: PartitionLog,
        replica: "PartitionReplica",
        links: Links,
        advanced: Callable[[Offset], None],
    ) -> None:
        self.core = core
        self._log = log
        self._replica = replica
        self._links = links
        self._advanced = advanced

    def perform(self, effects: list[Effect]) -> None:
        """Do what the core asks for."""
        for effect in effects:
            if isinstance(effect, PushDue):
                self._links.push_due(self._replica, effect.follower)
            elif isinstance(effect, HighWatermarkAdvanced):
                self._links.high_watermark_advanced(self._replica)
                self._advanced(effect.offset)
            elif isinstance(effect, ProposeIsr):
                self._links.propose_isr(self._replica, effect)
            else:
                self._links.answer(self._replica, effect)

    @property
    def has_lost_track(self) -> bool:
        """Whether the log is not where this leader left it, after its disk was full."""
        return self.core.log_end_offset != self._log.log_end_offset

    @property
    def others_in_sync(self) -> list[NodeId]:
        """The members of the maximal ISR but for this node."""
        return sorted(self.core.maximal_isr - {self.core.node_id})

    def not_enough(self, kind: type[BrokerError]) -> BrokerError:
        """Make the error for appends that need more in-sync replicas than there are."""
        core = self.core
        return kind(
            f"partition {self._replica} has {len(core.isr)} in-sync replicas,"
            f" {core.min_insync} are needed",
            field="min.insync.replicas",
            value=len(core.isr),
            limit=core.min_insync,
        )

    def why_not_committed(self) -> BrokerError | None:
        """Return why appends wait, when that is for want of in-sync replicas."""
        if self.core.has_enough_replicas:
            return None
        return self.not_enough(NotEnoughReplicasAfterAppendError)

    def cursor(self, follower: NodeId) -> Cursor | None:
        """Return from where a follower is to be sent; None when this replica cannot send."""
        return None if self.has_lost_track else self.core.cursor(follower)

    def on_announced(
        self, follower: NodeId, incarnation: Incarnation, announced: Announcement
    ) -> None:
        """A follower says where its log ends."""
        epochs, start = self._log.leader_epochs, self._log.log_start_offset
        self.perform(
            self.core.on_announced(
                follower, incarnation, announced, epochs, start, now_s=time.monotonic()
            )
        )

    def on_sent(self, follower: NodeId, session: int, end: Offset) -> None:
        """A push leaves."""
        self.core.on_sent(follower, session, end, time.monotonic())

    def on_acked(
        self, follower: NodeId, incarnation: Incarnation, session: int, durable_end: Offset
    ) -> None:
        """A follower has that much on disk."""
        now_s = time.monotonic()
        self.perform(self.core.on_acked(follower, incarnation, session, durable_end, now_s))

    def on_cursor_lost(self, follower: NodeId, session: int) -> None:
        """What a follower needs lies below the log start."""
        self.perform(self.core.on_cursor_lost(follower, session, self._log.log_start_offset))

    def on_follower_gone(self, follower: NodeId, incarnation: Incarnation) -> None:
        """A follower's streams ended."""
        self.core.on_disconnected(follower, incarnation)

    def on_proposal_answered(self, proposal: ProposeIsr, *, accepted: bool) -> None:
        """The controller answered, or nobody knows."""
        now_s = time.monotonic()
        self.perform(self.core.on_proposal_answered(proposal, now_s, accepted=accepted))

    def on_tick(self, now_s: float) -> None:
        """Time has passed: about once a second."""
        self.perform(self.core.on_tick(now_s))

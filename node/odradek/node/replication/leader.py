"""The leader's side of replication, for one partition in one leader epoch. Pure.

Problem: tell when a record can no longer be lost, and who may take over. Idea: a record is
committed once every member of the maximal ISR, this node included, has it on disk. Maximal: the
committed ISR and everybody proposed beside it, so that whichever way a proposal is decided, nothing
committed is missing.

How to drive it: make one when an image says that this node leads (again), throw it away when the
leader epoch ends; call one method per event and perform the effects it returns, in order.

    announced  -> on_announced    a follower says where its log ends; Diverging, Refused or PushDue
    appended   -> on_appended     before this node's sync; PushDue for each follower that waited
    pushed     -> on_sent         `cursor(follower)` says from where; the shell decides how much
    acked      -> on_acked        a follower's durable end
    synced     -> on_durable      this node's own durable end
    image      -> on_image        ISR, incarnations or min ISR changed within the epoch
    answered   -> on_proposal_answered
    broken     -> on_disconnected a follower's stream ended
    time       -> on_tick         a few times a second

`PushDue` asks for a push from the cursor on, empty when there is nothing: it carries the high
watermark. On `HighWatermarkAdvanced` every matched follower is to hear of it before long. Streams
deliver in order or break; whoever loses a message says `on_disconnected`.

Invariants: high_watermark never falls, and moves only to an offset that every member of the maximal
ISR has (isr.py); it stands still while the committed ISR is smaller than min_insync.

Source: Apache Kafka's Partition.scala, KIP-966, KIP-903 (incarnations).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from msgspec import Struct

from odradek.node.cluster.image import PartitionState
from odradek.node.cluster.session import NO_INCARNATION
from odradek.node.replication.isr import InSync, IsrMember, ProposeIsr
from odradek.node.replication.progress import Cursor, Progress
from odradek.node.replication.session import Announcement, HighWatermarkAdvanced
from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    InvalidRequestError,
    NotLeaderOrFollowerError,
    StaleBrokerEpochError,
    UnknownLeaderEpochError,
)
from odradek.protocol.types import NO_LEADER_EPOCH, Incarnation, LeaderEpoch, NodeId, Offset

__all__ = ["Cursor", "Diverging", "Effect", "Incarnations", "IsrMember", "LeaderReplica"]
__all__ += ["ProposeIsr", "PushDue", "Refused"]

REPLICA_LAG_TIME_MAX_S: Final = 30.0

Incarnations: TypeAlias = Mapping[NodeId, Incarnation]
"""The nodes that may be in sync, neither fenced nor stopping, with the registration in force."""


class PushDue(Struct, frozen=True):
    """A follower is to be sent what follows its cursor."""

    follower: NodeId


@dataclass(frozen=True, slots=True)
class Diverging:
    """A follower must truncate before it announces again.

    Attributes:
        end: It agrees with this log up to here at most. Epoch -1: it has nothing in common with
            this log and begins at that offset.
    """

    follower: NodeId
    session: int
    end: EpochEnd


@dataclass(frozen=True, slots=True)
class Refused:
    """An announcement is not taken; another one may be, under another image."""

    follower: NodeId
    session: int
    error: BrokerError


Effect: TypeAlias = PushDue | Diverging | Refused | ProposeIsr | HighWatermarkAdvanced


class LeaderReplica:
    """One partition, as long as this node leads it in one epoch."""

    def __init__(
        self,
        node_id: NodeId,
        partition: PartitionState,
        incarnations: Incarnations,
        *,
        min_insync: int,
        log_end: Offset,
        durable_end: Offset,
        high_watermark: Offset,
        now_s: float,
        lag_time_max_s: float = REPLICA_LAG_TIME_MAX_S,
    ) -> None:
        """Begin a leader epoch; then call `start`.

        Args:
            node_id: This node.
            partition: As the image has it; this node leads it.
            incarnations: Who may be in sync.
            min_insync: How many members the ISR needs for the high watermark to move.
            log_end: The end of this node's log; the epoch starts here.
            durable_end: The end of what this node has on disk.
            high_watermark: A lower bound, as remembered from before.
            now_s: The clock.
            lag_time_max_s: How long a member may lag before it is proposed to leave.
        """
        assert partition.leader_id == node_id, "another node leads"
        assert high_watermark <= durable_end <= log_end
        self.node_id = node_id
        self.epoch_start = log_end
        self.log_end_offset = log_end
        self.durable_end = durable_end
        self.high_watermark = high_watermark
        self.min_insync = min_insync
        self.followers: dict[NodeId, Progress] = {}
        self._incarnations = incarnations
        self._lag_time_max_s = lag_time_max_s
        self._in_sync = InSync(partition)
        self._take_replicas(partition.replicas, now_s)

    @property
    def leader_epoch(self) -> LeaderEpoch:
        """The epoch in which this node leads."""
        return self._in_sync.leader_epoch

    @property
    def isr(self) -> tuple[NodeId, ...]:
        """The committed ISR, as of the newest image."""
        return self._in_sync.committed

    @property
    def maximal_isr(self) -> frozenset[NodeId]:
        """Whoever may be in the ISR by now."""
        return self._in_sync.maximal

    @property
    def has_enough_replicas(self) -> bool:
        """Whether an append that waits for all could commit at present."""
        return len(self.isr) >= self.min_insync

    @property
    def reached_epoch_start(self) -> bool:
        """Whether everything earlier leaders committed is known to be committed."""
        return self.high_watermark >= self.epoch_start

    def start(self) -> list[Effect]:
        """Commit at once what needs nobody else."""
        return self._advance_high_watermark()

    def cursor(self, follower: NodeId) -> Cursor | None:
        """Return from where a follower is to be sent; None while it cannot be pushed to."""
        progress = self.followers.get(follower)
        return None if progress is None else progress.cursor

    # This node's log

    def on_appended(self, log_end: Offset) -> list[Effect]:
        """This node appended; nothing is on disk yet."""
        assert log_end > self.log_end_offset, "a leader only appends"
        before, self.log_end_offset = self.log_end_offset, log_end
        # Whoever is further behind has a push due already.
        return [
            PushDue(node_id)
            for node_id, progress in self.followers.items()
            if progress.matched and progress.sent_end == before
        ]

    def on_durable(self, end: Offset) -> list[Effect]:
        """This node's group commit."""
        assert end <= self.log_end_offset
        if end <= self.durable_end:
            return []
        self.durable_end = end
        return self._advance_high_watermark()

    # Followers

    def on_announced(
        self,
        follower: NodeId,
        incarnation: Incarnation,
        announced: Announcement,
        epochs: LeaderEpochs,
        log_start: Offset,
        *,
        now_s: float,
    ) -> list[Effect]:
        """Compare a follower's log with this one.

        Args:
            follower: Who announces.
            incarnation: Its registration.
            announced: What it says.
            epochs: Those of this node's log.
            log_start: Of this node's log.
            now_s: The clock.

        Raises:
            InvalidRequestError: It contradicts itself.
        """
        if not 0 <= announced.durable_end <= announced.log_end:
            raise _contradiction(follower, announced.durable_end, announced.log_end)
        progress = self.followers.get(follower)
        error = self._refusal(follower, incarnation, progress, announced)
        if error is not None:
            return [Refused(follower, announced.session, error)]
        assert progress is not None, "strangers are refused"
        if progress.is_overtaken(incarnation, announced.session):
            return []
        progress.begin(incarnation, announced.session)
        diverging = announced.diverging(epochs, log_start, self.log_end_offset)
        if diverging is not None:
            return [Diverging(follower, announced.session, diverging)]
        progress.match(announced, self.log_end_offset, now_s)
        return [PushDue(follower), *self._on_proven(follower, now_s)]

    def on_sent(self, follower: NodeId, session: int, end: Offset, now_s: float) -> None:
        """A push leaves that ends at an offset; an empty one, at the cursor."""
        progress = self.followers.get(follower)
        if progress is None or not progress.matched or progress.session != session:
            return
        progress.send(end, self.log_end_offset, now_s)

    def on_acked(
        self,
        follower: NodeId,
        incarnation: Incarnation,
        session: int,
        durable_end: Offset,
        now_s: float,
    ) -> list[Effect]:
        """A follower has everything below an offset on disk, under this leader epoch.

        Raises:
            InvalidRequestError: It was never sent that much.
        """
        progress = self.followers.get(follower)
        if (
            progress is None
            or not progress.matched
            or progress.session != session
            or progress.incarnation != incarnation
            or durable_end <= progress.durable_end
        ):
            return []
        if durable_end > progress.sent_end:
            raise _contradiction(follower, durable_end, progress.sent_end)
        progress.acknowledge(durable_end, self.log_end_offset, now_s)
        return self._on_proven(follower, now_s)

    def on_cursor_lost(self, follower: NodeId, session: int, log_start: Offset) -> list[Effect]:
        """What follows the cursor is gone: retention has moved the log start beyond it."""
        progress = self.followers.get(follower)
        if progress is None or not progress.matched or progress.session != session:
            return []
        progress.matched = False
        return [Diverging(follower, session, EpochEnd(NO_LEADER_EPOCH, log_start))]

    def on_disconnected(self, follower: NodeId, incarnation: Incarnation) -> None:
        """A follower's stream ended: what it had it still has, but it must announce again."""
        progress = self.followers.get(follower)
        if progress is not None and progress.incarnation == incarnation:
            progress.matched = False

    # The controller

    def on_image(
        self,
        partition: PartitionState,
        incarnations: Incarnations,
        min_insync: int,
        now_s: float,
    ) -> list[Effect]:
        """The image changed within this leader epoch."""
        members_before = self.isr
        self._incarnations = incarnations
        self.min_insync = min_insync
        if self._in_sync.on_image(partition):
            self._take_replicas(partition.replicas, now_s)
            for member in set(self.isr) - set(members_before) - {self.node_id}:
                self.followers[member].caught_up_at_s = now_s
        return [*self._advance_high_watermark(), *self._propose(now_s)]

    def on_proposal_answered(
        self, proposal: ProposeIsr, now_s: float, *, accepted: bool = False
    ) -> list[Effect]:
        """The controller answered, or nobody knows what became of it; only an image will tell."""
        self._in_sync.on_answered(proposal, now_s, accepted=accepted)
        return self._propose(now_s)

    def on_tick(self, now_s: float) -> list[Effect]:
        """Time has passed."""
        for progress in self.followers.values():
            progress.rest(self.log_end_offset, now_s)
        return self._propose(now_s)

    # Decisions

    def _take_replicas(self, replicas: Iterable[NodeId], now_s: float) -> None:
        known, self.followers = self.followers, {}
        for node_id in replicas:
            if node_id != self.node_id:
                self.followers[node_id] = known.get(node_id) or Progress(caught_up_at_s=now_s)

    def _refusal(
        self,
        follower: NodeId,
        incarnation: Incarnation,
        progress: Progress | None,
        announced: Announcement,
    ) -> BrokerError | None:
        theirs, ours = announced.leader_epoch, self.leader_epoch
        if theirs != ours:
            kind = FencedLeaderEpochError if theirs < ours else UnknownLeaderEpochError
            return kind(field="leader_epoch", value=theirs, limit=ours)
        if progress is None:
            message = f"node {follower} holds no replica as far as this leader knows"
            return NotLeaderOrFollowerError(message, field="node_id", value=follower)
        newest = max(progress.incarnation, self._incarnations.get(follower, NO_INCARNATION))
        if incarnation < newest:
            return StaleBrokerEpochError(field="incarnation", value=incarnation, limit=newest)
        return None

    def _on_proven(self, follower: NodeId, now_s: float) -> list[Effect]:
        if follower in self.maximal_isr:
            return self._advance_high_watermark()
        return self._propose(now_s)

    def _advance_high_watermark(self) -> list[Effect]:
        if not self.has_enough_replicas:
            return []
        end = self.durable_end
        for member in self.maximal_isr:
            if member == self.node_id:
                continue
            progress = self.followers.get(member)
            if progress is None:
                return []
            end = min(end, progress.durable_end)
        if end <= self.high_watermark:
            return []
        self.high_watermark = end
        return [HighWatermarkAdvanced(end)]

    def _propose(self, now_s: float) -> list[Effect]:
        wanted = self._wanted_isr(now_s)
        if not wanted:
            return []  # this node is fenced: nothing it asks for would be granted
        staying = frozenset(self.isr) & self._incarnations.keys()
        proposal = self._in_sync.propose(wanted, staying, now_s)
        return [] if proposal is None else [proposal]

    def _wanted_isr(self, now_s: float) -> tuple[IsrMember, ...]:
        own_incarnation = self._incarnations.get(self.node_id)
        if own_incarnation is None:
            return ()
        wanted = [IsrMember(self.node_id, own_incarnation)]
        for node_id in self.followers:
            incarnation = self._incarnations.get(node_id)
            if incarnation is not None and self._belongs(node_id, incarnation, now_s):
                wanted.append(IsrMember(node_id, incarnation))
        return tuple(wanted)

    def _belongs(self, follower: NodeId, incarnation: Incarnation, now_s: float) -> bool:
        progress = self.followers[follower]
        if follower in self.isr:
            return now_s - progress.caught_up_at_s <= self._lag_time_max_s
        return (
            progress.matched
            and progress.incarnation == incarnation
            and progress.durable_end >= max(self.high_watermark, self.epoch_start)
        )


def _contradiction(follower: NodeId, durable_end: Offset, limit: Offset) -> InvalidRequestError:
    return InvalidRequestError(
        f"node {follower} says it has offset {durable_end} on disk; it can have {limit} at most",
        field="durable_end",
        value=durable_end,
        limit=limit,
    )

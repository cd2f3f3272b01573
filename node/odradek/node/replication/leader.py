"""The leader's side of replication. Pure.

Problem: tell when a record can no longer be lost. Idea: it is committed once every member of the
maximal ISR, this node included, has it on disk. Maximal: the committed ISR and every member
proposed beside it, so that whichever way a proposal is decided, nothing committed is missing.

Invariants: high_watermark only moves to an offset that every member has; it never falls; it stands
still while the ISR is smaller than min_insync.

Source: Apache Kafka's KIP-966.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from odradek.protocol.types import FIRST_OFFSET, NodeId, Offset


@dataclass(frozen=True, slots=True)
class PushDue:
    """Followers are to be sent what was appended."""

    log_end_offset: Offset


@dataclass(frozen=True, slots=True)
class HighWatermarkAdvanced:
    """Everything below is committed now."""

    offset: Offset


Effect: TypeAlias = PushDue | HighWatermarkAdvanced


@dataclass(slots=True)
class LeaderReplica:
    """One partition, as long as this node leads it in one epoch."""

    min_insync: int
    durable_end: dict[NodeId, Offset]
    """Member of the maximal ISR, this node included -> the end of what it has on disk."""
    log_end_offset: Offset = FIRST_OFFSET
    high_watermark: Offset = FIRST_OFFSET

    @property
    def has_enough_replicas(self) -> bool:
        """Whether an append that waits for all could commit at present."""
        return len(self.durable_end) >= self.min_insync

    def on_appended(self, log_end_offset: Offset) -> list[Effect]:
        """This node appended; nothing is on disk yet."""
        assert log_end_offset > self.log_end_offset, "a leader only appends"
        self.log_end_offset = log_end_offset
        return [PushDue(log_end_offset)] if len(self.durable_end) > 1 else []

    def on_durable(self, member: NodeId, end: Offset) -> list[Effect]:
        """Our own group commit, or a follower's ack."""
        if member not in self.durable_end:
            return []
        assert end <= self.log_end_offset, "nobody has more than the leader"
        self.durable_end[member] = max(end, self.durable_end[member])
        return self._advance_high_watermark()

    def on_isr_changed(self, members: Iterable[NodeId], min_insync: int) -> list[Effect]:
        """The maximal ISR or the topic's demand is another one; new members have proven nothing."""
        self.durable_end = {
            member: self.durable_end.get(member, FIRST_OFFSET) for member in members
        }
        self.min_insync = min_insync
        return self._advance_high_watermark()

    def _advance_high_watermark(self) -> list[Effect]:
        if not self.durable_end or not self.has_enough_replicas:
            return []
        end = min(self.durable_end.values())
        if end <= self.high_watermark:
            return []
        self.high_watermark = end
        return [HighWatermarkAdvanced(end)]

"""What both sides of replication speak of. Pure.

A session is one announcement of a follower and everything sent because of it. The follower numbers
its announcements, the leader echoes the number, and both drop frames of any other: that needs no
order between streams and no memory beyond one number.
"""

from dataclasses import dataclass

from msgspec import Struct

from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, Offset


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where a follower's log ends: asks the leader to compare, and to push what follows.

    Attributes:
        leader_epoch: Of the follower's image.
        session: The follower's number of this announcement; grows with each.
        last_epoch: The epoch of its last batch; -1 when there is none.
        log_end: The end of its log (exclusive).
        durable_end: The end of what it has on disk.
    """

    leader_epoch: LeaderEpoch
    session: int
    last_epoch: LeaderEpoch
    log_end: Offset
    durable_end: Offset

    def diverging(
        self, epochs: LeaderEpochs, log_start: Offset, log_end: Offset
    ) -> EpochEnd | None:
        """Compare the announced log with the leader's.

        Args:
            epochs: The leader's.
            log_start: The leader's.
            log_end: The leader's.

        Returns:
            None when it is a prefix of the leader's; otherwise how far they agree at most. Epoch
            -1: they have nothing in common, the follower begins at that offset.
        """
        entries = epochs.entries
        if self.log_end == log_start and (not entries or self.last_epoch <= entries[0][0]):
            return None  # whatever is below is of no interest to anybody, and what follows fits
        end = epochs.diverging(self.last_epoch, self.log_end, log_end)
        if self.log_end < log_start or (end is not None and end.epoch == NO_LEADER_EPOCH):
            return EpochEnd(NO_LEADER_EPOCH, log_start)
        return end


class HighWatermarkAdvanced(Struct, frozen=True):
    """Everything below is known to be committed now."""

    offset: Offset

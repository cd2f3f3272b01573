"""What both sides of replication speak of. Pure.

A session is one announcement of a follower and everything sent because of it. The follower numbers
its announcements, the leader echoes the number, and both drop frames of any other: that needs no
order between streams and no memory beyond one number.
"""

from dataclasses import dataclass

from odradek.protocol.types import LeaderEpoch, Offset


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


@dataclass(frozen=True, slots=True)
class HighWatermarkAdvanced:
    """Everything below is known to be committed now."""

    offset: Offset

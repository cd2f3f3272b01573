"""One subscription of a fetch stream, and whether a position can be read at all."""

import enum
from collections.abc import Callable

from odradek.node.replication.partition import PartitionReplica
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
)
from odradek.protocol.hot import EpochEnd
from odradek.protocol.types import LeaderEpoch, Offset


class Place(enum.Enum):
    """Where a subscription is."""

    QUEUED = "in the stream's queue"
    AT_END = "among its replica's readers: it has read all it may"
    READING = "being read from disk"
    OUT_OF_CREDIT = "until the client grants more"
    GONE = "ended"


class Subscription:
    """A partition being read; a `Reader` of its replica.

    Attributes:
        offset: The next to send.
        credit_bytes: What may still be sent; below 0 after a batch larger than the grant.
        is_grant_unused: Nothing was sent since the last grant: one batch may exceed it.
        is_new: The client has not heard the watermarks yet.
        fetched: Batches read from disk and not sent yet.
        error: Why it ended.
    """

    __slots__ = (
        "_enqueue",
        "credit_bytes",
        "error",
        "fetched",
        "is_grant_unused",
        "is_new",
        "offset",
        "place",
        "replica",
        "subscription_id",
    )

    def __init__(
        self,
        subscription_id: int,
        replica: PartitionReplica,
        offset: Offset,
        credit_bytes: int,
        enqueue: Callable[["Subscription"], None],
    ) -> None:
        self.subscription_id = subscription_id
        self.replica = replica
        self.offset = offset
        self.credit_bytes = credit_bytes
        self.is_grant_unused = True
        self.is_new = True
        self.place = Place.GONE
        self.fetched: list[bytes] = []
        self.error: BrokerError | None = None
        self._enqueue = enqueue

    def wake(self) -> None:
        """The replica has something new."""
        if self.place is Place.AT_END:
            self._enqueue(self)

    def end(self, error: BrokerError) -> None:
        """The replica cannot be read here any more; what was read and not sent is dropped."""
        self.error = error
        self.fetched = []
        if self.place in {Place.AT_END, Place.OUT_OF_CREDIT}:
            self._enqueue(self)

    def grant(self, credit_bytes: int) -> None:
        """The client allows more."""
        self.credit_bytes += credit_bytes
        self.is_grant_unused = True
        if self.place is Place.OUT_OF_CREDIT:
            self._enqueue(self)

    def take(self, batches: list[bytes], total_credit_bytes: int) -> tuple[list[bytes], int]:
        """Return as many of some batches as the credit allows, and their bytes."""
        allowed = min(self.credit_bytes, total_credit_bytes)
        taken_bytes = 0
        for count, batch in enumerate(batches):
            if taken_bytes + len(batch) > allowed and not (
                count == 0 and self.is_grant_unused and allowed > 0
            ):
                return batches[:count], taken_bytes
            taken_bytes += len(batch)
        return batches, taken_bytes


def check_position(
    replica: PartitionReplica, offset: Offset, last_fetched_epoch: LeaderEpoch
) -> EpochEnd | None:
    """Decide whether reading may begin at an offset.

    Args:
        replica: The leader's.
        offset: The next offset wanted.
        last_fetched_epoch: The epoch of the record before; -1 when unknown.

    Returns:
        None when it may; otherwise where the client's history and this log's part (KIP-320).

    Raises:
        InvalidRequestError: A negative offset.
        OffsetOutOfRangeError: Below the log start, or beyond an end its epoch proves never was.
        UnknownLeaderEpochError: The record before is of an epoch this leader has not heard of.
    """
    if offset < 0:
        raise InvalidRequestError(
            f"offset {offset} is negative", field="offset", value=offset, limit=0
        )
    if offset < replica.log_start_offset:
        raise _out_of_range(replica, offset)
    if last_fetched_epoch > replica.leader_epoch:
        raise UnknownLeaderEpochError(
            f"partition {replica} is in leader epoch {replica.leader_epoch}, the reader has records"
            f" of epoch {last_fetched_epoch}",
            field="last_fetched_epoch",
            value=last_fetched_epoch,
            limit=replica.leader_epoch,
        )
    if last_fetched_epoch >= 0:
        end = replica.log.leader_epochs.end_of(last_fetched_epoch, replica.log_end_offset)
        if end is None:
            # Older than everything kept: right at the log's start nothing contradicts it.
            if offset > replica.log_start_offset:
                raise _out_of_range(replica, offset)
        elif end.epoch < last_fetched_epoch or end.end_offset < offset:
            return EpochEnd(end.epoch, end.end_offset)
    if offset > replica.log_end_offset:
        raise _out_of_range(replica, offset)
    return None


def _out_of_range(replica: PartitionReplica, offset: Offset) -> OffsetOutOfRangeError:
    start, end = replica.log_start_offset, replica.log_end_offset
    return OffsetOutOfRangeError(
        f"partition {replica} holds offsets {start} to {end} (exclusive), not {offset}",
        field="offset",
        value=offset,
        limit=f"{start}..{end}",
    )

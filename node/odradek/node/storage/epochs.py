"""Which leader epoch wrote which offsets, and where two logs part. Pure.

Problem: after a change of leaders a follower may hold batches the new leader never had; the high
watermark cannot tell which. Idea (KIP-101, KIP-279): remember the first offset of each leader
epoch; two replicas agree up to the smaller end of the largest epoch they share.

Invariant: epochs and start offsets both grow strictly along the list.
"""

import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Self

from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, Offset

_ENTRY = struct.Struct(">iq")


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """Where an epoch ends (exclusive) in a log."""

    epoch: LeaderEpoch
    end_offset: Offset


@dataclass(slots=True)
class LeaderEpochs:
    """The leader epochs of one log, each with its first offset."""

    _epochs: list[LeaderEpoch] = field(default_factory=list)
    _starts: list[Offset] = field(default_factory=list)

    @property
    def latest(self) -> LeaderEpoch:
        """The epoch of the last batch; `NO_LEADER_EPOCH` while there is none."""
        return self._epochs[-1] if self._epochs else NO_LEADER_EPOCH

    @property
    def entries(self) -> tuple[tuple[LeaderEpoch, Offset], ...]:
        """Each epoch with its first offset, oldest first."""
        return tuple(zip(self._epochs, self._starts, strict=True))

    def assign(self, epoch: LeaderEpoch, start_offset: Offset) -> bool:
        """Note that an epoch writes from an offset on.

        Returns:
            Whether this was news.
        """
        if epoch == self.latest:
            return False
        assert epoch > self.latest, f"epoch {epoch} after {self.latest}"
        # An epoch that wrote nothing leaves no trace: the next one starts where it would have.
        while self._starts and self._starts[-1] >= start_offset:
            self._pop()
        self._epochs.append(epoch)
        self._starts.append(start_offset)
        return True

    def end_of(self, epoch: LeaderEpoch, log_end_offset: Offset) -> EpochEnd | None:
        """Answer OffsetsForLeaderEpoch: the largest epoch here that is not above the one asked for.

        An epoch above the leader's own is for the caller to refuse: a leader that has not written
        yet is not in this list.

        Returns:
            That epoch and its end; None for an epoch older than all.
        """
        following = bisect_right(self._epochs, epoch)
        if following == 0:
            return None
        end = self._starts[following] if following < len(self._starts) else log_end_offset
        return EpochEnd(self._epochs[following - 1], end)

    def epoch_at(self, offset: Offset) -> LeaderEpoch:
        """Return the epoch that wrote an offset; `NO_LEADER_EPOCH` before the first known one."""
        position = bisect_right(self._starts, offset)
        return self._epochs[position - 1] if position else NO_LEADER_EPOCH

    def diverging(
        self, last_epoch: LeaderEpoch, fetch_offset: Offset, log_end_offset: Offset
    ) -> EpochEnd | None:
        """Compare a reader's log with this one.

        Args:
            last_epoch: The epoch of the reader's last batch.
            fetch_offset: The end of the reader's log.
            log_end_offset: The end of this one.

        Returns:
            None when the reader's log is a prefix of this one; otherwise the epoch and offset the
            reader must truncate to before it asks again.
        """
        end = self.end_of(last_epoch, log_end_offset)
        if end is None:
            first = self._starts[0] if self._starts else log_end_offset
            return EpochEnd(NO_LEADER_EPOCH, min(first, log_end_offset))
        if end.epoch < last_epoch or end.end_offset < fetch_offset:
            return end
        return None

    def truncate_to(self, end_offset: Offset) -> None:
        """Forget what the offsets from `end_offset` on said."""
        while self._starts and self._starts[-1] >= end_offset:
            self._pop()

    def advance_to(self, start_offset: Offset) -> None:
        """Forget epochs that lie wholly below a new log start; the one across it is cut."""
        while len(self._starts) > 1 and self._starts[1] <= start_offset:
            del self._epochs[0], self._starts[0]
        if self._starts and self._starts[0] < start_offset:
            self._starts[0] = start_offset

    def pack(self) -> bytes:
        """Return the list as bytes."""
        return b"".join(map(_ENTRY.pack, self._epochs, self._starts))

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """Read what `pack` wrote."""
        epochs = cls()
        for epoch, start in _ENTRY.iter_unpack(value):
            epochs.assign(LeaderEpoch(epoch), Offset(start))
        return epochs

    def _pop(self) -> None:
        self._epochs.pop()
        self._starts.pop()

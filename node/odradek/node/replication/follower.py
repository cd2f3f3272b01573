"""The follower's side of replication, for one partition in one leader epoch. Pure.

Problem: hold a prefix of the leader's log, and say truthfully how much of it is on disk. Idea: say
where the own log ends and in which epoch; the leader answers with what follows, or with the place
where the logs part. Truncate there, and say it again once that is on disk.

How to drive it: make one when an image says that another node leads (again), throw it away when
the leader epoch ends or this node leads; one method per event, effects in order.

    connected  -> on_connected     the stream to the leader's node stands
    pushed     -> on_pushed        Append, then `on_appended` once the log has taken it
    diverging  -> on_diverging     Truncate or StartAfresh, then `on_truncated`
    refused    -> on_refused       announced again a moment later, by `on_tick`
    failed     -> on_append_failed the log did not take a push, or not all of it
    synced     -> on_durable       the end of what is on disk: Ack, or the announcement that waited
    broken     -> on_disconnected
    time       -> on_tick          a few times a second

Invariants: nothing is acknowledged that is not on disk, nor in any session but the last; a push is
appended only at the end of the log; nothing is announced while a truncation of this epoch is not on
disk; high_watermark never falls nor passes the log's end, but for a truncation that cuts it. An
earlier epoch's truncation may still be under way: a crash then brings back what was cut, and the
log is compared anew; what is said to be durable lies below the cut either way.

Source: KIP-101, KIP-279 (truncation by leader epoch), KIP-595 (diverging epoch in the answer).
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from msgspec import Struct

from odradek.node.replication.session import Announcement, HighWatermarkAdvanced
from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.protocol.types import FIRST_OFFSET, NO_LEADER_EPOCH, LeaderEpoch, NodeId, Offset

ANNOUNCE_RETRY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the leader where this log ends."""

    announcement: Announcement


@dataclass(frozen=True, slots=True)
class Append:
    """Append what was pushed, then call `on_appended`."""


@dataclass(frozen=True, slots=True)
class AdvanceLogStart:
    """The leader keeps nothing below; neither need this log."""

    offset: Offset


@dataclass(frozen=True, slots=True)
class Truncate:
    """Remove everything from an offset on, sync, and call `on_truncated`, then `on_durable`."""

    offset: Offset


@dataclass(frozen=True, slots=True)
class StartAfresh:
    """Remove everything and begin anew at an offset; then as after `Truncate`."""

    offset: Offset


class Ack(Struct, frozen=True):
    """Tell the leader how much is on disk."""

    session: int
    durable_end: Offset


Effect: TypeAlias = (
    Announce | Append | AdvanceLogStart | Truncate | StartAfresh | Ack | HighWatermarkAdvanced
)


class FollowerState(enum.Enum):
    """What this replica waits for."""

    AWAY = "a stream to the leader"
    FOLLOWING = "pushes"
    TRUNCATING = "its truncation to be on disk"
    PAUSED = "a moment to pass, after a refusal or a failure"


class FollowerReplica:
    """One partition, as long as this node follows one leader epoch of it."""

    def __init__(
        self,
        leader_id: NodeId,
        leader_epoch: LeaderEpoch,
        *,
        last_epoch: LeaderEpoch,
        log_end: Offset,
        durable_end: Offset,
        high_watermark: Offset,
        new_session: Callable[[], int],
    ) -> None:
        """Follow, from `on_connected` on.

        Args:
            leader_id: Whom.
            leader_epoch: In which epoch.
            last_epoch: The epoch of the log's last batch; -1 when there is none.
            log_end: The end of the log.
            durable_end: The end of what is on disk.
            high_watermark: A lower bound, as remembered from before.
            new_session: Returns a larger number at each call, over all epochs of this replica as
                long as this node is registered.
        """
        assert high_watermark <= log_end
        assert durable_end <= log_end
        self.leader_id = leader_id
        self.leader_epoch = leader_epoch
        self.last_epoch = last_epoch
        self.log_end_offset = log_end
        self.durable_end = durable_end
        self.high_watermark = high_watermark
        self.state = FollowerState.AWAY
        self.session = 0
        """The last one announced."""
        self._new_session = new_session
        self._leader_high_watermark = high_watermark
        self.log_start_offset = FIRST_OFFSET
        """Below it the leader keeps nothing; nor should this log, once its disk lets it."""
        self._connected = False
        self._retry_at_s = 0.0

    # The stream

    def on_connected(self) -> list[Effect]:
        """The stream to the leader's node stands."""
        self._connected = True
        return self._announce() if self.state is FollowerState.AWAY else []

    def on_disconnected(self) -> None:
        """It broke."""
        self._connected = False
        if self.state is not FollowerState.TRUNCATING:
            self.state = FollowerState.AWAY

    def on_pushed(
        self,
        session: int,
        start_offset: Offset | None,
        high_watermark: Offset,
        log_start: Offset,
    ) -> list[Effect]:
        """The leader sent something.

        Args:
            session: Of the leader's frame.
            start_offset: Where its batches begin; None when there are none.
            high_watermark: The leader's.
            log_start: The leader's.
        """
        if not self._is_present(session):
            return []
        if start_offset is not None and start_offset > self.log_end_offset:
            return self._announce()  # something was lost
        self._leader_high_watermark = max(high_watermark, self._leader_high_watermark)
        effects: list[Effect] = []
        if start_offset == self.log_end_offset:
            effects.append(Append())
        effects += self._advance_high_watermark()
        log_start = min(log_start, self.log_end_offset)
        if log_start > self.log_start_offset:
            self.log_start_offset = log_start
            effects.append(AdvanceLogStart(log_start))
        return effects

    def on_diverging(self, session: int, end: EpochEnd, epochs: LeaderEpochs) -> list[Effect]:
        """The leader's log is another one from some offset on.

        Args:
            session: Of the leader's frame.
            end: How far the logs can agree at most, as the leader sees it.
            epochs: Those of this log.
        """
        if not self._is_present(session):
            return []
        if end.epoch == NO_LEADER_EPOCH and end.end_offset > self.log_end_offset:
            return [StartAfresh(end.end_offset)]
        return [Truncate(min(end.end_offset, self._own_end(end.epoch, epochs)))]

    def on_refused(self, session: int, now_s: float) -> None:
        """The leader does not know this epoch yet, or has another one."""
        if self._is_present(session):
            self._pause(now_s)

    def on_tick(self, now_s: float) -> list[Effect]:
        """Time has passed."""
        if self.state is FollowerState.PAUSED and now_s >= self._retry_at_s:
            return self._announce()
        return []

    # This node's log

    def on_appended(self, log_end: Offset, last_epoch: LeaderEpoch) -> list[Effect]:
        """The log took what was pushed; nothing is on disk yet."""
        assert log_end >= self.log_end_offset
        self.log_end_offset, self.last_epoch = log_end, last_epoch
        return self._advance_high_watermark()

    def on_append_failed(self, log_end: Offset, last_epoch: LeaderEpoch, now_s: float) -> None:
        """The log ends where it says now; what else was pushed is lost."""
        self._take_end(log_end, last_epoch)
        self._pause(now_s)

    def on_truncated(self, log_end: Offset, last_epoch: LeaderEpoch) -> None:
        """The log was cut; the next `on_durable` speaks of the cut or of what came later."""
        self._take_end(log_end, last_epoch)
        self.state = FollowerState.TRUNCATING

    def on_durable(self, end: Offset) -> list[Effect]:
        """This node's group commit."""
        assert end <= self.log_end_offset
        before, self.durable_end = self.durable_end, max(end, self.durable_end)
        if self.state is FollowerState.TRUNCATING:
            return self._announce()
        if self.state is FollowerState.FOLLOWING and self.durable_end > before:
            return [Ack(self.session, self.durable_end)]
        return []

    # Decisions

    def _take_end(self, log_end: Offset, last_epoch: LeaderEpoch) -> None:
        self.log_end_offset, self.last_epoch = log_end, last_epoch
        self.durable_end = min(self.durable_end, log_end)
        self.high_watermark = min(self.high_watermark, log_end)

    def _is_present(self, session: int) -> bool:
        return self.state is FollowerState.FOLLOWING and session == self.session

    def _announce(self) -> list[Effect]:
        if not self._connected:
            self.state = FollowerState.AWAY
            return []
        self.state = FollowerState.FOLLOWING
        self.session = self._new_session()
        return [
            Announce(
                Announcement(
                    self.leader_epoch,
                    self.session,
                    self.last_epoch,
                    self.log_end_offset,
                    self.durable_end,
                )
            )
        ]

    def _pause(self, now_s: float) -> None:
        self.state = FollowerState.PAUSED
        self._retry_at_s = now_s + ANNOUNCE_RETRY_S

    def _own_end(self, epoch: LeaderEpoch, epochs: LeaderEpochs) -> Offset:
        """Return where, in this log, the epochs above one begin."""
        end = epochs.end_of(epoch, self.log_end_offset)
        if end is not None:
            return end.end_offset
        return epochs.entries[0][1] if epochs.entries else self.log_end_offset

    def _advance_high_watermark(self) -> list[Effect]:
        end = min(self._leader_high_watermark, self.log_end_offset)
        if end <= self.high_watermark:
            return []
        self.high_watermark = end
        return [HighWatermarkAdvanced(end)]

"""Performs what a follower's core decides: appends, cuts and acknowledges over one log.

Invariants: a push is verified before it is appended; what a role begins, only that role goes on
with; the core is told of every change of the log in the same step.
"""

import time
from collections.abc import Callable

import structlog

from odradek.node.cluster.image import PartitionState
from odradek.node.replication.durable_end import DurableEnd
from odradek.node.replication.follower import (
    Ack,
    AdvanceLogStart,
    Announce,
    Append,
    Effect,
    FollowerReplica,
    FollowerState,
    StartAfresh,
    Truncate,
)
from odradek.node.replication.session import Announcement
from odradek.node.storage.epochs import EpochEnd
from odradek.node.storage.log import PartitionLog
from odradek.protocol.errors import (
    BrokerError,
    CorruptMessageError,
    InvalidRecordError,
    StorageFullError,
    ThrottledError,
)
from odradek.protocol.hot import Buffer
from odradek.protocol.record_batch import split
from odradek.protocol.replication import PushFrame
from odradek.protocol.types import LeaderEpoch, Offset

_log = structlog.get_logger()


class Following:
    """One replica, as long as it follows one leader epoch."""

    def __init__(
        self,
        log: PartitionLog,
        partition: PartitionState,
        durable: DurableEnd,
        *,
        high_watermark: Offset,
        new_session: Callable[[], int],
        counts_page_cache: Callable[[], bool],
        announce: Callable[[Announcement], None],
        ack: Callable[[Ack], None],
        unsynced: Callable[[], None],
        storage_refused: Callable[[], None],
    ) -> None:
        """Begin to follow; nothing happens before `on_connected`.

        Args:
            log: This node's.
            partition: As the image has it; another node leads it.
            durable: Shared with the replica's other roles.
            high_watermark: A lower bound.
            new_session: Numbers announcements.
            counts_page_cache: Whether the topic has `flush=os`.
            announce: Carries an announcement to the leader.
            ack: Carries an acknowledgement to the leader.
            unsynced: Called when something awaits a group commit.
            storage_refused: Called when the disk was found full.
        """
        self.core = FollowerReplica(
            partition.leader_id,
            partition.leader_epoch,
            last_epoch=log.leader_epochs.latest,
            log_end=log.log_end_offset,
            durable_end=durable.end,
            high_watermark=high_watermark,
            new_session=new_session,
        )
        self._log = log
        self._durable = durable
        self._counts_page_cache = counts_page_cache
        self._announce = announce
        self._ack = ack
        self._unsynced = unsynced
        self._storage_refused = storage_refused

    def on_connected(self) -> None:
        """The streams to the leader's node stand."""
        self.find_track()
        self._perform(self.core.on_connected())

    def on_disconnected(self) -> None:
        """They broke."""
        self.core.on_disconnected()

    @property
    def is_paused(self) -> bool:
        """Whether `on_tick` is to announce again before long."""
        return self.core.state is FollowerState.PAUSED

    def on_tick(self, now_s: float) -> None:
        """Time has passed."""
        self.find_track()
        self._perform(self.core.on_tick(now_s))
        log_start = min(self.core.log_start_offset, self._log.log_end_offset)
        if log_start > self._log.log_start_offset:  # a full disk did not let it, or forgot it
            self._advance_log_start(log_start)

    def on_pushed(self, push: PushFrame[memoryview]) -> None:
        """The leader pushed."""
        if push.leader_epoch != self.core.leader_epoch:
            return
        self.find_track()
        start = push.start_offset if len(push.records) else None
        effects = self.core.on_pushed(
            push.session, start, push.high_watermark, push.log_start_offset
        )
        self._perform(effects, push.records)

    def on_diverging(self, leader_epoch: LeaderEpoch, session: int, end: EpochEnd) -> None:
        """The leader has another log."""
        if leader_epoch == self.core.leader_epoch:
            self._perform(self.core.on_diverging(session, end, self._log.leader_epochs))

    def on_refused(self, leader_epoch: LeaderEpoch, session: int) -> None:
        """The leader did not take the announcement."""
        if leader_epoch == self.core.leader_epoch:
            self.core.on_refused(session, time.monotonic())

    def on_durable(self) -> None:
        """More is on disk."""
        self._perform(self.core.on_durable(self._durable.end))

    def on_append_failed(self) -> None:
        """The log is not where it should be: go on from where it is, a moment later."""
        self.core.on_append_failed(
            self._log.log_end_offset, self._log.leader_epochs.latest, time.monotonic()
        )

    def find_track(self) -> None:
        """Go on from where the log is, should the store have been reopened, and lost its end."""
        end = self._log.log_end_offset
        if end != self.core.log_end_offset:
            self._durable.on_truncated(self._log.last_position, end)
            self._unsynced()
            self.on_append_failed()

    def _perform(self, effects: list[Effect], pushed: Buffer = b"") -> None:
        for effect in effects:
            match effect:
                case Append():
                    self._append(pushed)
                case Ack():
                    self._ack(effect)
                case Announce():
                    self._announce(effect.announcement)
                case Truncate():
                    self._cut(self._log.truncate_to, effect.offset)
                case StartAfresh():
                    self._cut(self._log.start_afresh, effect.offset)
                case AdvanceLogStart():
                    self._advance_log_start(effect.offset)
                case _:
                    pass  # readers of followers would be woken here

    def _append(self, pushed: Buffer) -> None:
        log = self._log
        try:
            log.append_replicated(split(pushed), _now_ms())
        except (StorageFullError, ThrottledError, CorruptMessageError, InvalidRecordError) as error:
            _log.warning("push not appended", uid=log.uid, reason=error.message)
            if isinstance(error, StorageFullError):
                self._storage_refused()
            self._note_appended()
            self.on_append_failed()
            return
        self._note_appended()

    def _note_appended(self) -> None:
        log = self._log
        self._perform(self.core.on_appended(log.log_end_offset, log.leader_epochs.latest))
        if self._counts_page_cache():
            self._durable.take(log.log_end_offset)
            self.on_durable()
        else:
            self._durable.on_appended(log.last_position, log.log_end_offset)
            self._unsynced()

    def _cut(self, cut: Callable[[Offset, int], int], offset: Offset) -> None:
        log = self._log
        before = log.log_end_offset
        try:
            position = cut(offset, _now_ms())
        except BrokerError as error:
            _log.warning("log not cut", uid=log.uid, reason=error.message)
            if isinstance(error, StorageFullError):
                self._storage_refused()
            self.on_append_failed()
            return
        _log.info("log cut", uid=log.uid, log_end=before, cut_to=log.log_end_offset)
        self._durable.on_truncated(position, log.log_end_offset)
        self.core.on_truncated(log.log_end_offset, log.leader_epochs.latest)
        self._unsynced()

    def _advance_log_start(self, offset: Offset) -> None:
        try:
            self._log.advance_log_start(offset, _now_ms())
        except (StorageFullError, ThrottledError) as error:
            _log.debug("log start stays", uid=self._log.uid, reason=error.message)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000

"""The batches of one partition, from the first record to the acknowledgement. Pure.

Problem: up to five batches of a partition are under way at once, answers come in any order, any of
them may fail or never come, the leader may move in between, and still every record must be appended
once and in order. Idea: go back to the first failure. Batches carry consecutive sequences from
their first sending on, so that a leader refuses what would leave a gap and recognises what it has.
Once a batch fails, nothing more is sent until the others under way are answered too; then all that
remain are sent again, in order, with the sequences they had.

Invariants: `in_flight` then `sealed` then `open` is the order of appending; sequences ascend
through all three without gap, except behind a batch given up after being sent; a batch that may
have been appended is never given another sequence; from the first unanswered batch to the last one
sent there are at most `limits.in_flight`, acknowledged ones between them included, since a leader
recognises no more than the last five.

Giving up (delivery time-out) after sending leaves the leader to decide: if it has the batch, the
next one fits; if not, the next is refused as out of order while it is the first one, which proves
that nothing from there on was appended, and a new identity starts again at sequence 0.

Source: KIP-98; KIP-360; org.apache.kafka.clients.producer.internals.TransactionManager.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile

from odradek.client.errors import DeliveryAbandonedError, DeliveryTimeoutError
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.producer_batch import ProducerBatch, ProducerIdentity
from odradek.protocol.errors import (
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTimestampError,
    NotLeaderOrFollowerError,
    OdradekError,
    OutOfOrderSequenceNumberError,
    RecordTooLargeError,
    UnknownProducerIdError,
)
from odradek.protocol.record_batch import BatchBuilder, next_sequence
from odradek.protocol.types import (
    NO_LEADER_EPOCH,
    NO_NODE,
    LeaderEpoch,
    NodeId,
    PartitionIndex,
    TopicId,
    TopicName,
)

_SEQUENCE_ERRORS = (
    OutOfOrderSequenceNumberError,
    UnknownProducerIdError,
    InvalidProducerEpochError,
)
# A leader forgets a producer that is silent for a day.
_KNOWN_FOR_S = 60 * 60.0
# A leader checks these before it appends: the sequence was surely not used.
_REFUSED_BEFORE_APPEND = (RecordTooLargeError, InvalidTimestampError, InvalidRecordError)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """What all queues of a producer have in common; see ProducerOptions."""

    batch_bytes: int
    linger_s: float
    delivery_timeout_s: float
    in_flight: int
    retry_delay_s: float
    retry_delay_max_s: float


@dataclass(slots=True, eq=False)
class PartitionQueue:
    """One partition's batches.

    Attributes:
        topic: Its topic's name.
        topic_id: Its topic's id; another after re-creation.
        partition: Its index.
        limits: The producer's.
        ledger: The producer's.
        leader_id: Where to send; -1 when nobody leads.
        leader_epoch: Of that leader.
        open: Takes records; None when there is none.
        sealed: Waiting to be sent, or to be sent again.
        in_flight: Sent and not acknowledged.
        identity: Whose sequences are being used; None before the first batch.
        retry_at_s: Nothing is sent before.
        refused_identity: One whose sequence is broken; another is needed before going on.
        is_fenced: True when it was refused because somebody else writes with its producer id.
    """

    topic: TopicName
    topic_id: TopicId
    partition: PartitionIndex
    limits: QueueLimits
    ledger: Ledger
    leader_id: NodeId = NO_NODE
    leader_epoch: LeaderEpoch = NO_LEADER_EPOCH
    open: ProducerBatch | None = None
    sealed: deque[ProducerBatch] = field(default_factory=deque)
    in_flight: deque[ProducerBatch] = field(default_factory=deque)
    identity: ProducerIdentity | None = None
    retry_at_s: float = 0.0
    refused_identity: ProducerIdentity | None = None
    is_fenced: bool = False
    _next_sequence: int = 0
    _next_ordinal: int = 0
    _is_known: bool = False
    _acknowledged_s: float = 0.0
    _retry_delay_s: float = 0.0
    _hurried: ProducerBatch | None = None

    # ------------------------------------------------------------------ filling

    def open_batch(self, now_s: float) -> ProducerBatch:
        """Begin a batch."""
        assert self.open is None, "one batch is filled at a time"
        if now_s - self._acknowledged_s > _KNOWN_FOR_S:
            self._is_known = False
        self.open = ProducerBatch(
            self.topic,
            self.partition,
            self.ledger,
            BatchBuilder(self.limits.batch_bytes),
            now_s,
            now_s + self.limits.delivery_timeout_s,
        )
        return self.open

    def seal(self) -> None:
        """Close the open batch: it is full, or is taken."""
        assert self.open is not None, "a batch is open"
        self.open.seal()
        self.sealed.append(self.open)
        self.open = None

    def hurry(self) -> None:
        """Let the open batch linger no longer (flush)."""
        self._hurried = self.open

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing is under way."""
        return not (self.in_flight or self.sealed or self.open)

    @property
    def is_drained(self) -> bool:
        """True when nothing waits to be sent."""
        return not (self.sealed or self.open)

    def pending(self) -> Iterator[ProducerBatch]:
        """Every batch without an outcome, in order."""
        for batches in (self.in_flight, self.sealed, (self.open,) if self.open else ()):
            yield from (batch for batch in batches if not batch.done)

    # ------------------------------------------------------------------ taking

    def ready_at_s(self, identity: ProducerIdentity | None) -> float:
        """Return when the next batch may be sent; infinity when an event must come first.

        Args:
            identity: The producer's at present; None when it is not idempotent.
        """
        next_batch = self.sealed[0] if self.sealed else self.open
        if next_batch is None or (identity and identity is self.refused_identity):
            return math.inf
        if self.in_flight:
            ordinal = next_batch.ordinal if next_batch.attempts else self._next_ordinal
            if ordinal - self.in_flight[0].ordinal >= self._in_flight_max or self._going_back:
                return math.inf
            if next_batch.identity is None and self.identity is not identity:
                return math.inf  # the old identity's batches must be answered first
        if self.sealed:
            return self.retry_at_s
        lingers = self.limits.linger_s if self._hurried is not next_batch else 0.0
        return max(self.retry_at_s, next_batch.created_s + lingers)

    def ready_bytes(self, enough_bytes: int) -> int:
        """Return how much may be taken now, the open batch too when it is next.

        Counts no further than `enough`; `ready_at_s` has said that the next batch is ready.
        """
        if not self.sealed:
            return self.next_bytes
        total_bytes = 0
        for batch in islice(self.sealed, max(0, self._in_flight_max - len(self.in_flight))):
            total_bytes += batch.size_bytes
            if total_bytes >= enough_bytes:
                break
        return total_bytes

    @property
    def next_bytes(self) -> int:
        """The size of the batch that would be taken next."""
        if self.sealed:
            return self.sealed[0].size_bytes
        assert self.open is not None, "something is ready"
        return self.open.size_bytes

    @property
    def _in_flight_max(self) -> int:
        # A leader takes any sequence from a producer it does not know: the first batch for it goes
        # alone, or the second could be appended before it and the first be taken for a duplicate.
        return self.limits.in_flight if self._is_known else 1

    def take(self, identity: ProducerIdentity | None) -> ProducerBatch:
        """Move the next batch under way, with its sequence; `ready_at_s` has said so."""
        if not self.sealed:
            self.seal()
        batch = self.sealed[0]
        if batch.identity is None and identity is not None:
            if self.identity is not identity:
                assert not self.in_flight, "one identity at a time is under way"
                self.identity = identity
                self._is_known = False
                self._next_sequence = 0
            batch.identity = identity
            batch.base_sequence = self._next_sequence
            self._next_sequence = next_sequence(self._next_sequence, batch.record_count)
        if not batch.attempts:
            batch.ordinal = self._next_ordinal
            self._next_ordinal += 1
        batch.attempts += 1
        batch.awaits_answer = True
        self.in_flight.append(self.sealed.popleft())
        return batch

    # ------------------------------------------------------------------ answers

    def on_acknowledged(
        self, batch: ProducerBatch, base_offset: int, append_time_ms: int, now_s: float
    ) -> None:
        """The leader has the batch."""
        if not batch.awaits_answer:
            return  # of an attempt that was given up meanwhile
        batch.awaits_answer = False
        self.in_flight.remove(batch)
        self._is_known = True
        self._acknowledged_s = now_s
        self._retry_delay_s = 0.0
        if not batch.done:
            batch.succeed(base_offset, append_time_ms)
        self._settle(now_s)

    def on_failed(self, batch: ProducerBatch, error: OdradekError, now_s: float) -> None:
        """The leader refused the batch, or nobody knows whether it has it."""
        if not batch.awaits_answer:
            return
        batch.awaits_answer = False
        batch.answer = error
        self._settle(now_s)

    def on_lost(self, error: OdradekError, now_s: float) -> None:
        """No answer will come for anything under way: the stream broke, or the leader changed."""
        for batch in self.in_flight:
            if batch.awaits_answer:
                batch.awaits_answer = False
                batch.answer = error
        self._settle(now_s)

    def on_leader(
        self, topic_id: TopicId, leader_id: NodeId, leader_epoch: LeaderEpoch, now_s: float
    ) -> None:
        """Somebody else leads, or nobody: what is under way is sent again, and at once.

        The old leader may be silent for long; if it did append, the sequence tells the new one.
        """
        self.on_lost(NotLeaderOrFollowerError("the leader moved"), now_s)
        self._is_known = False
        self.topic_id = topic_id
        self.leader_id = leader_id
        self.leader_epoch = leader_epoch
        self.retry_at_s = 0.0

    def on_time(self, now_s: float) -> None:
        """Give up what is past its delivery time-out."""
        overdue = list(takewhile(lambda batch: batch.deadline_s <= now_s, self.pending()))
        for batch in overdue:
            if batch is self.open:
                self.seal()
            batch.fail(self._timeout_error(batch))
        if overdue:
            self.sealed = deque(batch for batch in self.sealed if not batch.done)

    def give_up(self, error: OdradekError) -> None:
        """Fail everything that waits: the topic is gone."""
        self._end(lambda _: error)

    def abandon(self, reason: str) -> None:
        """Fail everything that waits: the producer ends."""
        self._end(lambda batch: self._abandoned_error(batch, reason))

    def _end(self, error_of: Callable[[ProducerBatch], OdradekError]) -> None:
        if self.open is not None:
            self.seal()
        for batch in list(self.pending()):
            batch.fail(error_of(batch))
        for batch in self.in_flight:
            batch.awaits_answer = False
        self.sealed.clear()
        self.in_flight.clear()

    def _abandoned_error(self, batch: ProducerBatch, reason: str) -> DeliveryAbandonedError:
        fate = (
            f"sent {batch.attempts} time(s), they may be in the log"
            if batch.attempts
            else "never sent"
        )
        return DeliveryAbandonedError(
            f"{batch.record_count} record(s) for {self.topic}-{self.partition} were not"
            f" acknowledged before {reason}; {fate}",
            topic=self.topic,
            partition=self.partition,
            maybe_appended=batch.attempts > 0,
        )

    @property
    def _going_back(self) -> bool:
        """True while a failed batch waits for the answers of the others under way."""
        return any(not batch.awaits_answer for batch in self.in_flight)

    def _settle(self, now_s: float) -> None:
        """Go back once everything under way is answered."""
        if not self.in_flight or any(batch.awaits_answer for batch in self.in_flight):
            return
        answered = list(self.in_flight)
        self.in_flight.clear()
        again: list[ProducerBatch] = []
        for batch in answered:
            assert batch.answer is not None, "the acknowledged ones have left"
            if batch.done:
                continue
            if isinstance(batch.answer, _SEQUENCE_ERRORS):
                # Behind a batch that failed too it is only the echo of that failure.
                if not again:
                    self.refused_identity = batch.identity
                    self.is_fenced = isinstance(batch.answer, InvalidProducerEpochError)
                again.append(batch)
            elif batch.answer.retriable:
                again.append(batch)
            else:
                self._reuse_sequence_of(batch, last=batch is answered[-1])
                batch.fail(batch.answer)
        if again and again[0].identity is self.refused_identity:
            for batch in (*again, *self.sealed):
                batch.identity = None
        if again:
            self.sealed.extendleft(reversed(again))
            self._back_off(now_s)

    def _reuse_sequence_of(self, batch: ProducerBatch, *, last: bool) -> None:
        """Spare a new identity where a refusal leaves no doubt and nothing was numbered after."""
        unnumbered = not self.sealed or self.sealed[0].identity is None
        if (
            last
            and unnumbered
            and batch.attempts == 1
            and isinstance(batch.answer, _REFUSED_BEFORE_APPEND)
        ):
            self._next_sequence = batch.base_sequence

    def _back_off(self, now_s: float) -> None:
        self._retry_delay_s = min(
            max(self._retry_delay_s * 2, self.limits.retry_delay_s), self.limits.retry_delay_max_s
        )
        self.retry_at_s = now_s + self._retry_delay_s

    def _timeout_error(self, batch: ProducerBatch) -> DeliveryTimeoutError:
        maybe_appended = batch.attempts > 0
        last = batch.answer
        return DeliveryTimeoutError(
            f"{batch.record_count} record(s) for {self.topic}-{self.partition} were not"
            f" acknowledged within {self.limits.delivery_timeout_s:g} s;"
            + (
                f" sent {batch.attempts} time(s), they may be in the log"
                if maybe_appended
                else (" nobody leads the partition" if self.leader_id < 0 else " never sent")
            )
            + (f"; last answer: {last}" if last is not None else ""),
            topic=self.topic,
            partition=self.partition,
            maybe_appended=maybe_appended,
        )

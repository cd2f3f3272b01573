"""A batch on its way from `append` to its acknowledgement. Pure.

Records of a batch share one fate, hence one object and one outcome; a record is (batch, index).

Problem: framing a value, counting its bytes and asking for the time take as long as all the rest
of a call that sends it. Idea: values that come one by one and share a timestamp are gathered in a
list, each counted as if its frame were the longest, and framed together.

Invariants: bytes are built once, when the batch is first taken, and kept for retries; only the
producer's identity and sequence are ever rewritten; an outcome is final; whoever needs the builder
settles what was gathered first.
"""

from dataclasses import dataclass, field
from typing import Protocol

from odradek.client.producing.ledger import Ledger
from odradek.protocol.errors import OdradekError
from odradek.protocol.record_batch import HEADER_BYTES, BatchBuilder, Codec, stamp_producer
from odradek.protocol.types import PartitionIndex, ProducerEpoch, ProducerId, TopicName

UNKNOWN_OFFSET = -1
# Length, attributes, timestamp delta, offset delta, lengths of key and value, number of headers.
FRAME_BYTES_MAX = 5 + 1 + 10 + 5 + 1 + 5 + 1


@dataclass(frozen=True, slots=True, eq=False)
class ProducerIdentity:
    """What an idempotent producer stamps into its batches.

    Attributes:
        producer_id: Granted by the cluster.
        epoch: Grows when sequences start anew.
    """

    producer_id: ProducerId
    epoch: ProducerEpoch


class Waiter(Protocol):
    """Somebody who wants to hear of the outcome: a future, to the shell."""

    def done(self) -> bool:
        """True once nobody waits any more."""

    def set_result(self, result: None, /) -> None:
        """Wake it."""


@dataclass(slots=True, eq=False)
class ProducerBatch:
    """Records of one partition that travel together.

    Attributes:
        topic: Where it goes.
        partition: Where it goes.
        ledger: The producer's.
        builder: Takes records; None once its bytes are made.
        deadline_s: When its delivery time-out ends.
        created_s: When its first record came.
        record_count: How many, once sealed.
        charged_bytes: What it holds of the producer's buffer, once sealed.
        data: The batch's bytes, from `build` until there is an outcome.
        codec: How `data` is compressed by now.
        identity: Whose sequence it carries; None before its first sending, and when not idempotent.
        base_sequence: Of its first record; meaningless without identity.
        ordinal: Counts the partition's batches in the order of their first sending.
        attempts: How often it was sent.
        awaits_answer: True while an attempt is under way.
        answer: The error that ended the last attempt that has ended.
        done: True once the outcome is final.
        error: Why it failed; None when acknowledged.
        base_offset: Of its first record once acknowledged; -1 when the node no longer knows.
        append_time_ms: The node's clock under LogAppendTime; else -1.
        watched_count: How many of its records somebody has awaited.
        gathered: Values that the builder does not have yet.
        gathered_ms: Their timestamp, milliseconds since the epoch.
        gathers_until_s: Then that millisecond ends; on the monotonic clock.
        gathers_bytes: Room for values and the longest of frames; 0 when nothing is gathered.
        before_gathered: The index of the record before them.
    """

    topic: TopicName
    partition: PartitionIndex
    ledger: Ledger
    builder: BatchBuilder | None
    created_s: float
    deadline_s: float
    record_count: int = 0
    charged_bytes: int = 0
    data: bytearray = field(default_factory=bytearray)
    codec: Codec = Codec.NONE
    identity: ProducerIdentity | None = None
    base_sequence: int = 0
    ordinal: int = 0
    attempts: int = 0
    awaits_answer: bool = False
    answer: OdradekError | None = None
    done: bool = False
    error: OdradekError | None = None
    base_offset: int = UNKNOWN_OFFSET
    append_time_ms: int = -1
    watched_count: int = 0
    gathered: list[bytes] = field(default_factory=list)
    gathered_ms: int = 0
    gathers_until_s: float = 0.0
    gathers_bytes: int = 0
    before_gathered: int = 0
    _waiters: list[Waiter] = field(default_factory=list)

    @property
    def unheard_count(self) -> int:
        """How many of its records nobody has awaited."""
        return max(0, self.record_count - self.watched_count)

    @property
    def size_bytes(self) -> int:
        """The batch as it travels, or as large as it would be uncompressed."""
        if self.data:
            return len(self.data)
        if self.charged_bytes:
            return self.charged_bytes + HEADER_BYTES
        return self.settle().size_bytes

    # ------------------------------------------------------------------ filling

    def gather(self, value: bytes, now_s: float) -> int | None:
        """Add a record without key and headers; return its index.

        Args:
            value: Bytes; the caller has checked it.
            now_s: On the monotonic clock.

        Returns:
            None when its time has ended or there is no room: `begin_gathering` may help.
        """
        counted_bytes = len(value) + FRAME_BYTES_MAX
        room_bytes = self.gathers_bytes - counted_bytes
        ledger = self.ledger
        if room_bytes < 0 or now_s >= self.gathers_until_s or not ledger.is_quick:
            return None
        ledger.used_bytes += counted_bytes
        self.gathers_bytes = room_bytes
        self.gathered.append(value)
        return self.before_gathered + len(self.gathered)

    def begin_gathering(self, timestamp_ms: int, until_s: float) -> None:
        """Gather values of another time.

        Args:
            timestamp_ms: Theirs; milliseconds since the epoch, within what a record can have.
            until_s: When it ends, on the monotonic clock.
        """
        builder = self.settle()
        self.before_gathered = builder.record_count - 1
        self.gathered_ms = timestamp_ms
        self.gathers_until_s = until_s
        self.gathers_bytes = builder.batch_bytes - builder.size_bytes

    def settle(self) -> BatchBuilder:
        """Return the builder once it has what was gathered; nothing more is until `begin`."""
        builder = self.builder
        assert builder is not None, "an open batch has its builder"
        if self.gathered:
            assert builder.record_count == self.before_gathered + 1, "it takes them once"
            before_bytes = builder.size_bytes
            added = builder.append_many(self.gathered, self.gathered_ms)
            assert added == len(self.gathered), "there was room"
            counted_bytes = builder.batch_bytes - before_bytes - self.gathers_bytes
            self.ledger.used_bytes += builder.size_bytes - before_bytes - counted_bytes
            self.gathered = []
        self.gathers_bytes = 0
        return builder

    def seal(self) -> None:
        """Take no more records."""
        builder = self.settle()
        self.record_count = builder.record_count
        self.charged_bytes = builder.size_bytes - HEADER_BYTES

    # ------------------------------------------------------------------ bytes and outcome

    def build(self) -> None:
        """Make the bytes, with the identity and sequence it was given; needed before sending."""
        identity = self.identity
        if self.builder is None:
            if identity is not None:
                stamp_producer(self.data, identity.producer_id, identity.epoch, self.base_sequence)
            return
        if identity is None:
            self.data = self.builder.close()
        else:
            self.data = self.builder.close(identity.producer_id, identity.epoch, self.base_sequence)
        self.builder = None

    def on_compressed(self, data: bytearray, codec: Codec) -> None:
        """Take the compressed bytes; the sequence may have changed since they were handed out."""
        if self.done or self.codec is codec:
            return
        self.codec = codec
        self.data = data
        self.build()

    def watch(self, waiter: Waiter) -> None:
        """Wake a waiter once the outcome is final."""
        assert not self.done, "nothing to wait for"
        self._waiters.append(waiter)

    def unwatch(self, count: int) -> None:
        """Note that whoever watched so many of its records has gone without having heard."""
        self.watched_count -= count
        if self.done:
            self.ledger.on_unheard(self)

    def succeed(self, base_offset: int, append_time_ms: int) -> None:
        """Record the acknowledgement."""
        self.base_offset = base_offset
        self.append_time_ms = append_time_ms
        self._finish()

    def fail(self, error: OdradekError) -> None:
        """Record why it will not be acknowledged."""
        self.error = error
        self._finish()

    def _finish(self) -> None:
        assert not self.done, "an outcome is final"
        self.done = True
        self.data = bytearray()
        self.ledger.on_finished(self)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

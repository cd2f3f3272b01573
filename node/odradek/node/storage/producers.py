"""The idempotence window: which batches of each producer a log already holds. Pure.

Problem: a producer that hears nothing sends again; the log must hold each batch once and in order.
Idea (KIP-98): every batch carries producer id, epoch and first sequence; remember the last five per
producer id, which is as many as it may have in flight. A repeat of one of them is answered with the
original offset, the next in sequence is appended, and everything else is a gap.

Invariants: a producer's batches in the window follow one another in sequence and in offset; its
epoch never falls. The state is a function of the log: what `append` did live, replaying the headers
does again.

A producer's day passes on the monotonic clock: by the wall clock, one set ahead, or two that
quarrel over it, would forget producers whose batches are still on their way. Down time does not
count: what is remembered longer costs nothing.

Source: KIP-98; Kafka's ProducerStateManager, ProducerAppendInfo and ProducerStateEntry.
"""

import struct
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from odradek.protocol.errors import InvalidProducerEpochError, OutOfOrderSequenceNumberError
from odradek.protocol.record_batch import BatchHeader, next_sequence
from odradek.protocol.types import Offset, ProducerEpoch, ProducerId

BATCHES_RETAINED = 5
EXPIRATION_S = 24 * 60 * 60.0

_SEQUENCE_COUNT = 1 << 31
_VERSION = 2
_HEAD = struct.Struct(">BI")
_PRODUCER = struct.Struct(">qhqB")
_BATCH = struct.Struct(">iiqq")
_NO_TIMESTAMP = -1


class RetainedBatch(NamedTuple):
    """A batch of the window.

    Attributes:
        append_time_ms: When it was appended, if its topic had LogAppendTime then; else -1.
    """

    base_sequence: int
    last_offset_delta: int
    base_offset: Offset
    append_time_ms: int

    @property
    def last_sequence(self) -> int:
        """The sequence of its last record, wrapped."""
        return next_sequence(self.base_sequence, self.last_offset_delta)

    @property
    def last_offset(self) -> Offset:
        """The offset of its last record (inclusive)."""
        return Offset(self.base_offset + self.last_offset_delta)


class Duplicate(NamedTuple):
    """The log holds this batch already: answer success.

    Attributes:
        original: Where it lies; None when it is older than the window (DUPLICATE_SEQUENCE_NUMBER).
    """

    original: RetainedBatch | None


@dataclass(slots=True)
class _Producer:
    epoch: ProducerEpoch
    last_append_ms: int
    batches: deque[RetainedBatch] = field(default_factory=lambda: deque(maxlen=BATCHES_RETAINED))


class ProducerStates:
    """The idempotence windows of one log."""

    __slots__ = ("_heard_ms", "_producers", "_steady_ms")

    def __init__(self) -> None:
        self._producers: dict[ProducerId, _Producer] = {}
        self._heard_ms: int | None = None
        self._steady_ms = 0

    def __len__(self) -> int:
        return len(self._producers)

    def check(self, header: BatchHeader) -> Duplicate | None:
        """Decide what a batch from a producer is; changes nothing.

        Returns:
            None: append it, then call `appended`. A `Duplicate` otherwise.

        Raises:
            InvalidProducerEpochError: A newer incarnation of the producer has written.
            OutOfOrderSequenceNumberError: A batch before this one is missing.
        """
        if not header.has_producer_id:
            return None
        producer = self._producers.get(header.producer_id)
        if producer is None:
            return None
        if header.producer_epoch < producer.epoch:
            raise InvalidProducerEpochError(
                f"producer {header.producer_id} has written with epoch {producer.epoch}, "
                f"this batch has {header.producer_epoch}",
                field="producer_epoch",
                value=header.producer_epoch,
                limit=producer.epoch,
            )
        if header.producer_epoch > producer.epoch:
            if header.base_sequence != 0:
                raise _out_of_order(header, 0)
            return None
        return _place_in_window(header, producer.batches)

    def appended(self, header: BatchHeader, now_ms: int) -> None:
        """Note a batch that the log now holds, live or while the log's headers are replayed.

        Args:
            header: With its final base offset.
            now_ms: The monotonic clock, in milliseconds; the producer expires a day later.
        """
        if not header.has_producer_id or header.is_control:
            return
        steady_ms = self._advance(now_ms)
        producer = self._producers.get(header.producer_id)
        if producer is None or producer.epoch != header.producer_epoch:
            producer = _Producer(header.producer_epoch, steady_ms)
            self._producers[header.producer_id] = producer
        producer.last_append_ms = steady_ms
        time_ms = header.max_timestamp if header.is_log_append_time else _NO_TIMESTAMP
        batch = header.base_sequence, header.last_offset_delta, header.base_offset, time_ms
        producer.batches.append(RetainedBatch(*batch))

    def expire(self, now_ms: int) -> int:
        """Forget producers silent for a day; returns how many."""
        limit_ms = self._advance(now_ms) - int(EXPIRATION_S * 1000)
        expired = [
            producer_id
            for producer_id, producer in self._producers.items()
            if producer.last_append_ms < limit_ms
        ]
        for producer_id in expired:
            del self._producers[producer_id]
        return len(expired)

    def snapshot(self) -> bytes:
        """Return the windows as bytes."""
        parts = [_HEAD.pack(_VERSION, len(self._producers))]
        for producer_id, producer in self._producers.items():
            parts.append(
                _PRODUCER.pack(
                    producer_id, producer.epoch, producer.last_append_ms, len(producer.batches)
                )
            )
            parts += [_BATCH.pack(*batch) for batch in producer.batches]
        return b"".join(parts)

    @classmethod
    def restore(cls, snapshot: bytes) -> Self:
        """Read what `snapshot` wrote."""
        states = cls()
        version, producer_count = _HEAD.unpack_from(snapshot)
        assert version == _VERSION, f"producer snapshot of version {version}"
        at = _HEAD.size
        for _ in range(producer_count):
            producer_id, epoch, last_append_ms, batch_count = _PRODUCER.unpack_from(snapshot, at)
            at += _PRODUCER.size
            producer = _Producer(epoch, last_append_ms)
            for _ in range(batch_count):
                producer.batches.append(RetainedBatch._make(_BATCH.unpack_from(snapshot, at)))
                at += _BATCH.size
            states._producers[producer_id] = producer
            states._steady_ms = max(states._steady_ms, last_append_ms)
        assert at == len(snapshot)
        return states

    def _advance(self, now_ms: int) -> int:
        """Return a time that goes on where the one of an earlier process ended."""
        if self._heard_ms is not None:
            self._steady_ms += now_ms - self._heard_ms
        self._heard_ms = now_ms
        return self._steady_ms


def _place_in_window(header: BatchHeader, batches: deque[RetainedBatch]) -> Duplicate | None:
    """Compare a batch with the window of its producer, same epoch; the window is never empty."""
    expected = next_sequence(batches[-1].last_sequence)
    if header.base_sequence == expected:
        return None
    for batch in batches:
        if (batch.base_sequence, batch.last_offset_delta) == (
            header.base_sequence,
            header.last_offset_delta,
        ):
            return Duplicate(batch)
    # Sequences wrap: what lies less than half the circle behind the window is older than it.
    behind = (batches[0].base_sequence - next_sequence(header.last_sequence)) % _SEQUENCE_COUNT
    if behind < _SEQUENCE_COUNT // 2 and not _is_ahead(header, expected):
        return Duplicate(None)
    raise _out_of_order(header, expected)


def _is_ahead(header: BatchHeader, expected: int) -> bool:
    return (header.base_sequence - expected) % _SEQUENCE_COUNT < _SEQUENCE_COUNT // 2


def _out_of_order(header: BatchHeader, expected: int) -> OutOfOrderSequenceNumberError:
    return OutOfOrderSequenceNumberError(
        f"producer {header.producer_id} should go on with sequence {expected}, "
        f"this batch starts with {header.base_sequence}",
        field="base_sequence",
        value=header.base_sequence,
        limit=expected,
    )

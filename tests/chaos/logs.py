"""What a history says about each partition's log, and what is wrong with it. Pure.

Problem: the log itself is hidden; acknowledgements and polls each show a piece of it. Idea: lay the
pieces over each other. Where they disagree, the log changed, which logs must not; where an
acknowledged piece shows in no poll, it was lost.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from msgspec import Struct

from tests.chaos.anomalies import Anomaly, AnomalyKind
from tests.chaos.history import UNKNOWN_OFFSET, Phase, Poll, Send


class Attempt(Struct, gc=False):
    """One record somebody tried to append.

    Attributes:
        value: The record.
        process: Who.
        invoked_ns: From then on it may be in the log.
        phase: INVOKE as long as nothing came back.
        completed_ns: When `phase` was known.
        offset: Where it lies as far as the acknowledgement told.
    """

    value: int
    process: str
    invoked_ns: int
    phase: Phase
    completed_ns: int = 0
    offset: int = UNKNOWN_OFFSET


class PartitionHistory:
    """Everything known about one partition.

    Attributes:
        partition: Which.
        attempts: By value, in the order of invocation.
        values: Offset to record, as first seen.
        offsets: Record to offset, as first seen.
        read: Records that somebody polled.
        highest_read: The highest offset that somebody polled.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.attempts: dict[int, Attempt] = {}
        self.values: dict[int, int] = {}
        self.offsets: dict[int, int] = {}
        self.read: set[int] = set()
        self.highest_read = UNKNOWN_OFFSET
        self.contradictions: list[Anomaly] = []
        self._final: set[int] | None = None
        self._ordered: list[int] = []

    def on_send(self, event: Send) -> None:
        """Take in an invocation or a completion."""
        if event.phase is Phase.INVOKE:
            for value in event.values:
                self.attempts[value] = Attempt(value, event.process, event.at_ns, event.phase)
            return
        for value in event.values:
            attempt = self.attempts[value]
            attempt.phase, attempt.completed_ns = event.phase, event.at_ns
        for value, offset in zip(event.values, event.offsets, strict=False):
            self.attempts[value].offset = offset
            if offset != UNKNOWN_OFFSET:
                self._learn(offset, value, event.at_ns, event.process)

    def on_poll(self, event: Poll, *, final: bool) -> None:
        """Take in what a consumer was given."""
        if final:
            if self._final is None:
                self._final = set()
            self._final.update(event.values)
        self.read.update(event.values)
        self.highest_read = max(self.highest_read, *event.offsets)
        known = self.values
        for offset, value in zip(event.offsets, event.values, strict=True):
            if known.get(offset) != value:  # most are known already, and agree
                self._learn(offset, value, event.at_ns, event.process)

    def expect_final_reader(self) -> None:
        """Note that a final reader reads this partition, be it empty."""
        if self._final is None:
            self._final = set()

    def _learn(self, offset: int, value: int, at_ns: int, process: str) -> None:
        if (other := self.values.setdefault(offset, value)) != value:
            self._contradicts(
                AnomalyKind.INCONSISTENT_OFFSETS,
                at_ns,
                f"offset {offset} held {other}, and holds {value} for {process}",
            )
            return
        if (elsewhere := self.offsets.setdefault(value, offset)) != offset:
            self._contradicts(
                AnomalyKind.DUPLICATE,
                at_ns,
                f"{value} lies at {elsewhere}, and at {offset} for {process}",
            )

    def _contradicts(self, kind: AnomalyKind, at_ns: int, detail: str) -> None:
        self.contradictions.append(Anomaly(kind, self.partition, at_ns, detail))

    # After the whole history

    def seal(self) -> None:
        """Order what is known; nothing may be taken in any more."""
        self._ordered = sorted(self.values)

    def skipped(self, before: int, after: int) -> int:
        """Return how many known records lie between two offsets, both excluded."""
        return bisect_left(self._ordered, after) - bisect_right(self._ordered, before)

    def known_below(self, offset: int) -> Iterator[int]:
        """Yield the known offsets below one."""
        yield from self._ordered[: bisect_left(self._ordered, offset)]

    def anomalies(self) -> Iterator[Anomaly]:
        """Yield everything that is wrong with this log."""
        yield from self.contradictions
        yield from self._absences()
        yield from self._wrong_origins()
        yield from self._wrong_orders()
        yield from self._wrong_real_time()

    def _absences(self) -> Iterator[Anomaly]:
        for attempt in self.attempts.values():
            if attempt.phase is Phase.OK and attempt.value not in self.read:
                lost = UNKNOWN_OFFSET != attempt.offset <= self.highest_read
                yield Anomaly(
                    AnomalyKind.LOST_WRITE if lost else AnomalyKind.UNSEEN,
                    self.partition,
                    attempt.completed_ns,
                    f"{attempt.value} of {attempt.process}, acknowledged at {attempt.offset};"
                    f" the highest offset read is {self.highest_read}",
                )
        if self._final is not None:
            for value in sorted(self.read - self._final):
                maker = self.attempts.get(value)
                yield Anomaly(
                    AnomalyKind.VANISHED,
                    self.partition,
                    maker.completed_ns if maker else 0,
                    f"{value} was read at {self.offsets.get(value)}, and is not there at the end",
                )

    def _wrong_origins(self) -> Iterator[Anomaly]:
        for value in self.read:
            attempt = self.attempts.get(value)
            if attempt is None:
                where = f"{value} at {self.offsets.get(value)}, which nobody sent here"
                yield Anomaly(AnomalyKind.PHANTOM, self.partition, 0, where)
            elif attempt.phase is Phase.FAIL:
                yield Anomaly(
                    AnomalyKind.ABORTED_READ,
                    self.partition,
                    attempt.completed_ns,
                    f"{value} of {attempt.process} failed, and lies at {self.offsets.get(value)}",
                )

    def _wrong_orders(self) -> Iterator[Anomaly]:
        last: dict[str, Attempt] = {}
        for attempt in self.attempts.values():
            offset = self.offsets.get(attempt.value)
            if offset is None:
                continue
            before = last.get(attempt.process)
            if before is not None and self.offsets[before.value] >= offset:
                yield Anomaly(
                    AnomalyKind.NONMONOTONIC_SEND,
                    self.partition,
                    attempt.invoked_ns,
                    f"{attempt.process} sent {attempt.value} to {offset} after {before.value}"
                    f" to {self.offsets[before.value]}",
                )
            last[attempt.process] = attempt

    def _wrong_real_time(self) -> Iterator[Anomaly]:
        """Go down the log: whatever is sent after something above was acknowledged is wrong."""
        earliest: Attempt | None = None
        for offset in reversed(self._ordered):
            attempt = self.attempts.get(self.values[offset])
            if attempt is None:
                continue
            if earliest is not None and attempt.invoked_ns > earliest.completed_ns:
                yield Anomaly(
                    AnomalyKind.UNORDERED_SENDS,
                    self.partition,
                    attempt.invoked_ns,
                    f"{attempt.value} at {offset} was sent after {earliest.value} was"
                    f" acknowledged at {earliest.offset}",
                )
            if attempt.phase is Phase.OK and (
                earliest is None or attempt.completed_ns < earliest.completed_ns
            ):
                earliest = attempt

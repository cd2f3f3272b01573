"""Whether each consumer was given a partition's records one after the other. Pure.

A jump can only be judged when the whole log is known: it skips something if a record is known to
lie in between. Where a consumer may begin elsewhere (a seek, a change of its assignment), the next
poll is not compared with the one before.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.anomalies import Anomaly, AnomalyKind
from tests.chaos.history import Assign, Poll, Rebalance, Seek, Subscribe
from tests.chaos.logs import PartitionHistory


@dataclass(frozen=True, slots=True)
class _Jump:
    """Two records in a row that are not neighbours by their offsets."""

    at_ns: int
    process: str
    partition: int
    before: int
    after: int
    within_poll: bool


class PollOrder:
    """The steps of all consumers."""

    def __init__(self) -> None:
        self._last: dict[str, dict[int, int]] = {}
        self._jumps: list[_Jump] = []

    def on_poll(self, event: Poll) -> None:
        """Compare a poll with the one before of its partition, and its records with each other."""
        last = self._last.setdefault(event.process, {})
        before = last.get(event.partition)
        offsets = event.offsets
        if before is not None and offsets[0] != before + 1:
            self._note(event, before, offsets[0], within_poll=False)
        if offsets != tuple(range(offsets[0], offsets[0] + len(offsets))):
            for left, right in pairwise(offsets):
                if right != left + 1:
                    self._note(event, left, right, within_poll=True)
        last[event.partition] = offsets[-1]

    def on_moved(self, event: Assign | Seek | Subscribe | Rebalance) -> None:
        """Forget where a consumer stood."""
        last = self._last.setdefault(event.process, {})
        match event:
            case Assign() | Subscribe():
                last.clear()
            case Seek():
                last.pop(event.partition, None)
            case Rebalance():
                for partition in event.partitions:
                    last.pop(partition, None)

    def _note(self, event: Poll, before: int, after: int, *, within_poll: bool) -> None:
        self._jumps.append(
            _Jump(event.at_ns, event.process, event.partition, before, after, within_poll)
        )

    def anomalies(self, logs: Mapping[int, PartitionHistory]) -> Iterator[Anomaly]:
        """Judge the jumps, given the whole logs."""
        yield from _judged(self._jumps, logs)


def _judged(jumps: Iterable[_Jump], logs: Mapping[int, PartitionHistory]) -> Iterator[Anomaly]:
    for jump in jumps:
        if jump.after <= jump.before:
            kinds = (AnomalyKind.NONMONOTONIC_POLL, AnomalyKind.INT_NONMONOTONIC_POLL)
            what = "came after"
        elif skipped := logs[jump.partition].skipped(jump.before, jump.after):
            kinds = (AnomalyKind.POLL_SKIP, AnomalyKind.INT_POLL_SKIP)
            what = f"came, {skipped} records skipped, after"
        else:
            continue  # nothing is known to lie between: control records, or nothing at all
        yield Anomaly(
            kinds[jump.within_poll],
            jump.partition,
            jump.at_ns,
            f"offset {jump.after} {what} {jump.before} for {jump.process}",
        )

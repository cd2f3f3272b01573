"""Judge a history: everything that must not be, found in one pass and a look back. Pure.

Problem: whether a broker under faults kept its promises can only be told from what its clients saw.
Idea: learn each partition's log from acknowledgements and polls (`logs`), then hold every client's
view against it (`polls`, `groups`). Cost: a dictionary access or two per record and reader.

Source: jepsen.tests.kafka (documentation) for the analyses; written anew for histories without
transactions, with pipelined sends.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.anomalies import ALLOWED_WITHOUT_TRANSACTIONS, Anomaly, AnomalyKind
from tests.chaos.groups import Groups
from tests.chaos.history import (
    UNKNOWN_OFFSET,
    Assign,
    Commit,
    Event,
    Phase,
    Poll,
    Rebalance,
    Seek,
    Send,
    Stop,
    Subscribe,
)
from tests.chaos.logs import PartitionHistory
from tests.chaos.polls import PollOrder


@dataclass(frozen=True, slots=True)
class Report:
    """What a history amounts to.

    Attributes:
        anomalies: Everything wrong, in the order of time.
        acknowledged: Records whose send was acknowledged.
        failed: Records that surely are not in the log.
        unknown: Records of which nobody was told.
        polled: Records handed out, over all consumers.
    """

    anomalies: tuple[Anomaly, ...]
    acknowledged: int
    failed: int
    unknown: int
    polled: int

    @property
    def counts(self) -> Counter[AnomalyKind]:
        """How many anomalies of each kind."""
        return Counter(anomaly.kind for anomaly in self.anomalies)


def check(events: Iterable[Event], *, transactional: bool = False) -> Report:
    """Find every anomaly of a history.

    Args:
        events: In the order of their times.
        transactional: Whether the records of one send must be neighbours.
    """
    examination = _Examination()
    for event in events:
        examination.take(event)
    report = examination.report()
    allowed = frozenset() if transactional else ALLOWED_WITHOUT_TRANSACTIONS
    kept = (anomaly for anomaly in report.anomalies if anomaly.kind not in allowed)
    return Report(tuple(kept), report.acknowledged, report.failed, report.unknown, report.polled)


class _Examination:
    """The history so far."""

    def __init__(self) -> None:
        self._logs: dict[int, PartitionHistory] = {}
        self._order = PollOrder()
        self._groups = Groups()
        self._final: set[str] = set()
        self._long_sends: list[Send] = []
        self._polled = 0

    def take(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case Send():
                self._log(event.partition).on_send(event)
                if event.phase is Phase.OK and len(event.values) > 1:
                    self._long_sends.append(event)
            case Poll():
                self._polled += len(event.offsets)
                self._log(event.partition).on_poll(event, final=event.process in self._final)
                self._order.on_poll(event)
                self._groups.on_poll(event)
            case Assign() | Seek() | Subscribe() | Rebalance():
                self._order.on_moved(event)
                self._on_moved(event)
            case Commit():
                self._groups.on_commit(event)
            case Stop():
                self._groups.on_stop(event)

    def _on_moved(self, event: Assign | Seek | Subscribe | Rebalance) -> None:
        match event:
            case Assign(final=True):
                self._final.add(event.process)
                for partition in event.partitions:
                    self._log(partition).expect_final_reader()
            case Subscribe():
                self._groups.on_subscribe(event)
            case Rebalance():
                self._groups.on_rebalance(event)

    def _log(self, partition: int) -> PartitionHistory:
        log = self._logs.get(partition)
        if log is None:
            log = self._logs[partition] = PartitionHistory(partition)
        return log

    def report(self) -> Report:
        """Judge what was taken in."""
        found: list[Anomaly] = []
        for log in self._logs.values():
            log.seal()
            found += log.anomalies()
        found += self._order.anomalies(self._logs)
        found += self._groups.anomalies(self._logs)
        for send in self._long_sends:
            found += _within_send(send, self._logs[send.partition])
        phases = Counter(
            attempt.phase for log in self._logs.values() for attempt in log.attempts.values()
        )
        return Report(
            anomalies=tuple(sorted(found, key=lambda anomaly: anomaly.at_ns)),
            acknowledged=phases[Phase.OK],
            failed=phases[Phase.FAIL],
            unknown=phases[Phase.INFO] + phases[Phase.INVOKE],
            polled=self._polled,
        )


def _within_send(send: Send, log: PartitionHistory) -> Iterable[Anomaly]:
    """Compare the records of one operation with each other."""
    for before, after in pairwise(send.offsets):
        if UNKNOWN_OFFSET in {before, after}:
            continue
        where = f"{send.process} sent in one operation to {before}, then to {after}"
        if after <= before:
            kind = AnomalyKind.INT_NONMONOTONIC_SEND
        elif log.skipped(before, after):
            kind = AnomalyKind.INT_SEND_SKIP
        else:
            continue
        yield Anomaly(kind, send.partition, send.at_ns, where)

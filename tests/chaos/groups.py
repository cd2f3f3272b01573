"""What consumer groups promise: one owner at a time, and no record committed unread. Pure.

Ownership, on the machine's one clock, lasts from `assigned` to `revoked`, `lost` or the end of the
process. A member that was expelled (it hung, or was cut off) learns late that it is no owner any
more; therefore only the overlaps of two members that both gave up by consent, or still own, are
wrong. Its commits in between must not count, which shows in where the next owner begins.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.anomalies import Anomaly, AnomalyKind
from tests.chaos.history import Change, Commit, Phase, Poll, Rebalance, Stop, Subscribe
from tests.chaos.logs import PartitionHistory


@dataclass(slots=True)
class _Tenure:
    """A member's ownership of a partition."""

    process: str
    began_ns: int
    ended_ns: int | None = None
    by_consent: bool = True


@dataclass(slots=True)
class _Group:
    tenures: defaultdict[int, list[_Tenure]] = field(default_factory=lambda: defaultdict(list))
    polled: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Offsets given to any member."""
    committed: dict[int, int] = field(default_factory=dict)
    """The highest offset whose commit was acknowledged, per partition."""
    committed_ns: dict[int, int] = field(default_factory=dict)


class Groups:
    """All groups of a history."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[str, str] = {}
        self._least_start: dict[tuple[str, int], int] = {}
        self._stale: list[Anomaly] = []

    def on_subscribe(self, event: Subscribe) -> None:
        """A process became a member."""
        self._groups.setdefault(event.group, _Group())
        self._group_of[event.process] = event.group

    def on_rebalance(self, event: Rebalance) -> None:
        """A member was told of partitions."""
        group = self._groups[self._group_of[event.process]]
        for partition in event.partitions:
            if event.change is Change.ASSIGNED:
                group.tenures[partition].append(_Tenure(event.process, event.at_ns))
                self._least_start[event.process, partition] = group.committed.get(partition, 0)
            else:
                self._end(group, event, partition, by_consent=event.change is Change.REVOKED)

    def on_stop(self, event: Stop) -> None:
        """A process ended; what it owned, it owns no more."""
        if (name := self._group_of.get(event.process)) is not None:
            group = self._groups[name]
            for partition in group.tenures:
                self._end(group, event, partition, by_consent=not event.killed)

    def _end(
        self, group: _Group, event: Rebalance | Stop, partition: int, *, by_consent: bool
    ) -> None:
        for tenure in group.tenures[partition]:
            if tenure.process == event.process and tenure.ended_ns is None:
                tenure.ended_ns, tenure.by_consent = event.at_ns, by_consent

    def on_poll(self, event: Poll) -> None:
        """A member, or another consumer, was given records."""
        if (name := self._group_of.get(event.process)) is None:
            return
        self._groups[name].polled[event.partition].update(event.offsets)
        least = self._least_start.pop((event.process, event.partition), 0)
        if event.offsets[0] < least:
            self._stale.append(
                Anomaly(
                    AnomalyKind.GROUP_STALE_RESUME,
                    event.partition,
                    event.at_ns,
                    f"{event.process} of {name} began at {event.offsets[0]}; {least} had been"
                    " committed before it took over",
                )
            )

    def on_commit(self, event: Commit) -> None:
        """A member's commit was acknowledged, or not."""
        if event.phase is not Phase.OK:
            return
        group = self._groups[self._group_of[event.process]]
        for partition, offset in event.offsets.items():
            if offset > group.committed.get(partition, 0):
                group.committed[partition] = offset
                group.committed_ns[partition] = event.at_ns

    def anomalies(self, logs: Mapping[int, PartitionHistory]) -> Iterator[Anomaly]:
        """Judge the groups, given the whole logs."""
        yield from self._stale
        for name, group in self._groups.items():
            for partition, tenures in group.tenures.items():
                yield from _double_owners(name, partition, tenures)
            for partition, log in logs.items():
                yield from _unread(name, group, partition, log)


def _double_owners(name: str, partition: int, tenures: list[_Tenure]) -> Iterator[Anomaly]:
    settled = sorted(
        (tenure for tenure in tenures if tenure.by_consent), key=lambda tenure: tenure.began_ns
    )
    for earlier, later in pairwise(settled):
        if earlier.ended_ns is None or earlier.ended_ns > later.began_ns:
            yield Anomaly(
                AnomalyKind.GROUP_DOUBLE_OWNER,
                partition,
                later.began_ns,
                f"{later.process} of {name} became owner while {earlier.process} was",
            )


def _unread(name: str, group: _Group, partition: int, log: PartitionHistory) -> Iterator[Anomaly]:
    polled, committed = group.polled[partition], group.committed.get(partition, 0)
    for offset in log.known_below(committed):
        if offset not in polled:
            yield Anomaly(
                AnomalyKind.GROUP_SKIP,
                partition,
                group.committed_ns[partition],
                f"{name} committed {committed}, and nobody was given offset {offset}",
            )
    for attempt in log.attempts.values():
        offset = log.offsets.get(attempt.value, -1)
        if attempt.phase is Phase.OK and offset >= committed and offset not in polled:
            yield Anomaly(
                AnomalyKind.GROUP_UNSEEN,
                partition,
                attempt.completed_ns,
                f"{attempt.value} at {offset} was given to no member of {name}",
            )

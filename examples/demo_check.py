"""The demo's judge: are all points in the log, and did each group see them, in order?

The log must hold each point exactly once, where its acknowledgement said: a producer that retries
over a failover neither loses nor repeats.

Consumers report each point with the machine's monotonic clock, which all processes share. A point
is *seen* at its first report. A group is in order when each vehicle's points were first seen in the
order of the trace. A second report is a *duplicate* when the killed consumer is one of the two that
reported (it had processed the point and could not commit); any other repetition means that two
consumers read a partition at once, and counts as out of order.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from demo_fleet import Point

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the points, as a group saw them or as they lie in the log."""

    seen_by: str
    consumers: int
    vehicles: int
    seen: int
    lost: int
    out_of_order: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class _Sighting:
    at_ns: int
    consumer: str
    point: Point


@dataclass(slots=True)
class _Seen:
    """What one group saw."""

    sightings: list[_Sighting] = field(default_factory=list)
    points: set[Point] = field(default_factory=set)
    consumers: set[str] = field(default_factory=set)
    # Partition -> who reported it last, and when.
    owners: dict[int, tuple[str, int]] = field(default_factory=dict)


class Checker:
    """Collects sightings and judges them.

    Args:
        points: Every point, each vehicle's in order.
    """

    def __init__(self, points: list[Point]) -> None:
        self.points_count = len(points)
        self._points = points
        self._seen: defaultdict[str, _Seen] = defaultdict(_Seen)
        self._killed: set[str] = set()
        self._news = asyncio.Event()

    def expect_duplicates_from(self, consumer: str) -> None:
        """Name a consumer that will be killed."""
        self._killed.add(consumer)

    def saw(self, group: str, consumer: str, line: str) -> None:
        """Note one line of a consumer: time, partition, point."""
        at_ns, partition, encoded = line.split(" ", 2)
        seen = self._seen[group]
        point = msgspec.json.decode(encoded, type=Point)
        seen.sightings.append(_Sighting(int(at_ns), consumer, point))
        seen.points.add(point)
        seen.consumers.add(consumer)
        if seen.owners.get(int(partition), ("", -1))[1] < int(at_ns):
            seen.owners[int(partition)] = (consumer, int(at_ns))
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return once a condition on what was seen holds."""
        while not holds():
            self._news.clear()
            await self._news.wait()

    def seen_count(self, group: str) -> int:
        """Return how many different points a group has seen."""
        return len(self._seen[group].points)

    def is_complete(self, group: str) -> bool:
        """Return whether a group has seen every point."""
        return self.seen_count(group) >= self.points_count

    def partitions_of(self, group: str, consumer: str) -> set[int]:
        """Return the partitions that a consumer was the last to read."""
        owners = self._seen[group].owners
        return {partition for partition, (owner, _) in owners.items() if owner == consumer}

    def partitions_served_since(self, group: str, since_ns: int) -> set[int]:
        """Return the partitions of which something was read after a moment."""
        owners = self._seen[group].owners
        return {partition for partition, (_, at_ns) in owners.items() if at_ns > since_ns}

    def verdict(self, group: str) -> Verdict:
        """Judge a group."""
        seen = self._seen[group]
        repeated, wrongly_repeated = self._repetitions(seen)
        return Verdict(
            seen_by=group,
            consumers=len(seen.consumers),
            vehicles=len({point.vehicle_id for point in seen.points}),
            seen=len(seen.points),
            lost=self.points_count - len(seen.points & set(self._points)),
            out_of_order=_jumps(
                self._points,
                (each.point for each in sorted(seen.sightings, key=lambda each: each.at_ns)),
            )
            + wrongly_repeated,
            duplicates=repeated,
        )

    def _repetitions(self, seen: _Seen) -> tuple[int, int]:
        """Return how many reports repeat one of the killed consumer's, and how many any other."""
        reporters: defaultdict[Point, list[str]] = defaultdict(list)
        for sighting in seen.sightings:
            reporters[sighting.point].append(sighting.consumer)
        repeated = [names for names in reporters.values() if len(names) > 1]
        expected = [names for names in repeated if self._explains(names)]
        return len(expected), len(repeated) - len(expected)

    def _explains(self, names: list[str]) -> bool:
        return len(names) == 2 and len(set(names) & self._killed) == 1 and len(set(names)) == 2


def judge_log(
    points: list[Point], acknowledged: Mapping[Place, Point], log: Mapping[Place, Point]
) -> Verdict:
    """Judge what lies in the topic.

    Args:
        points: Every point, each vehicle's in order.
        acknowledged: Where the producer was told that its points lie.
        log: The whole topic.
    """
    held = set(log.values())
    return Verdict(
        seen_by="the log",
        consumers=0,
        vehicles=len({point.vehicle_id for point in held}),
        seen=len(held),
        lost=sum(log.get(place) != point for place, point in acknowledged.items()),
        out_of_order=_jumps(points, (log[place] for place in sorted(log))),
        duplicates=len(log) - len(held),
    )


def _jumps(points: Iterable[Point], seen: Iterable[Point]) -> int:
    """Return how often a vehicle's next new point was not a later one of its trace."""
    rank = {point: number for number, point in enumerate(points)}
    first_seen: defaultdict[str, dict[Point, None]] = defaultdict(dict)
    for point in seen:
        if point in rank:
            first_seen[point.vehicle_id].setdefault(point)
    return sum(
        rank[later] < rank[earlier]
        for order in first_seen.values()
        for earlier, later in pairwise(order)
    )

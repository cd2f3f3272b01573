"""From before `send` until the consumer holds the record, at a steady 1,000 records a second.

A host that takes processors away for milliseconds decides over the slow ones of a hundred. So the
same percentiles are told a second time, of those windows of time in which it took next to nothing:
chosen by what it took, whatever the latencies in them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

from bench import floor
from bench.host import Processors
from bench.pacing import RATE, WARM_UP_RECORDS, age_s, paced, percentile_ms
from bench.report import Figure, median_of
from bench.stage import PARTITIONS, Stage
from odradek.client import Client, serdes

_RUNS = 5
_RUN_S, _RUN_S_MIN = 60.0, 5.0
_FLOOR_SHARE = 0.2  # of a run
_WINDOW_S = 5
_WINDOW_RECORDS = _WINDOW_S * RATE
_STOLEN_SHARE_MAX = 0.005


@dataclass(slots=True)
class Run:
    """One run's latencies.

    Attributes:
        ages_s: Of each record, in order of arrival, in seconds.
        processors: At the beginning of each window, and at the end of the last one.
    """

    ages_s: list[float] = field(default_factory=list)
    processors: list[Processors] = field(default_factory=list)

    def add(self, age_s: float) -> None:
        """Take a record's."""
        past_warm_up = len(self.ages_s) - WARM_UP_RECORDS
        if past_warm_up >= 0 and past_warm_up % _WINDOW_RECORDS == 0:
            self.processors.append(Processors.now())
        self.ages_s.append(age_s)

    @property
    def measured_s(self) -> list[float]:
        """Those after the warm-up."""
        return self.ages_s[WARM_UP_RECORDS:]

    def quiet_windows(self) -> Iterator[list[float]]:
        """Those of each window in which the host took next to nothing."""
        for number, (before, after) in enumerate(pairwise(self.processors)):
            if after.stolen_share(before) <= _STOLEN_SHARE_MAX:
                begin = WARM_UP_RECORDS + number * _WINDOW_RECORDS
                yield self.ages_s[begin : begin + _WINDOW_RECORDS]


async def end_to_end(stage: Stage) -> AsyncIterator[Figure]:
    """Measure with fsync before each acknowledgement, linger 0, several times; the floor beside."""
    run_s = max(_RUN_S_MIN, _RUN_S * stage.scale)
    floor_run_s = max(_RUN_S_MIN, run_s * _FLOOR_SHARE)
    runs: list[Run] = []
    floor_runs: list[Sequence[float]] = []
    async with stage.client() as client:
        for _ in range(_RUNS):
            runs.append(await _run(stage, client, int(RATE * run_s)))
            floor_ages_s = await floor.ages_s(stage.replication, floor_run_s)
            floor_runs.append(floor_ages_s[WARM_UP_RECORDS:])
    how = f"fsynced, replication {stage.replication}, {RATE}/s"
    goals = (2.5, 10.0, None) if stage.replication > 1 else (1.1, 4.0, None)
    measured = [run.measured_s for run in runs]
    for figure in _percentiles(f"end-to-end latency, {how} for {run_s:.0f} s", measured, goals):
        yield figure
    quiet = [window for run in runs for window in run.quiet_windows()]
    count = sum(max(0, len(run.processors) - 1) for run in runs)
    share = f"{_STOLEN_SHARE_MAX:.1%}"
    what = f"{how}, {len(quiet)} of {count} windows of {_WINDOW_S} s, host took <= {share}"
    for figure in _percentiles(what, [list(chain.from_iterable(quiet))] if quiet else [], goals):
        yield figure
    for figure in _percentiles(f"no broker, gRPC's core, {how}", floor_runs, (None, None, None)):
        yield figure


def _percentiles(
    what: str, runs: Sequence[Sequence[float]], goals: Sequence[float | None]
) -> Iterator[Figure]:
    if not runs:
        return
    for percentile, goal in zip((50, 99, 99.9), goals, strict=True):
        yield median_of(
            (percentile_ms(ages_s, percentile) for ages_s in runs),
            workload=f"{what}, p{percentile}",
            unit="ms",
            goal=goal,
            smaller_is_better=True,
        )


async def _run(stage: Stage, client: Client, count: int) -> Run:
    """Send and receive on a fresh topic."""
    async with stage.topic(client) as topic, asyncio.TaskGroup() as group:
        received = group.create_task(_receive(client, topic, count))
        group.create_task(_send(client, topic, count))
    return received.result()


async def _send(client: Client, topic: str, count: int) -> None:
    async with client.producer(key=serdes.raw, value=serdes.raw, linger_s=0.0) as producer:
        async for value in paced(count):
            await producer.enqueue(topic, value)
        await producer.flush()


async def _receive(client: Client, topic: str, count: int) -> Run:
    run = Run()
    async with client.consumer(key=serdes.raw, value=serdes.raw) as consumer:
        consumer.assign((topic, index) for index in range(PARTITIONS))
        async for record in consumer:
            run.add(age_s(record.value))
            if len(run.ages_s) == count:
                break
    return run

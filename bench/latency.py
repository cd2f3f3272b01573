"""From before `send` until the consumer holds the record, at a steady 1,000 records a second."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from bench import floor
from bench.pacing import RATE, age_s, paced, percentile_ms
from bench.report import Figure, median_of
from bench.stage import PARTITIONS, Stage
from odradek.client import Client, serdes

_RUNS = 5
_RUN_S, _RUN_S_MIN = 60.0, 5.0
_FLOOR_SHARE = 0.2  # of a run


async def end_to_end(stage: Stage) -> AsyncIterator[Figure]:
    """Measure with fsync before each acknowledgement, linger 0, several times; the floor beside."""
    run_s = max(_RUN_S_MIN, _RUN_S * stage.scale)
    floor_run_s = max(_RUN_S_MIN, run_s * _FLOOR_SHARE)
    runs, floor_runs = [], []
    async with stage.client() as client:
        for _ in range(_RUNS):
            runs.append(await _run(stage, client, int(RATE * run_s)))
            floor_runs.append(await floor.ages_s(stage.replication, floor_run_s))
    how = f"fsynced, replication {stage.replication}, {RATE}/s"
    goals = (2.5, 10.0, None) if stage.replication > 1 else (1.1, 4.0, None)
    for figure in _percentiles(f"end-to-end latency, {how} for {run_s:.0f} s", runs, goals):
        yield figure
    for figure in _percentiles(f"no broker, gRPC's core, {how}", floor_runs, (None, None, None)):
        yield figure


def _percentiles(
    what: str, runs: Sequence[Sequence[float]], goals: Sequence[float | None]
) -> Iterator[Figure]:
    for percentile, goal in zip((50, 99, 99.9), goals, strict=True):
        yield median_of(
            (percentile_ms(ages_s, percentile) for ages_s in runs),
            workload=f"{what}, p{percentile}",
            unit="ms",
            goal=goal,
            smaller_is_better=True,
        )


async def _run(stage: Stage, client: Client, count: int) -> list[float]:
    """Send and receive on a fresh topic; return the latencies in seconds."""
    async with stage.topic(client) as topic, asyncio.TaskGroup() as group:
        received = group.create_task(_receive(client, topic, count))
        group.create_task(_send(client, topic, count))
    return received.result()


async def _send(client: Client, topic: str, count: int) -> None:
    async with client.producer(key=serdes.raw, value=serdes.raw, linger_s=0.0) as producer:
        async for value in paced(count):
            await producer.enqueue(topic, value)
        await producer.flush()


async def _receive(client: Client, topic: str, count: int) -> list[float]:
    """Return the latencies in seconds, in order of arrival."""
    latencies: list[float] = []
    async with client.consumer(key=serdes.raw, value=serdes.raw) as consumer:
        consumer.assign((topic, index) for index in range(PARTITIONS))
        async for record in consumer:
            latencies.append(age_s(record.value))
            if len(latencies) == count:
                break
    return latencies

"""From before `send` until the consumer holds the record, at a steady 1,000 records a second."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence

from bench.report import Figure, median_of
from bench.stage import PARTITIONS, Stage
from odradek.client import Client, serdes

RATE = 1_000
_RUNS = 5
_RUN_S, _RUN_S_MIN = 60.0, 5.0
WARM_UP_S = 2
_STAMP = struct.Struct(">q")


async def end_to_end(stage: Stage) -> AsyncIterator[Figure]:
    """Measure with fsync before each acknowledgement, linger 0, several times."""
    run_s = max(_RUN_S_MIN, _RUN_S * stage.scale)
    async with stage.client() as client:
        runs = [await _run(stage, client, int(RATE * run_s)) for _ in range(_RUNS)]
    goals = (2.5, 10.0, None) if stage.replication > 1 else (1.1, 4.0, None)
    how = f"fsynced, replication {stage.replication}, {RATE}/s for {run_s:.0f} s"
    for percentile, goal in zip((50, 99, 99.9), goals, strict=True):
        yield median_of(
            (percentile_ms(ages_s, percentile) for ages_s in runs),
            workload=f"end-to-end latency, {how}, p{percentile}",
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


async def paced(count: int) -> AsyncIterator[bytes]:
    """Yield so many values of 100 B at the steady rate; each carries the time of its leaving."""
    started_s = time.perf_counter()
    for number in range(count):
        due_s = started_s + number / RATE
        if (ahead_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(ahead_s)
        yield _STAMP.pack(time.perf_counter_ns()) + bytes(92)


def age_s(value: bytes) -> float:
    """Return how long ago, in seconds, `paced` yielded the value in this process."""
    sent_ns: int = _STAMP.unpack_from(value)[0]
    return (time.perf_counter_ns() - sent_ns) / 1e9


def percentile_ms(ages_s: Sequence[float], percentile: float) -> float:
    """Return a percentile in milliseconds; the warm-up's records do not count."""
    samples = sorted(ages_s[RATE * WARM_UP_S :])
    return samples[min(len(samples) - 1, int(len(samples) * percentile / 100))] * 1000


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

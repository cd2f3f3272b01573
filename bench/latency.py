"""From before `send` until the consumer holds the record, at a steady 1,000 records a second."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator

from bench.report import Figure
from bench.stage import PARTITIONS, Stage
from odradek.client import Client, serdes

_RATE = 1_000
_DURATION_S = 20
_WARM_UP_S = 2
_STAMP = struct.Struct(">q")


async def end_to_end(stage: Stage) -> AsyncIterator[Figure]:
    """Measure with fsync before each acknowledgement, linger 0."""
    count = int(_RATE * max(5.0, _DURATION_S * stage.scale))
    async with (
        stage.client() as client,
        stage.topic(client) as topic,
        asyncio.TaskGroup() as group,
    ):
        received = group.create_task(_receive(client, topic, count))
        group.create_task(_send(client, topic, count))
    samples = sorted(received.result()[_RATE * _WARM_UP_S :])
    goals = (2.5, 10.0, None) if stage.replication > 1 else (1.1, 4.0, None)
    how = f"fsynced, replication {stage.replication}"
    for percentile, goal in zip((50, 99, 99.9), goals, strict=True):
        yield Figure(
            workload=f"end-to-end latency, {how}, {_RATE}/s, p{percentile}",
            value=samples[min(len(samples) - 1, int(len(samples) * percentile / 100))] * 1000,
            unit="ms",
            goal=goal,
            smaller_is_better=True,
        )


async def _send(client: Client, topic: str, count: int) -> None:
    async with client.producer(key=serdes.raw, value=serdes.raw, linger_s=0.0) as producer:
        started_s = time.perf_counter()
        for number in range(count):
            due_s = started_s + number / _RATE
            if (ahead_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(ahead_s)
            await producer.enqueue(topic, _STAMP.pack(time.perf_counter_ns()) + bytes(92))
        await producer.flush()


async def _receive(client: Client, topic: str, count: int) -> list[float]:
    """Return the latencies in seconds, in order of arrival."""
    latencies: list[float] = []
    async with client.consumer(key=serdes.raw, value=serdes.raw) as consumer:
        consumer.assign((topic, index) for index in range(PARTITIONS))
        async for record in consumer:
            sent_ns = _STAMP.unpack_from(record.value)[0]
            latencies.append((time.perf_counter_ns() - sent_ns) / 1e9)
            if len(latencies) == count:
                break
    return latencies

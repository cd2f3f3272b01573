"""What a node costs when nothing happens, and how soon it serves after a stop and after a crash."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

from bench.process import cpu_s, resident_bytes
from bench.report import Figure
from bench.stage import MEGABYTE, Stage
from odradek.client import serdes

_IDLE_S = 30.0
_MIB = 1 << 20
_LOADED_BYTES = 500 * MEGABYTE


async def idle(stage: Stage) -> AsyncIterator[Figure]:
    """A fresh node with six partitions, left alone."""
    async with stage.client() as client, stage.topic(client):
        pid = stage.node.pid
        before_s = cpu_s(pid)
        await asyncio.sleep(_IDLE_S)
        used_s = cpu_s(pid) - before_s
        yield Figure(
            workload=f"idle node, 6 partitions, {_IDLE_S:.0f} s: memory",
            value=resident_bytes(pid) / _MIB,
            unit="MiB RSS",
            goal=120,
            smaller_is_better=True,
        )
        yield Figure(
            workload=f"idle node, 6 partitions, {_IDLE_S:.0f} s: processor",
            value=100 * used_s / _IDLE_S,
            unit="% of a core",
            goal=1,
            smaller_is_better=True,
        )


async def restart(stage: Stage) -> AsyncIterator[Figure]:
    """A node with 500 MB in six partitions, stopped cleanly, then killed while it writes."""
    block = [os.urandom(1024)] * 1_000
    async with (
        stage.client() as client,
        stage.topic(client) as topic,
        client.producer(key=serdes.raw, value=serdes.raw) as producer,
    ):
        for _ in range(max(1, int(_LOADED_BYTES * stage.scale) // 1_024_000)):
            await producer.send_many(topic, block)
        await producer.flush()
        await stage.node.stop()
        yield await _ready(stage, "ready after a clean stop", goal=1.5)
        await producer.send_many(topic, block)
        await stage.node.kill()
        yield await _ready(stage, "ready after kill -9", goal=3.0)


async def _ready(stage: Stage, workload: str, *, goal: float) -> Figure:
    started_s = time.perf_counter()
    await stage.cluster.start_node(1)
    return Figure(
        workload=workload,
        value=time.perf_counter() - started_s,
        unit="s",
        goal=goal,
        smaller_is_better=True,
    )

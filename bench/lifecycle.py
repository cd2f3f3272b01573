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
        async for figure in at_rest(stage, "6 partitions", memory_mib=120, processor_percent=1):
            yield figure


async def at_rest(
    stage: Stage, what: str, *, memory_mib: float, processor_percent: float
) -> AsyncIterator[Figure]:
    """Leave the nodes alone; yield what the costliest takes, in memory and in processor time.

    Args:
        what: What they hold.
        memory_mib: The goal.
        processor_percent: The goal, of one core.
    """
    pids = [node.pid for node in stage.cluster.nodes.values()]
    before_s = [cpu_s(pid) for pid in pids]
    await asyncio.sleep(_IDLE_S)
    used_s = max(cpu_s(pid) - began_s for pid, began_s in zip(pids, before_s, strict=True))
    yield Figure(
        workload=f"idle node, {what}, {_IDLE_S:.0f} s: memory",
        value=max(map(resident_bytes, pids)) / _MIB,
        unit="MiB RSS",
        goal=memory_mib,
        smaller_is_better=True,
    )
    yield Figure(
        workload=f"idle node, {what}, {_IDLE_S:.0f} s: processor",
        value=100 * used_s / _IDLE_S,
        unit="% of a core",
        goal=processor_percent,
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

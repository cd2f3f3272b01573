"""How long some partition takes no writes when a node is killed, with or without a controller."""

import asyncio
import statistics
from collections.abc import AsyncIterator

from bench.report import Figure
from bench.stage import Stage
from odradek.client import Client, Delivery, serdes

_RATE = 1_000
_PARTITIONS = 12
_KILLS = 20
_SETTLE_S = 3.0
_POLL_S = 0.05


class _Traffic:
    """A steady load, and the longest time in which a partition acknowledged nothing."""

    def __init__(self) -> None:
        self._last_s = [0.0] * _PARTITIONS
        self._longest_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._group = asyncio.TaskGroup()

    def begin(self) -> None:
        """Measure from now on."""
        self._last_s = [self._loop.time()] * _PARTITIONS
        self._longest_s = 0.0

    def longest_gap_s(self) -> float:
        """Return the longest gap since `begin`, one that lasts included."""
        return max(self._longest_s, self._loop.time() - min(self._last_s))

    async def run(self, client: Client, topic: str) -> None:
        """Send until cancelled."""
        async with (
            client.producer(key=serdes.raw, value=serdes.raw) as producer,
            asyncio.TaskGroup() as group,
        ):
            started_s, number = self._loop.time(), 0
            while True:
                due = int((self._loop.time() - started_s) * _RATE)
                for number in range(number, due):  # noqa: B020 - it goes on where it was
                    partition = number % _PARTITIONS
                    delivery = await producer.enqueue(topic, bytes(100), partition=partition)
                    group.create_task(self._note(delivery, partition))
                number = due
                await asyncio.sleep(0.002)

    async def _note(self, delivery: Delivery, partition: int) -> None:
        await delivery
        now_s = self._loop.time()
        self._longest_s = max(self._longest_s, now_s - self._last_s[partition])
        self._last_s[partition] = now_s


async def node_killed(stage: Stage) -> AsyncIterator[Figure]:
    """Kill one node after the other under 1,000 records/s to 12 partitions."""
    async for figure in _measure(stage, "a node", with_controller=False, goal_s=1.0):
        yield figure


async def node_and_controller_killed(stage: Stage) -> AsyncIterator[Figure]:
    """The same, and the active controller in the same moment."""
    async for figure in _measure(stage, "a node, the controller", with_controller=True, goal_s=3.0):
        yield figure


async def _measure(
    stage: Stage, what: str, *, with_controller: bool, goal_s: float
) -> AsyncIterator[Figure]:
    kills = max(3, int(_KILLS * stage.scale))
    gaps_s = []
    async with stage.client() as client, stage.topic(client, partitions=_PARTITIONS) as topic:
        traffic = _Traffic()
        sending = asyncio.create_task(traffic.run(client, topic))
        for number in range(kills):
            await stage.in_sync(client, topic)
            await asyncio.sleep(_SETTLE_S / 2)
            traffic.begin()
            gaps_s.append(await _kill(stage, client, traffic, number, with_controller))
        sending.cancel()
        await asyncio.wait({sending})
    for which, gap_s in (("median", statistics.median(gaps_s)), ("longest", max(gaps_s))):
        yield Figure(
            workload=f"kill of {what}, {kills} times: {which} gap of any partition",
            value=gap_s * 1000,
            unit="ms",
            goal=goal_s * 1000,
            smaller_is_better=True,
        )


async def _kill(
    stage: Stage,
    client: Client,
    traffic: _Traffic,
    number: int,
    with_controller: bool,  # noqa: FBT001
) -> float:
    """Kill and start again; return the gap in seconds."""
    cluster = stage.cluster
    node_id = number % len(cluster.nodes) + 1
    controller_id = await _active(client) if with_controller else None
    dying = [cluster.nodes[node_id].kill()]
    if controller_id is not None:
        dying.append(cluster.controllers[controller_id].kill())
    await asyncio.gather(*dying)
    await asyncio.sleep(_SETTLE_S)
    gap_s = traffic.longest_gap_s()
    if controller_id is not None:
        await cluster.start_controller(controller_id)
    await cluster.start_node(node_id)
    return gap_s


async def _active(client: Client) -> int:
    while True:
        for controller in (await client.admin.describe_cluster()).controllers:
            if controller.active and controller.controller_id is not None:
                return controller.controller_id
        await asyncio.sleep(_POLL_S)

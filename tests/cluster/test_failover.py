"""Replication 3: nodes die under load, others take over, and nothing acknowledged is missing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from odradek.client import Client, Delivery
from odradek.client.local.cluster import LocalCluster
from tests.cluster.traffic import (
    DEADLINE_S,
    PARTITIONS,
    Load,
    in_order,
    load,
    read_all,
    unique,
)

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

# Of any partition. A death is found by a broken stream, not by silence; the benchmark `failover-r3`
# measures the gap itself, on a machine that has nothing else to do.
KILL_GAP_MAX_S = 1.0
STOP_GAP_MAX_S = 3.0


class TimedLoad(Load):
    """Remembers the longest time without an acknowledgement, of any partition."""

    def __init__(self, client: Client, topic: str) -> None:
        super().__init__(client, topic, rate=600.0)
        self._last_s = dict.fromkeys(range(PARTITIONS), 0.0)
        self.longest_gap_s = 0.0

    def begin(self) -> None:
        """Forget what was before."""
        now_s = asyncio.get_running_loop().time()
        self._last_s = dict.fromkeys(self._last_s, now_s)
        self.longest_gap_s = 0.0

    async def _note(self, delivery: Delivery, value: str) -> None:
        await super()._note(delivery, value)
        partition, now_s = int(value) % PARTITIONS, asyncio.get_running_loop().time()
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s[partition])
        self._last_s[partition] = now_s


@asynccontextmanager
async def timed_load(client: Client, topic: str) -> AsyncIterator[TimedLoad]:
    running = TimedLoad(client, topic)
    async with asyncio.TaskGroup() as group:
        producing = group.create_task(running.run())
        try:
            yield running
        except BaseException:
            producing.cancel()
            raise
        running.stop()


async def new_topic(client: Client) -> str:
    topic = unique("topic")
    await client.admin.create_topic(topic, partitions=PARTITIONS, replication=3)
    return topic


async def leaders(client: Client, topic: str) -> set[int | None]:
    description = await client.admin.describe_topic(topic)
    return {partition.leader for partition in description.partitions}


async def all_in_sync(client: Client, topic: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            description = await client.admin.describe_topic(topic)
            if all(len(partition.isr) == 3 for partition in description.partitions):
                return
            await asyncio.sleep(0.05)


async def test_each_leader_killed_in_turn(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    async with timed_load(client, topic) as running:
        for node_id in cluster.nodes:
            await running.more()
            running.begin()
            await cluster.nodes[node_id].kill()
            await running.more(600)
            assert running.longest_gap_s < KILL_GAP_MAX_S
            assert node_id not in await leaders(client, topic)
            await cluster.start_node(node_id)
            await all_in_sync(client, topic)
    found = await read_all(client, topic)
    assert found == running.acknowledged
    assert in_order(found)


async def test_every_node_killed_at_once(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    async with load(client, topic) as running:
        for _ in range(2):
            await running.more()
            await asyncio.gather(*(node.kill() for node in cluster.nodes.values()))
            await asyncio.gather(*map(cluster.start_node, cluster.nodes))
            await running.more()
    await all_in_sync(client, topic)
    found = await read_all(client, topic)
    assert found == running.acknowledged
    assert in_order(found)


async def test_two_nodes_killed_one_after_the_other(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    async with load(client, topic) as running:
        await running.more()
        for first, second in ((1, 2), (2, 3)):
            await cluster.nodes[first].kill()
            await asyncio.sleep(0.05)
            await cluster.nodes[second].kill()
            await cluster.start_node(first)
            await cluster.start_node(second)
            await running.more()
    found = await read_all(client, topic)
    assert found == running.acknowledged
    assert in_order(found)


async def test_a_planned_stop_moves_leaders_first(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    async with timed_load(client, topic) as running:
        for node_id in cluster.nodes:
            await running.more()
            running.begin()
            assert await cluster.nodes[node_id].stop() == 0
            await running.more()
            assert running.longest_gap_s < STOP_GAP_MAX_S
            await cluster.start_node(node_id)
            await all_in_sync(client, topic)
    found = await read_all(client, topic)
    assert found == running.acknowledged
    assert in_order(found)

"""Replicas that move between real nodes under load: nodes join, are drained, and are replaced."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster, LocalProcessError
from tests.cluster.shell import Shell
from tests.cluster.traffic import PARTITIONS, in_order, load, read_all, unique

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

# A node must have been up for five seconds before it is given anything.
_DEADLINE_S = 60.0


@pytest_asyncio.fixture(loop_scope="session")
async def own() -> AsyncIterator[LocalCluster]:
    """Three nodes and one controller for one test."""
    async with LocalCluster(nodes=3, controllers=1) as cluster:
        yield cluster


async def comes_true(holds: Callable[[], Awaitable[bool]], *, what: str) -> None:
    """Return once the cluster is found in a state; asks, since nothing tells."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + _DEADLINE_S
    while not await holds():
        assert loop.time() < end_s, f"not within {_DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.1)


async def is_even(client: Client) -> bool:
    """Tell whether nothing moves and all nodes hold as many replicas, within one."""
    found = await client.admin.describe_cluster()
    held = [node.replica_count for node in found.nodes]
    return not found.moving_count and max(held) - min(held) <= 1


async def is_in_sync(client: Client, topic: str, replication: int) -> bool:
    """Tell whether a topic has so many replicas and all are in sync."""
    described = await client.admin.describe_topic(topic)
    return all(
        len(each.isr) == len(each.replicas) == replication and not each.adding
        for each in described.partitions
    )


async def test_a_node_joins_and_another_is_drained_and_removed(own: LocalCluster) -> None:
    topic, odradek = unique("moving"), Shell(own.bootstrap)
    async with Client(own.bootstrap) as client:
        await client.admin.create_topic(topic, partitions=PARTITIONS, replication=2)
        async with load(client, topic) as running:
            await running.more()
            assert await own.add_node() == 4
            await comes_true(lambda: is_even(client), what="the new node holds its share")
            found = await client.admin.describe_cluster()
            assert all(node.replica_count == 3 for node in found.nodes)
            drained = await odradek("cluster", "drain", "2", "--json")
            assert drained.json == {"node": 2, "draining": True, "replicas_left": 0}, drained.err
            await own.nodes[2].stop()
            removed = await odradek("cluster", "remove", "2")
            assert removed.status == 0, removed.err
            await running.more()
        status = (await odradek("cluster", "status", "--json")).json
        assert sorted(node["node_id"] for node in status["nodes"]) == [1, 3, 4]
        assert status["under_replicated_count"] == status["leaderless_count"] == 0
        assert status["moves"] == []
        found_records = await read_all(client, topic)
        assert running.acknowledged.items() <= found_records.items()
        assert in_order(found_records)


async def test_replication_grows_and_a_replaced_disk_is_filled_again(own: LocalCluster) -> None:
    topic, odradek = unique("growing"), Shell(own.bootstrap)
    async with Client(own.bootstrap) as client:
        await client.admin.create_topic(topic, partitions=PARTITIONS, replication=1)
        async with load(client, topic) as running:
            await running.more()
            altered = await odradek("topics", "alter", topic, "--replication", "3")
            assert altered.status == 0, altered.err
            await comes_true(lambda: is_in_sync(client, topic, 3), what="three replicas in sync")
            await own.nodes[3].kill()
            shutil.rmtree(own.data_directory / "node-3")
            with pytest.raises(LocalProcessError, match="--replace"):
                await own.start_node(3)
            await own.start_node(3, "--replace")
            await comes_true(lambda: is_in_sync(client, topic, 3), what="the empty disk is filled")
            await own.nodes[1].kill()
            await running.more()
        found_records = await read_all(client, topic)
        assert running.acknowledged.items() <= found_records.items()
        assert in_order(found_records)

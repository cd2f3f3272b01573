"""A bit of a node's synced WAL flips while the node is down: it is back as one that lost data.

Recovery stops at the damage, as at a torn tail, and the store looks healthy: whatever came behind
it is gone. Only the durable mark tells.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from odradek.client import Client, serdes
from odradek.client.administration.descriptions import PartitionDescription
from odradek.client.local.cluster import LocalCluster
from odradek.client.local.process import LocalProcess
from tests.cluster.test_moves import comes_true, is_in_sync
from tests.cluster.traffic import Found, load, read_all, until
from tests.powerloss.bit_flips import flip, places_of
from tests.powerloss.tracer import scan

pytestmark = pytest.mark.cluster

TOPIC = "rotting"
WORD = "the first record, and the one that rots"
OTHERS = (2, 3)
"""Than node 1, whose bit flips."""


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(nodes=3, controllers=1, data_directory=tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.bootstrap) as connected:
        yield connected


async def partitions_of(client: Client) -> tuple[PartitionDescription, ...]:
    return (await client.admin.describe_topic(TOPIC)).partitions


async def produce_first(client: Client) -> Found:
    async with client.producer(value=serdes.string) as producer:
        ack = await producer.send(TOPIC, WORD, partition=0)
    return {(ack.partition, ack.offset): WORD}


async def is_marked(data: Path) -> None:
    """Return once a node that takes records has marked what it acknowledged before as synced."""
    mark = data / "durable.mark"
    before = mark.read_bytes()
    await until(lambda: mark.read_bytes() != before, what="the durable mark moves on")


def damage(data: Path) -> None:
    """Flip a bit of the first record, which the WAL alone holds."""
    [(name, position)] = places_of(scan(data), WORD.encode())
    assert name.endswith(".log"), "the memtable was written as a table: the WAL is of no use"
    file = data / name
    file.write_bytes(flip(file.read_bytes(), position, 0))


def losses_told(process: LocalProcess, event: str) -> list[int]:
    """Return the nodes that an event of a process's log says have lost data."""
    said = map(json.loads, process.log_path.read_text().splitlines())
    return [each["node"] for each in said if each["event"] == event and each["lost_data"]]


async def test_a_node_whose_synced_wal_rotted_rejoins_as_having_lost_data_and_is_filled_again(
    cluster: LocalCluster, client: Client
) -> None:
    victim, data = cluster.nodes[1], cluster.data_directory / "node-1"
    # So that any one of them may lead, and tell all, in the end.
    config = {"min.insync.replicas": "1"}
    await client.admin.create_topic(TOPIC, partitions=6, replication=3, config=config)
    acknowledged = await produce_first(client)
    async with load(client, TOPIC) as running:
        await running.more()
        await is_marked(data)
        leaders = {each.leader for each in await partitions_of(client)}
        assert leaders == {1, 2, 3}, "it leads some and follows others"
        await victim.kill()
        damage(data)
        await cluster.start_node(1)
        await comes_true(lambda: is_in_sync(client, TOPIC, 3), what="it is in sync again")
        await running.more()
    assert losses_told(cluster.controllers[1], "registered") == [1]
    assert losses_told(victim, "ready") == [1]
    acknowledged |= running.acknowledged
    assert await read_all(client, TOPIC) == acknowledged
    for other in OTHERS:
        await cluster.nodes[other].kill()
    assert await read_all(client, TOPIC) == acknowledged


async def test_the_last_in_sync_does_not_lead_when_its_synced_wal_has_rotted(
    cluster: LocalCluster, client: Client
) -> None:
    victim, data = cluster.nodes[1], cluster.data_directory / "node-1"
    await client.admin.create_topic(TOPIC, partitions=6, replication=3)
    acknowledged = await produce_first(client)
    async with load(client, TOPIC) as running:
        await running.more()
        await is_marked(data)
    acknowledged |= running.acknowledged
    for other in OTHERS:
        await cluster.nodes[other].kill()
    await comes_true(lambda: leads_alone(client), what="the others have left the ISR")
    await victim.kill()
    damage(data)
    await cluster.start_node(1)
    assert {each.leader for each in await partitions_of(client)} == {None}
    for other in OTHERS:
        await cluster.start_node(other)
    await comes_true(lambda: is_in_sync(client, TOPIC, 3), what="all are in sync again")
    assert await read_all(client, TOPIC) == acknowledged


async def leads_alone(client: Client) -> bool:
    return all(each.isr == (1,) for each in await partitions_of(client))

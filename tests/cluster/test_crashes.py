"""Kill -9 and restart of nodes and controllers: nothing acknowledged is lost."""

import asyncio

import pytest

from odradek.client import Client, serdes
from odradek.client.local.cluster import LocalCluster
from tests.cluster.traffic import (
    DEADLINE_S,
    Found,
    in_order,
    load,
    new_topic,
    produce,
    read_all,
    unique,
)

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def active_controller(client: Client) -> int:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for controller in (await client.admin.describe_cluster()).controllers:
                if controller.active and controller.controller_id is not None:
                    return controller.controller_id
            await asyncio.sleep(0.1)


async def test_each_node_killed_in_turn_under_load(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    async with load(client, topic) as running:
        for node_id in cluster.nodes:
            await running.more()
            await cluster.nodes[node_id].kill()
            await cluster.start_node(node_id)
        await running.more()
    found = await read_all(client, topic)
    assert found == running.acknowledged
    assert in_order(found)


async def test_every_process_killed_at_once_under_load(
    cluster: LocalCluster, client: Client
) -> None:
    topic = await new_topic(client)
    async with load(client, topic) as running:
        await running.more()
        everything = [*cluster.controllers.values(), *cluster.nodes.values()]
        await asyncio.gather(*(process.kill() for process in everything))
        await asyncio.gather(
            *map(cluster.start_controller, cluster.controllers),
            *map(cluster.start_node, cluster.nodes),
        )
        await running.more()
    found = await read_all(client, topic)
    assert found == running.acknowledged
    assert in_order(found)


async def test_the_active_controller_killed(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    async with load(client, topic) as running:
        killed = await active_controller(client)
        await cluster.controllers[killed].kill()
        created = await new_topic(client)
        assert await active_controller(client) != killed
        await running.more()
        await cluster.start_controller(killed)
    assert created in {each.name for each in await client.admin.list_topics()}
    assert await read_all(client, topic) == running.acknowledged


async def test_five_controllers_outlive_two() -> None:
    async with (
        LocalCluster(nodes=1, controllers=5) as five,
        Client(five.bootstrap) as client,
    ):
        active = await active_controller(client)
        another = next(each for each in five.controllers if each != active)
        await asyncio.gather(*(five.controllers[each].kill() for each in (active, another)))
        created = await new_topic(client)
        assert await active_controller(client) not in {active, another}
        assert created in {each.name for each in await client.admin.list_topics()}


async def test_controllers_restarted_one_after_the_other(
    cluster: LocalCluster, client: Client
) -> None:
    topic = await new_topic(client)
    created = []
    async with load(client, topic) as running:
        for controller_id in cluster.controllers:
            assert await cluster.controllers[controller_id].stop() == 0
            created.append(await new_topic(client))
            await cluster.start_controller(controller_id)
            await running.more()
    assert set(created) <= {each.name for each in await client.admin.list_topics()}
    assert await read_all(client, topic) == running.acknowledged


async def test_committed_offsets_survive_a_crash_of_every_node(
    cluster: LocalCluster, client: Client
) -> None:
    topic, group = await new_topic(client), unique("group")
    produced = await produce(client, topic, 300)
    before = await consume(client, group, topic, 120)
    committed = await client.admin.committed_offsets(group)
    assert sum(each.offset for each in committed.values()) == 120
    await asyncio.gather(*(node.kill() for node in cluster.nodes.values()))
    await asyncio.gather(*map(cluster.start_node, cluster.nodes))
    assert await client.admin.committed_offsets(group) == committed
    after = await consume(client, group, topic, 180)
    assert before | after == produced
    assert before.keys().isdisjoint(after)


async def consume(client: Client, group: str, topic: str, count: int) -> Found:
    """Process exactly `count` records as the only member of a group."""
    found: Found = {}
    async with (
        asyncio.timeout(DEADLINE_S),
        client.consumer(topic, group=group, value=serdes.string) as consumer,
    ):
        async for record in consumer:
            found[record.partition, record.offset] = record.value
            if len(found) == count:
                break
        await consumer.commit()
    return found

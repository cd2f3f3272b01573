"""Commits and hand-overs when something else goes wrong in the same moment."""

from collections.abc import AsyncIterator

import pytest

from tests.client.consumer_world import World, read, world


@pytest.fixture
async def two() -> AsyncIterator[World]:
    async with world(nodes=2) as made:
        yield made


async def test_commits_go_on_when_the_channel_is_closed_under_one(two: World) -> None:
    topic = await two.topic(records=100)
    two.groups.coordinator_id = 2
    async with two.consumer("t", group="g") as consumer:
        commits = two.group_services[2].hold_commits()
        await read(consumer, 3)
        await commits.reached.wait()
        await two.client._scope.connections.retain([two.cluster.nodes[1].address])
        commits.let_go.set()
        await read(consumer, 10)
        await two.groups.until(lambda: two.groups.committed("g", topic, 0) == 12)

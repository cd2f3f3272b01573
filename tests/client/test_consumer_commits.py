"""Commits and hand-overs when something else goes wrong in the same moment."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from odradek.client.consumer import Consumer
from odradek.client.record import Record
from odradek.protocol.errors import NotCoordinatorError
from odradek.protocol.types import TopicPartition
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


async def being_revoked(made: World, consumer: Consumer[Any, Any]) -> None:
    """Return once the consumer is asked to give a partition up."""
    positions = consumer._inside.positions
    await made.groups.until(lambda: any(state.held for state in positions))


def even(made: World) -> bool:
    """Whether each of two members owns one partition."""
    return [len(member.owned) for member in made.groups.members["g"].values()] == [1, 1]


async def test_a_run_that_failed_holds_no_rebalance_up(two: World) -> None:
    await two.topic(partitions=2, records=50)
    begun, failing = asyncio.Event(), asyncio.Event()

    async def handler(_: Record[Any, Any]) -> None:
        begun.set()
        await failing.wait()
        raise RuntimeError("bad")

    async with two.consumer("t", group="g") as first:
        running = asyncio.ensure_future(first.run(handler))
        await begun.wait()
        async with two.consumer("t", group="g"):
            await being_revoked(two, first)
            failing.set()
            with pytest.raises(RuntimeError):
                await running
            await two.groups.until(lambda: even(two))


async def test_an_explicit_commit_holds_no_rebalance_up(two: World) -> None:
    await two.topic(partitions=2, records=50)
    async with two.consumer("t", group="g") as first:
        record = await anext(first)
        while record.partition == 0:
            first.pause(("t", 0))
            record = await anext(first)
        async with two.consumer("t", group="g"):
            await being_revoked(two, first)
            await first.commit()
            await two.groups.until(lambda: even(two))


async def test_an_explicit_commit_is_not_taken_back(two: World) -> None:
    topic = await two.topic(records=30)
    async with two.consumer("t", group="g") as consumer:
        async for batch in consumer.batches():
            assert len(batch) > 7
            await consumer.commit({("t", 0): 7})
            break
        async for batch in consumer.batches():
            assert batch.records[0].offset == 7, "what was not committed comes again"
            await consumer.commit({("t", 0): 9})
            break
    assert [offset for _, offset in two.groups.commits] == [7, 9]
    async with two.consumer("t", group="g") as consumer:
        assert (await anext(consumer)).offset == 9
        await consumer.commit({("t", 0): 20})
        assert (await anext(consumer)).offset == 10, "a commit is no seek"
        await two.groups.until(lambda: two.groups.commits[-1][1] == 10)
        consumer.pause(("t", 0))
    assert two.groups.committed("g", topic, 0) == 10


async def test_every_commit_is_counted_repeats_too(two: World) -> None:
    await two.topic(records=100)
    two.groups.commit_errors = [NotCoordinatorError("moved")]
    async with two.consumer("t", group="g") as consumer:
        await read(consumer, 3)
        await consumer.commit()
        await consumer.commit({("t", 0): 1})
    assert two.groups.commit_sequences[:3] == [1, 2, 3]


async def test_what_is_told_at_closing_may_commit(two: World) -> None:
    topic = await two.topic(records=50)

    async def on_revoked(partitions: Sequence[TopicPartition]) -> None:
        await consumer.commit({partitions[0]: await consumer.position(partitions[0]) - 3})

    consumer = two.consumer("t", group="g", auto_commit=False, on_revoked=on_revoked)
    async with consumer:
        await read(consumer, 10)
    assert two.groups.committed("g", topic, 0) == 7

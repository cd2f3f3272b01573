"""How far `run` reads ahead of its handlers, and that the application may still move it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from odradek.client.record import Record
from odradek.protocol.hot import EpochEnd
from odradek.protocol.types import LeaderEpoch, Offset
from tests.client.consumer_world import TIMEOUT_S, World, world

T0 = ("t", 0)


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_however_much_was_handled_only_a_little_is_taken_ahead(one: World) -> None:
    await one.topic(records=100)
    ahead: list[int] = []
    done = asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        await asyncio.sleep(0)  # the dispatcher has its turn
        ahead.append(await consumer.position(T0) - record.offset)
        if record.offset == 99:
            done.set()

    async with asyncio.timeout(TIMEOUT_S), one.consumer("t", group="g") as consumer:
        running = asyncio.ensure_future(consumer.run(handler))
        await done.wait()
        await consumer.close()
        await running
    assert max(ahead) <= 3


async def test_what_was_taken_ahead_of_a_seek_is_not_handled(one: World) -> None:
    await one.topic(records=10)
    seen: list[int] = []
    done = asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        seen.append(record.offset)
        if record.offset == 5 and seen.count(5) == 1:
            await asyncio.sleep(0)  # the next one is taken
            consumer.seek(T0, 3)
        if record.offset == 9:
            done.set()

    async with asyncio.timeout(TIMEOUT_S), one.consumer("t", group="g") as consumer:
        running = asyncio.ensure_future(consumer.run(handler))
        await done.wait()
        await consumer.close()
        await running
    assert seen == [*range(6), *range(3, 10)]


@pytest.mark.parametrize("end", [2, 40])
async def test_truncation_does_not_pass_what_is_being_handled(one: World, end: int) -> None:
    topic = await one.topic(records=50)
    four = asyncio.Barrier(5)
    failing = asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        await four.wait()
        await failing.wait()
        raise RuntimeError("no")

    async with asyncio.timeout(TIMEOUT_S), one.consumer("t", group="g") as consumer:
        running = asyncio.ensure_future(consumer.run(handler, concurrency=4, ordered_by=None))
        await four.wait()
        one.logs.divergence[topic.partitions[0].uid] = EpochEnd(LeaderEpoch(0), Offset(end))
        subscribed = len(one.logs.subscribed)
        one.fetch[1].break_streams()
        while one.logs.divergence or len(one.logs.subscribed) < subscribed + 2:
            await one.logs.changed()
        failing.set()
        with pytest.raises(RuntimeError, match="no"):
            await running
        assert (await anext(consumer)).offset == 0
    assert one.groups.committed("g", topic, 0) in {None, 0}

"""`run` when handlers, serdes and dead letter topics fail: nothing is lost or stands still."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from odradek.client import serdes
from odradek.client.record import Record
from odradek.protocol.errors import RecordTooLargeError, UnknownTopicOrPartitionError
from tests.client.consumer_world import TIMEOUT_S, World, world
from tests.client.fake_node import Fault


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def refuse(record: Record[Any, Any]) -> None:
    raise AssertionError(f"handled {record}")


async def test_a_record_that_does_not_deserialize_is_passed_only_once_it_is_stored(
    one: World,
) -> None:
    topic = await one.topic()
    letters = await one.topic("letters")
    one.logs.append(topic, 0, [b"damaged"])
    one.cluster.nodes[1].judge = lambda _: Fault(RecordTooLargeError("no room for letters"))
    async with one.consumer("t", group="g", value=serdes.json) as consumer:
        with pytest.raises(RecordTooLargeError):
            await consumer.run(refuse, dead_letter="letters")
        assert await consumer.position(("t", 0)) == 0
    assert one.groups.committed("g", topic, 0) in {None, 0}
    assert letters.values() == []


async def test_a_dead_letter_topic_that_is_missing_is_told_before_anything_is_handled(
    one: World,
) -> None:
    await one.topic(records=3)
    handled: list[int] = []

    async def handler(record: Record[Any, Any]) -> None:
        handled.append(record.offset)

    async with one.consumer("t", group="g") as consumer:
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(UnknownTopicOrPartitionError):
                await consumer.run(handler, dead_letter="lettres")
    assert handled == []


async def test_an_error_that_is_not_unicode_is_stored_all_the_same(one: World) -> None:
    await one.topic(records=1)
    letters = await one.topic("letters")

    async def handler(record: Record[Any, Any]) -> None:
        raise OSError("no file \udcff")

    async with one.consumer("t", group="g") as consumer:
        running = asyncio.ensure_future(consumer.run(handler, dead_letter="letters"))
        async with asyncio.timeout(TIMEOUT_S):
            while not letters.values():
                await asyncio.wait([running], timeout=0.01)
        await consumer.close()
        await running
    (letter,) = letters.partitions[0].records()
    assert dict(letter.headers)["odradek-error"] == rb"OSError: no file \udcff"


async def test_a_handler_that_raises_cancelled_error_has_failed(one: World) -> None:
    topic = await one.topic(records=3)

    async def handler(record: Record[Any, Any]) -> None:
        if record.offset == 1:
            task = asyncio.ensure_future(asyncio.Event().wait())
            task.cancel()
            await task

    async with one.consumer("t", group="g") as consumer:
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(RuntimeError, match="CancelledError") as caught:
                await consumer.run(handler)
        assert caught.value.__notes__ == ["while handling t-0 offset 1"]
    assert one.groups.committed("g", topic, 0) == 1


async def test_at_most_once_a_record_that_failed_is_never_handled_again(one: World) -> None:
    topic = await one.topic(records=20)
    seen: list[int] = []
    last = asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        committed = one.groups.committed("g", topic, 0)
        assert committed is not None
        assert committed > record.offset, "whoever dies from here on leaves it behind"
        seen.append(record.offset)
        if record.offset in {3, 9}:
            raise RuntimeError("bad")
        if record.offset == 19:
            last.set()

    async with one.consumer("t", group="g", delivery="at_most_once") as consumer:
        async with asyncio.timeout(TIMEOUT_S):
            for bad in (3, 9):
                with pytest.raises(RuntimeError, match="bad"):
                    await consumer.run(handler)
                assert seen[-1] == bad
    assert (one.groups.committed("g", topic, 0) or 0) > 9, "closing does not take it back"
    async with one.consumer("t", group="g", delivery="at_most_once") as successor:
        running = asyncio.ensure_future(successor.run(handler))
        async with asyncio.timeout(TIMEOUT_S):
            await last.wait()
        await successor.close()
        await running
    assert seen == sorted(set(seen)), "each at most once"


async def test_a_record_that_fails_after_a_damaged_one_was_passed_is_stored_itself(
    one: World,
) -> None:
    topic = await one.topic()
    letters = await one.topic("letters")
    one.logs.append(topic, 0, [b"1", b"damaged", b"3"])
    later = asyncio.Event()
    handled: list[int] = []

    async def handler(record: Record[Any, Any]) -> None:
        if record.value == 3:
            later.set()
        await later.wait()
        if record.value == 1:
            raise RuntimeError("one")
        handled.append(record.value)

    async with asyncio.timeout(TIMEOUT_S), one.consumer("t", value=serdes.json) as consumer:
        running = asyncio.ensure_future(
            consumer.run(handler, ordered_by=None, dead_letter="letters")
        )
        await later.wait()
        await consumer.close()
        await running
    assert sorted(letters.values()) == [b"1", b"damaged"]
    assert handled == [3]

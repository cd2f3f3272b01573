"""`run`: concurrency, order, retries, dead letters; offsets never pass what is not done."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.client import serdes
from odradek.client.consumer import Consumer
from odradek.client.consuming.handler_order import Ledger, Lines
from odradek.client.errors import DeserializationError
from odradek.client.record import Record
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.types import Offset
from tests.client.consumer_world import World, world


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


class Handler:
    """Handles records, and remembers who ran with whom.

    The first ones wait until `company` of them run at the same time.
    """

    def __init__(self, total: int, *, company: int = 1) -> None:
        self.total = total
        self.company = company
        self.enough = asyncio.Event()
        self.done: list[tuple[int, int]] = []
        self.running: dict[tuple[int, bytes | None], int] = defaultdict(int)
        self.together = 0
        self.most_together = 0
        self.overlaps: set[tuple[int, bytes | None]] = set()
        self.finished = asyncio.Event()

    async def __call__(self, record: Record[Any, Any]) -> None:
        key = (record.partition, record.key)
        self.together += 1
        self.running[key] += 1
        self.most_together = max(self.most_together, self.together)
        if self.running[key] > 1:
            self.overlaps.add(key)
        if self.together >= self.company:
            self.enough.set()
        await self.enough.wait()
        for _ in range(record.offset % 5):
            await asyncio.sleep(0)
        self.running[key] -= 1
        self.together -= 1
        self.done.append((record.partition, record.offset))
        if len(self.done) == self.total:
            self.finished.set()


async def run_until(consumer: Consumer[Any, Any], handler: Handler, **settings: Any) -> None:
    running = asyncio.ensure_future(consumer.run(handler, **settings))
    finishing = asyncio.ensure_future(handler.finished.wait())
    async with asyncio.timeout(20):
        await asyncio.wait([running, finishing], return_when=asyncio.FIRST_COMPLETED)
    finishing.cancel()
    await consumer.close()
    await running


async def test_handlers_run_together_in_order_by_partition(one: World) -> None:
    topic = await one.topic(partitions=3, records=100)
    handler = Handler(300, company=3)
    async with one.consumer("t", group="g") as consumer:
        await run_until(consumer, handler, concurrency=8)
    assert handler.most_together == 3
    for partition in range(3):
        assert [each for p, each in handler.done if p == partition] == list(range(100))
        assert one.groups.committed("g", topic, partition) == 100


async def test_order_by_key(one: World) -> None:
    topic = await one.topic(partitions=1)
    for number in range(100):
        key = None if number % 7 == 0 else b"k%d" % (number % 5)
        one.logs.append(topic, 0, [b"v"], key=key)
    handler = Handler(100, company=5)
    async with one.consumer("t", group="g") as consumer:
        await run_until(consumer, handler, concurrency=8, ordered_by="key")
    assert handler.overlaps <= {(0, None)}
    assert 5 <= handler.most_together <= 8
    assert {offset for _, offset in handler.done} == set(range(100))
    for residue in range(5):
        found = [o for _, o in handler.done if o % 5 == residue and o % 7]
        assert found == sorted(found)


async def test_no_order_at_all(one: World) -> None:
    await one.topic(partitions=1, records=100)
    handler = Handler(100, company=16)
    async with one.consumer("t", group="g") as consumer:
        await run_until(consumer, handler, concurrency=16, ordered_by=None)
    assert handler.most_together == 16


async def test_a_failure_ends_run_after_the_others_and_the_next_run_begins_with_it(
    one: World,
) -> None:
    topic = await one.topic(partitions=2, records=50)
    handled: list[tuple[int, int]] = []
    broken = True

    async def handler(record: Record[Any, Any]) -> None:
        await asyncio.sleep(0)
        if broken and (record.partition, record.offset) == (1, 7):
            raise RuntimeError("seven")
        handled.append((record.partition, record.offset))

    async with one.consumer("t", group="g") as consumer:
        with pytest.raises(RuntimeError, match="seven") as caught:
            await consumer.run(handler, concurrency=4)
        assert "t-1 offset 7" in str(caught.value.__notes__)
        assert [offset for partition, offset in handled if partition == 1] == list(range(7))
        broken = False
        again = Handler(1)

        async def handle_again(record: Record[Any, Any]) -> None:
            await handler(record)
            if len(set(handled)) == 100:
                again.finished.set()

        running = asyncio.ensure_future(consumer.run(handle_again))
        async with asyncio.timeout(20):
            await again.finished.wait()
        await consumer.close()
        await running
    assert [offset for partition, offset in handled if partition == 1] == list(range(50))
    assert one.groups.committed("g", topic, 1) == 50


async def test_retries_then_the_dead_letter_topic(one: World) -> None:
    topic = await one.topic(records=10)
    letters = await one.topic("letters")
    attempts: dict[int, int] = defaultdict(int)
    done = asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        attempts[record.offset] += 1
        if record.offset == 3 or (record.offset == 5 and attempts[5] < 3):
            raise RuntimeError("bad")
        if record.offset == 9:
            done.set()

    async with one.consumer("t", group="g") as consumer:
        running = asyncio.ensure_future(
            consumer.run(handler, retries=2, retry_delay_s=0.001, dead_letter="letters")
        )
        async with asyncio.timeout(20):
            await done.wait()
        await consumer.close()
        await running
    assert (attempts[3], attempts[5], attempts[4]) == (3, 3, 1)
    (letter,) = letters.partitions[0].records()
    assert letter.value == b"3"
    headers = dict(letter.headers)
    assert headers["odradek-origin-topic"] == b"t"
    assert headers["odradek-origin-offset"] == b"3"
    assert headers["odradek-error"] == b"RuntimeError: bad"
    assert one.groups.committed("g", topic, 0) == 10


async def test_damaged_records_go_to_the_dead_letter_topic_or_end_run(one: World) -> None:
    topic = await one.topic()
    letters = await one.topic("letters")
    one.logs.append(topic, 0, [b"1", b"damaged", b"3"])
    handler = Handler(2)
    async with one.consumer("t", group="g", value=serdes.json) as consumer:
        with pytest.raises(DeserializationError):
            await consumer.run(handler)
        handler.total = 3
        await run_until_done(consumer, handler)
    assert letters.values() == [b"damaged"]
    assert one.groups.committed("g", topic, 0) == 3


async def run_until_done(consumer: Consumer[Any, Any], handler: Handler) -> None:
    handler.total = 2
    running = asyncio.ensure_future(consumer.run(handler, dead_letter="letters"))
    async with asyncio.timeout(20):
        await handler.finished.wait()
    await consumer.close()
    await running


async def test_a_handler_that_takes_too_long_fails(one: World) -> None:
    await one.topic(records=3)

    async def handler(record: Record[Any, Any]) -> None:
        await asyncio.Event().wait()

    async with one.consumer("t", group="g", max_processing_time_s=0.05) as consumer:
        with pytest.raises(TimeoutError):
            await consumer.run(handler)


async def test_cancelling_run_commits_only_what_was_handled(one: World) -> None:
    topic = await one.topic(records=50)
    seventh = asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        if record.offset == 7:
            seventh.set()
            await asyncio.Event().wait()

    async with one.consumer("t", group="g") as consumer:
        running = asyncio.ensure_future(consumer.run(handler))
        await seventh.wait()
        running.cancel()
        await asyncio.wait([running])
    assert one.groups.committed("g", topic, 0) == 7


async def test_handlers_of_a_revoked_partition_end_before_it_goes(one: World) -> None:
    topic = await one.topic(partitions=2, records=50)
    first, second = Handler(1000), Handler(1000)
    async with one.consumer("t", group="g") as one_consumer:
        running = asyncio.ensure_future(one_consumer.run(first))
        async with one.consumer("t", group="g") as other:
            others = asyncio.ensure_future(other.run(second))
            await one.groups.until(
                lambda: (
                    [len(each.owned) for each in one.groups.members.get("g", {}).values()] == [1, 1]
                )
            )
            for index in range(2):
                one.fill(topic, index, 50)
            await one.groups.until(
                lambda: all(one.groups.committed("g", topic, index) == 100 for index in range(2))
            )
            await other.close()
            await others
        await one_consumer.close()
        await running
    assert sorted(first.done + second.done) == [(p, o) for p in range(2) for o in range(100)]


async def test_a_handler_that_ends_while_the_consumer_closes_may_commit(one: World) -> None:
    topic = await one.topic(records=1)
    handling, closing = asyncio.Event(), asyncio.Event()

    async def handler(record: Record[Any, Any]) -> None:
        handling.set()
        await closing.wait()
        await consumer.commit({(record.topic, record.partition): record.offset + 1})

    async with one.consumer("t", group="g", auto_commit=False) as consumer:
        running = asyncio.ensure_future(consumer.run(handler))
        await handling.wait()
        closed = asyncio.ensure_future(consumer.close())
        await asyncio.sleep(0)
        closing.set()
        await closed
        await running
    assert one.groups.committed("g", topic, 0) == 1


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"retries": -1}, {"ordered_by": "size"}])
async def test_bad_options(one: World, bad: dict[str, Any]) -> None:
    await one.topic()
    async with one.consumer("t") as consumer:
        with pytest.raises(InvalidRequestError):
            await consumer.run(Handler(1), **bad)


@given(st.permutations(range(8)), st.integers(1, 3))
def test_the_frontier_follows_the_oldest_that_is_not_done(order: list[int], step: int) -> None:
    ledger = Ledger()
    for number in range(8):
        ledger.add(number * step, Offset((number + 1) * step))
    done: set[int] = set()
    frontier = 0
    for number in order:
        moved = ledger.done(number * step)
        done.add(number)
        expected = step * next((each for each in range(8) if each not in done), 8)
        if moved is not None:
            assert moved > frontier
            frontier = moved
        assert frontier == expected
    assert not ledger


@given(st.lists(st.integers(0, 3), max_size=30))
def test_lines_keep_order_and_let_one_at_a_time(lines: list[int]) -> None:
    waiting: Lines[int] = Lines()
    running: list[int] = []
    started: dict[int, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        if waiting.join(line, number):
            running.append(number)
    while running:
        number = running.pop()
        line = lines[number]
        started[line].append(number)
        assert not any(lines[each] == line for each in running)
        successor = waiting.leave(line)
        if successor is not None:
            running.append(successor)
    for line in set(lines):
        assert started[line] == [each for each, at in enumerate(lines) if at == line]

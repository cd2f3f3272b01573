"""A consumer against a model: whatever it is asked to do, in any order, no record is missed.

The model knows for each partition which record is handed out next and what the application has in
hand. What is committed never runs ahead of what was processed.
"""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from odradek.client.consumer import Consumer
from tests.client.consumer_world import TIMEOUT_S, World, world
from tests.client.fake_node import FakeTopic

_PARTITIONS = 2
_RECORDS = 400
_STEPS = 150


@dataclass
class Model:
    """What a consumer must do.

    Attributes:
        due: The offset handed out next, of each partition.
        in_hand: Partition and first offset of what the application has not processed.
        sought: Partitions whose position the application set: commits may lie anywhere.
    """

    due: list[int] = field(default_factory=lambda: [0] * _PARTITIONS)
    paused: set[int] = field(default_factory=set)
    in_hand: tuple[int, int] | None = None
    sought: set[int] = field(default_factory=set)

    def deliver(self, partition: int, first: int, last: int) -> None:
        assert first == self.due[partition]
        self.due[partition] = last + 1
        self.in_hand = (partition, first)

    def begin_loop(self) -> None:
        """What was left unprocessed comes again."""
        if self.in_hand is not None:
            partition, self.due[partition] = self.in_hand
            self.in_hand = None

    def seek(self, partition: int, offset: int) -> None:
        self.due[partition] = offset
        self.sought.add(partition)
        if self.in_hand is not None and self.in_hand[0] == partition:
            self.in_hand = None

    def unprocessed(self, partition: int) -> int:
        """The first offset a commit must not go beyond."""
        if self.in_hand is not None and self.in_hand[0] == partition:
            return self.in_hand[1]
        return self.due[partition]

    @property
    def has_more(self) -> bool:
        """Whether a partition that is not paused has records left."""
        return any(
            self.due[each] < _RECORDS for each in range(_PARTITIONS) if each not in self.paused
        )


class Application:
    """Asks for anything, and tells the model what it got."""

    def __init__(self, consumer: Consumer[Any, Any], chance: Random) -> None:
        self.consumer = consumer
        self.chance = chance
        self.model = Model()

    async def step(self) -> None:
        often = [self.next] * 10
        rare = [self.loop, self.batch, self.cancel, self.pause, self.resume, self.commit, self.seek]
        step = self.chance.choice([*often, *rare])
        asks = step in (self.next, self.loop, self.batch, self.cancel)
        if not asks or self.model.has_more:
            async with asyncio.timeout(TIMEOUT_S):
                await step()

    def _some(self) -> int:
        return self.chance.randrange(_PARTITIONS)

    async def next(self) -> None:
        record = await anext(self.consumer)
        assert record.partition not in self.model.paused
        self.model.deliver(record.partition, record.offset, record.offset)

    async def loop(self) -> None:
        self.model.begin_loop()
        async for record in self.consumer:
            self.model.deliver(record.partition, record.offset, record.offset)
            break

    async def batch(self) -> None:
        self.model.begin_loop()
        batches = self.consumer.batches()
        batch = await anext(batches)
        first, last = batch.records[0], batch.records[-1]
        self.model.deliver(batch.partition, first.offset, last.offset)
        await batches.aclose()

    async def cancel(self) -> None:
        """Give up waiting for a record, and ask again."""
        asking = asyncio.ensure_future(anext(self.consumer))
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        if asking.cancelled():
            await self.next()
        else:
            record = asking.result()
            self.model.deliver(record.partition, record.offset, record.offset)

    async def pause(self) -> None:
        partition = self._some()
        self.model.paused.add(partition)
        self.consumer.pause(("t", partition))

    async def resume(self) -> None:
        self.model.paused.clear()
        self.consumer.resume()

    async def commit(self) -> None:
        await self.consumer.commit()
        self.model.in_hand = None  # it counts as processed, as the application says

    async def seek(self) -> None:
        partition, offset = self._some(), self.chance.randrange(_RECORDS)
        self.consumer.seek(("t", partition), offset)
        self.model.seek(partition, offset)


def check_commits(made: World, topic: FakeTopic, model: Model) -> None:
    for partition in set(range(_PARTITIONS)) - model.sought:
        committed = made.groups.committed("g", topic, partition)
        assert committed is None or committed <= model.unprocessed(partition)


@pytest.mark.parametrize("seed", range(10))
async def test_no_record_is_missed_whatever_is_asked(seed: int) -> None:
    chance = Random(seed)
    async with world() as made:
        topic = await made.topic(partitions=_PARTITIONS, records=_RECORDS)
        made.logs.push_bytes = chance.choice([1, 500, 1 << 20])
        async with made.consumer("t", group="g", commit_interval_s=0.001) as consumer:
            application = Application(consumer, chance)
            await made.groups.until(lambda: len(consumer.assignment) == _PARTITIONS)
            for _ in range(_STEPS):
                if chance.random() < 0.05:
                    made.fetch[1].break_streams()
                await application.step()
                check_commits(made, topic, application.model)

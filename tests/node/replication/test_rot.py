"""A node whose store rots gives it up, and is filled again by the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from odradek.node.storage.store import DamagedTableError
from odradek.v1 import metadata_pb2
from tests.node.fake_controller import FakeController, fake_controller
from tests.node.replication.test_streams import until
from tests.node.running import SMALL, FetchClient, ProduceClient, RunningNode, batch, running_node
from tests.powerloss.bit_flips import flip, places_of
from tests.powerloss.tracer import scan

BATCHES = 20
UNCACHED = replace(SMALL, tail_cache_bytes=0)


class _Pair:
    """Node 1, which others follow, and node 2, whose disk rots."""

    def __init__(self, controller: FakeController, first: RunningNode, path: Path) -> None:
        self.controller = controller
        self.first = first
        self.path = path

    async def fill(self, topic: metadata_pb2.TopicMetadata, node: RunningNode) -> None:
        await node.knows(self.controller)
        produce = ProduceClient(node.channel)
        for number in range(BATCHES):
            result = await produce.produce(topic, batch(value=bytes((number,)) * 3000))
            assert result.error.code == 0

    def damage(self, word: bytes) -> None:
        """Flip a bit of some bytes wherever node 2 has them in a table."""
        places = [each for each in places_of(scan(self.path), word) if each[0].endswith(".sst")]
        assert places, "no table holds it"
        for name, position in places:
            file = self.path / name
            file.write_bytes(flip(file.read_bytes(), position, 0))


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[_Pair]:
    async with AsyncExitStack() as stack:
        controller = await stack.enter_async_context(fake_controller())
        first = await stack.enter_async_context(
            running_node(tmp_path / "1", controller, options=UNCACHED)
        )
        yield _Pair(controller, first, tmp_path / "2")


async def _is_filled_again(pair: _Pair, topic: metadata_pb2.TopicMetadata) -> None:
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2) as second:
        told = pair.controller.registrations[-1]
        assert (told.node_id, told.lost_data, told.store_set_aside) == (2, True, True)
        await until(lambda: 2 in topic.partitions[0].isr)
        await second.knows(pair.controller)
        pair.controller.elect(topic, 0, 2)
        await second.knows(pair.controller)
        fetch = FetchClient(second.channel)
        await fetch.open()
        await fetch.subscribe(1, topic)
        received = b""
        while received.count(b"key") < BATCHES:
            received += bytes((await fetch.records()).records)
        for number in range(BATCHES):
            assert bytes((number,)) * 3000 in received


async def test_a_node_whose_store_does_not_open_is_filled_again(pair: _Pair) -> None:
    topic = pair.controller.add_topic("t", replicas=(1, 2), config={"min.insync.replicas": "1"})
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2):
        await pair.fill(topic, pair.first)
    current = pair.path / "store" / "CURRENT"
    current.write_bytes(flip(current.read_bytes(), 3, 0))
    await _is_filled_again(pair, topic)


async def test_a_node_that_finds_a_table_damaged_is_filled_again(pair: _Pair) -> None:
    topic = pair.controller.add_topic("t", replicas=(1, 2), config={"min.insync.replicas": "1"})
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2):
        await pair.fill(topic, pair.first)
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2):
        pass  # what was in its log is in a table now
    ended: list[type[BaseException]] = []

    def end(error: BaseException) -> None:
        ended.append(type(error))  # no traceback, which would hold the store open

    async with running_node(
        pair.path, pair.controller, options=UNCACHED, id=2, fatal=end
    ) as second:
        await until(lambda: 2 in topic.partitions[0].isr)
        pair.damage(bytes((7,)) * 100)
        pair.controller.elect(topic, 0, 2)
        await second.knows(pair.controller)
        fetch = FetchClient(second.channel)
        await fetch.open()
        await fetch.subscribe(1, topic)
        await until(lambda: ended)
        assert ended[0] is DamagedTableError
    await _is_filled_again(pair, topic)


async def test_what_a_node_has_alone_it_keeps(pair: _Pair) -> None:
    alone = pair.controller.add_topic("alone", leader_id=2, replicas=(2,))
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2) as second:
        await pair.fill(alone, second)
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2):
        pass
    pair.damage(bytes((7,)) * 100)
    async with running_node(pair.path, pair.controller, options=UNCACHED, id=2) as second:
        await second.knows(pair.controller)
        fetch = FetchClient(second.channel)
        await fetch.open()
        await fetch.subscribe(1, alone)
        received = b""
        while True:
            async with asyncio.timeout(10):
                push = await fetch.records()
            if push.error:
                break
            received += bytes(push.records)
        assert bytes((7,)) * 3000 not in received
        produce = ProduceClient(second.channel)
        assert (await produce.produce(alone, batch())).base_offset == BATCHES
    assert not list(pair.path.glob("store.damaged-*"))

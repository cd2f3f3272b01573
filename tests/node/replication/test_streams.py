"""Three nodes copy partitions to each other over real streams; the test is their controller."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from odradek.node.replication.partition import PartitionReplica
from odradek.node.storage import StorageOptions
from odradek.protocol.errors import (
    InvalidUpdateVersionError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
)
from odradek.protocol.hot import Acks
from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionIndex, TopicId
from odradek.v1 import metadata_pb2
from tests.node.fake_controller import FakeController, fake_controller
from tests.node.running import SMALL, WAIT_S, ProduceClient, RunningNode, batch, running_node


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so; the loop goes on meanwhile."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never became so"
        await asyncio.sleep(0.005)


class _Cluster:
    """Nodes 1 to 3."""

    def __init__(self, controller: FakeController, nodes: dict[int, RunningNode]) -> None:
        self.controller = controller
        self.nodes = nodes

    def replica(
        self, node_id: int, topic: metadata_pb2.TopicMetadata, index: int = 0
    ) -> PartitionReplica:
        key = TopicId(topic.topic_id), PartitionIndex(index)
        replica = self.nodes[node_id].node._replicas.get(*key)
        assert replica is not None
        return replica

    async def known(self) -> None:
        for node in self.nodes.values():
            await node.knows(self.controller)


@asynccontextmanager
async def three_nodes(
    path: Path, options: StorageOptions = SMALL, **settings: Any
) -> AsyncIterator[_Cluster]:
    async with AsyncExitStack() as stack:
        controller = await stack.enter_async_context(fake_controller())
        nodes = {}
        for node_id in (1, 2, 3):
            data = path / f"node-{node_id}"
            nodes[node_id] = await stack.enter_async_context(
                running_node(data, controller, options=options, id=node_id, **settings)
            )
        yield _Cluster(controller, nodes)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[_Cluster]:
    async with three_nodes(tmp_path) as cluster:
        yield cluster


async def test_an_ack_means_on_every_replica(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
    await cluster.known()
    produce = ProduceClient(cluster.nodes[1].channel)
    for number in range(3):
        result = await produce.produce(topic, batch(2))
        assert (result.error.code, result.base_offset) == (0, number * 2)
        for node_id in (2, 3):
            assert cluster.replica(node_id, topic).log_end_offset == number * 2 + 2
    logs = [
        await cluster.replica(node, topic).log.read(FIRST_OFFSET, 1 << 20) for node in (1, 2, 3)
    ]
    assert logs[0] == logs[1] == logs[2]
    await until(lambda: cluster.replica(2, topic).high_watermark == 6)


async def test_acks_leader_does_not_wait(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic("t", replicas=(1, 9))
    await cluster.known()
    produce = ProduceClient(cluster.nodes[1].channel)
    assert (await produce.produce(topic, batch(), acks=Acks.LEADER)).error.code == 0
    assert cluster.replica(1, topic).high_watermark == 0


async def test_a_follower_outside_the_isr_catches_up_and_joins(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic(
        "t", replicas=(1, 2, 3), isr=(1,), config={"min.insync.replicas": "1"}
    )
    await cluster.known()
    await until(lambda: set(topic.partitions[0].isr) == {1, 2, 3})
    produce = ProduceClient(cluster.nodes[1].channel)
    assert (await produce.produce(topic, batch())).error.code == 0
    assert cluster.replica(3, topic).log_end_offset == 1


async def test_a_new_leader_goes_on_where_the_isr_ended(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
    await cluster.known()
    produce = ProduceClient(cluster.nodes[1].channel)
    await produce.produce(topic, batch(5))
    cluster.controller.elect(topic, 0, 2)
    await cluster.known()
    result = await ProduceClient(cluster.nodes[2].channel).produce(topic, batch())
    assert (result.error.code, result.base_offset) == (0, 5)
    assert cluster.replica(1, topic).log_end_offset == 6


async def test_what_nobody_else_had_is_cut(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
    await cluster.known()
    produce = ProduceClient(cluster.nodes[1].channel)
    await produce.produce(topic, batch(5))
    alone = cluster.replica(1, topic)
    cluster.controller.elect(topic, 0, -1)
    await cluster.known()
    # What a leader had appended and nobody had seen when it lost its epoch.
    lost = cluster.controller.add_topic("u")
    await cluster.known()
    await ProduceClient(cluster.nodes[1].channel).produce(lost, batch(3))
    (orphan,) = await cluster.replica(1, lost).log.read(FIRST_OFFSET, 1 << 20)
    alone.log.append_replicated([_moved(orphan, 5)], 0)
    assert alone.log_end_offset == 8
    cluster.controller.elect(topic, 0, 2)
    await cluster.known()
    result = await ProduceClient(cluster.nodes[2].channel).produce(topic, batch())
    assert (result.error.code, result.base_offset) == (0, 5)
    assert alone.log_end_offset == 6
    theirs = await cluster.replica(2, topic).log.read(FIRST_OFFSET, 1 << 20)
    assert await alone.log.read(FIRST_OFFSET, 1 << 20) == theirs


def _moved(data: bytes, base_offset: int) -> bytes:
    return base_offset.to_bytes(8, "big") + data[8:]


async def test_duplicates_are_answered_by_a_new_leader_with_their_first_offset(
    cluster: _Cluster,
) -> None:
    topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
    await cluster.known()
    first, second = (
        batch(2, producer_id=7, producer_epoch=0, base_sequence=sequence) for sequence in (0, 2)
    )
    produce = ProduceClient(cluster.nodes[1].channel)
    await produce.produce(topic, first)
    await produce.produce(topic, second)
    cluster.controller.elect(topic, 0, 3)
    await cluster.known()
    produce = ProduceClient(cluster.nodes[3].channel)
    again = await produce.produce(topic, second)
    assert (again.error.code, again.base_offset) == (0, 2)
    gap = batch(1, producer_id=7, producer_epoch=0, base_sequence=9)
    assert (await produce.produce(topic, gap)).error.code == 45
    third = batch(1, producer_id=7, producer_epoch=0, base_sequence=4)
    assert (await produce.produce(topic, third)).base_offset == 4


async def test_many_partitions_share_the_streams(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic("t", partitions=50, replicas=(1, 2, 3))
    await cluster.known()
    produce = ProduceClient(cluster.nodes[1].channel)
    for index in range(50):
        await produce.send(topic, batch(), partition=index)
    for _ in range(50):
        assert (await produce.answer()).partitions[0].error.code == 0
    for index in range(50):
        assert cluster.replica(2, topic, index).log_end_offset == 1


async def test_a_member_that_dies_is_waited_for_until_it_is_fenced(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        await produce.produce(topic, batch())
        cluster.nodes[3].stop.set()
        await cluster.nodes[3].task
        assert (await produce.produce(topic, batch())).base_offset == 1
        assert list(topic.partitions[0].isr) == [1, 2]


async def test_who_is_far_behind_is_served_from_disk_while_others_go_on(tmp_path: Path) -> None:
    options = replace(SMALL, tail_cache_bytes=1 << 20)
    async with three_nodes(tmp_path, options) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        for number in range(100):
            await produce.produce(topic, batch(value=bytes((number,)) * 100_000))
        topic.partitions[0].replicas.append(3)
        cluster.controller.changed(topic, 0)
        await cluster.known()
        for number in range(100):
            assert (await produce.produce(topic, batch())).base_offset == 100 + number
        await until(lambda: list(topic.partitions[0].isr) == [1, 2, 3])
        assert (await produce.produce(topic, batch())).base_offset == 200
        theirs = cluster.replica(3, topic).log
        ours = cluster.replica(1, topic).log
        for offset in range(0, 201, 20):
            at = Offset(offset)
            assert await theirs.read(at, 1) == await ours.read(at, 1)


async def test_too_few_replicas_before_and_after_the_append(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic(
        "t", replicas=(1, 2, 9), isr=(1, 2, 9), config={"min.insync.replicas": "3"}
    )
    await cluster.known()
    produce = ProduceClient(cluster.nodes[1].channel)
    await produce.send(topic, batch(), timeout_ms=1000)
    await until(lambda: cluster.replica(2, topic).log_end_offset == 1)
    topic.partitions[0].isr[:] = [1, 2]
    cluster.controller.changed(topic, 0)
    late = (await produce.answer()).partitions[0]
    assert late.error.code == NotEnoughReplicasAfterAppendError.code
    early = await produce.produce(topic, batch())
    assert early.error.code == NotEnoughReplicasError.code
    assert cluster.replica(1, topic).log_end_offset == 1
    topic.partitions[0].isr[:] = [1, 2, 9]
    cluster.controller.changed(topic, 0)


async def test_a_refused_isr_is_asked_for_again(cluster: _Cluster) -> None:
    cluster.controller.isr_refusal = InvalidUpdateVersionError()
    topic = cluster.controller.add_topic(
        "t", replicas=(1, 2), isr=(1,), config={"min.insync.replicas": "1"}
    )
    await cluster.controller.until(lambda: len(cluster.controller.submitted) == 2)
    cluster.controller.isr_refusal = None
    await until(lambda: list(topic.partitions[0].isr) == [1, 2])


async def test_leadership_is_confirmed_by_the_isr(cluster: _Cluster) -> None:
    topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
    await cluster.known()
    await asyncio.gather(*(cluster.replica(1, topic).confirm_leadership() for _ in range(5)))
    # Node 1 does not hear of its successor: its stream of metadata hangs.
    deaf = cluster.nodes[1].node
    deaf._membership._events = replace(deaf._membership._events, cluster_changed=lambda _: None)
    cluster.controller.elect(topic, 0, 2)
    await cluster.nodes[2].knows(cluster.controller)
    with pytest.raises(NotLeaderOrFollowerError):
        await cluster.replica(1, topic).confirm_leadership()

"""A disk that rots under one replica: nobody is served damage, and what was there comes back."""

from dataclasses import replace
from pathlib import Path

import pytest

from odradek.node.storage.repair import repair_batch
from odradek.protocol.errors import CorruptMessageError, InvalidRecordError
from odradek.protocol.types import FIRST_OFFSET, Offset
from odradek.v1 import broker_pb2, metadata_pb2
from tests.node.replication.test_streams import three_nodes
from tests.node.running import SMALL, FetchClient, ProduceClient, batch

UNCACHED = replace(
    SMALL, tail_cache_bytes=0, store=replace(SMALL.store, value_bytes_min=1, inline_bytes_max=0)
)


def rot(data: Path, word: bytes) -> None:
    """Turn over one bit of a value on disk."""
    found = 0
    for path in data.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if word in content:
            position = content.index(word)
            with path.open("r+b") as file:
                file.seek(position)
                file.write(bytes((content[position] ^ 1,)))
            found += 1
    assert found, "the value is nowhere on disk"


async def fill(produce: ProduceClient, topic: metadata_pb2.TopicMetadata) -> list[bytes]:
    words = [f"record number {number:04}".encode() for number in range(20)]
    for word in words:
        assert (await produce.produce(topic, batch(value=word * 1000))).error.code == 0
    return words


async def test_a_damaged_batch_comes_back_from_another_replica(tmp_path: Path) -> None:
    async with three_nodes(tmp_path, UNCACHED) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
        await cluster.known()
        words = await fill(ProduceClient(cluster.nodes[1].channel), topic)
        for number in (3, 11):
            rot(tmp_path / "node-1", words[number])
        rot(tmp_path / "node-2", words[11])
        ours = cluster.replica(1, topic)
        with pytest.raises(CorruptMessageError):
            await ours.log.read(Offset(3), 1)
        fetch = FetchClient(cluster.nodes[1].channel)
        await fetch.open()
        await fetch.subscribe(1, topic, credit_bytes=8 << 20)
        received = b""
        while words[-1] not in received:
            push = await fetch.records()
            assert push.error is None
            received += bytes(push.records)
        for word in words:
            assert received.count(word) == 1000
        theirs = await cluster.replica(3, topic).log.read(FIRST_OFFSET, 1 << 20)
        assert await ours.log.read(FIRST_OFFSET, 1 << 20) == theirs
        assert ours.is_leader, "nobody else noticed"


@pytest.mark.parametrize(
    "question",
    [
        broker_pb2.ListOffsetsPartition(timestamp_ms=3_000),
        broker_pb2.ListOffsetsPartition(spec=broker_pb2.OFFSET_SPEC_MAX_TIMESTAMP),
    ],
)
async def test_a_time_in_a_damaged_batch_is_found(
    tmp_path: Path, question: broker_pb2.ListOffsetsPartition
) -> None:
    async with three_nodes(tmp_path, UNCACHED) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        for number in range(4):
            value = b"damaged" * 1000 if number == 3 else b"whole"
            sent = batch(value=value, timestamp_ms=number * 1_000)
            assert (await produce.produce(topic, sent)).error.code == 0
        rot(tmp_path / "node-1", b"damaged")
        question.topic_id, question.current_leader_epoch = topic.topic_id, -1
        asked = broker_pb2.ListOffsetsRequest(partitions=[question])
        (found,) = (await cluster.nodes[1].broker.ListOffsets(asked)).partitions
        assert (found.error.code, found.offset, found.timestamp_ms) == (0, 3, 3_000)


async def test_damage_on_every_replica_is_told_and_never_served(tmp_path: Path) -> None:
    async with three_nodes(tmp_path, UNCACHED) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2))
        await cluster.known()
        words = await fill(ProduceClient(cluster.nodes[1].channel), topic)
        for node_id in (1, 2):
            rot(tmp_path / f"node-{node_id}", words[3])
        fetch = FetchClient(cluster.nodes[1].channel)
        await fetch.open()
        await fetch.subscribe(1, topic, 3)
        push = await fetch.records()
        assert isinstance(push.error, CorruptMessageError)
        assert not len(push.records)


async def test_another_batch_is_not_taken_for_the_damaged_one(tmp_path: Path) -> None:
    async with three_nodes(tmp_path, UNCACHED) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2))
        await cluster.known()
        await fill(ProduceClient(cluster.nodes[1].channel), topic)
        log = cluster.replica(1, topic).log
        (other,) = await log.read(Offset(4), 1)
        with pytest.raises(InvalidRecordError):
            repair_batch(log, (3).to_bytes(8, "big") + other[8:])

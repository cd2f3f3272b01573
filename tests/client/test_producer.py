"""What a producer promises, against a cluster in memory over real gRPC."""

import asyncio
from typing import Any

import pytest

from odradek.client import (
    PartitionerError,
    serdes,
)
from tests.client.fake_node import FakeCluster
from tests.client.producing import numbers, producing


async def test_records_sent_one_by_one_take_turns_over_partitions(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", partitions=3)
    async with producing(cluster) as producer:
        acks = [await producer.send("t", b"%d" % number) for number in range(6)]
    assert [(ack.partition, ack.offset) for ack in acks] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (1, 1),
        (2, 1),
    ]
    assert topic.partitions[2].values() == [b"2", b"5"]


async def test_equal_keys_share_a_partition_and_keep_their_order(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", partitions=4)
    async with producing(cluster, key=serdes.string) as producer:
        await asyncio.gather(
            *(producer.send("t", b"%d" % number, key=f"k{number % 5}") for number in range(200))
        )
    for key in range(5):
        name = f"k{key}".encode()
        found = [
            [int(record.value or 0) for record in partition.records() if record.key == name]
            for partition in topic.partitions
        ]
        assert [values for values in found if values] == [list(range(key, 200, 5))]


async def test_a_record_arrives_whole(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        ack = await producer.send(
            "t", b"v", key=b"k", headers=[("a", b"1"), ("a", None)], timestamp_ms=1234
        )
    (record,) = topic.partitions[0].records()
    assert (record.key, record.value, record.timestamp) == (b"k", b"v", 1234)
    assert list(record.headers) == [("a", b"1"), ("a", None)]
    assert (ack.topic, ack.timestamp_ms, ack.timestamp.year) == ("t", 1234, 1970)


async def test_headers_may_be_a_dictionary_and_a_value_a_tombstone(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        await producer.send("t", None, key=b"k", headers={"unit": b"m"})
    (record,) = topic.partitions[0].records()
    assert (record.value, list(record.headers)) == (None, [("unit", b"m")])


async def test_send_many_fills_batches_and_tells_where_each_record_lies(
    cluster: FakeCluster,
) -> None:
    topic = cluster.create_topic("t", partitions=3)
    values = [b"%06d" % number for number in range(3000)]
    async with producing(cluster, batch_bytes=4096) as producer:
        acks = await producer.send_many("t", values)
    assert len(acks) == 3000
    logs = [partition.values() for partition in topic.partitions]
    assert [logs[ack.partition][ack.offset] for ack in acks] == values
    assert acks[-1] == acks[2999]
    assert acks[5:7] == [acks[5], acks[6]]
    with pytest.raises(IndexError):
        acks[3000]
    for log in logs:
        assert log == sorted(log)
    assert max(len(partition.batches) for partition in topic.partitions) < 40


async def test_send_many_with_keys_spreads_by_key(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", partitions=3)
    values = [b"%06d" % number for number in range(500)]
    async with producing(cluster, key=serdes.int64, batch_bytes=2048) as producer:
        acks = await producer.send_many("t", values, keys=[number % 7 for number in range(500)])
        with pytest.raises(ValueError, match="zip"):
            await producer.send_many("t", values, keys=[1])
    logs = [partition.values() for partition in topic.partitions]
    assert [logs[ack.partition][ack.offset] for ack in acks] == values
    assert sorted(value for log in logs for value in log) == values


async def test_small_records_of_many_partitions_travel_in_few_requests(
    cluster: FakeCluster,
) -> None:
    cluster.create_topic("t", partitions=50)
    async with producing(cluster) as producer:
        for number in range(500):
            await producer.enqueue("t", b"v", partition=number % 50)
        await producer.flush()
    assert len(cluster.nodes[1].requests) <= 5


async def test_records_gather_while_a_request_is_under_way(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster) as producer:
        await producer.send("t", b"first")
        node.answering.clear()
        waiting = [asyncio.create_task(producer.send("t", b"v")) for _ in range(100)]
        await node.has_requests(2)
        waiting += [asyncio.create_task(producer.send("t", b"v")) for _ in range(100)]
        await asyncio.sleep(0)
        node.answering.set()
        await asyncio.gather(*waiting)
    assert len(node.requests) <= 4


async def test_records_gather_while_many_batches_are_under_way(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other requests would be allowed at once, each with a batch of one record per partition."""
    monkeypatch.setattr("odradek.client.producing.node_sender._SPACING_S", 0.0)
    topic = cluster.create_topic("t", partitions=100)
    node = cluster.nodes[1]
    async with producing(cluster, linger_s=60.0, delivery_timeout_s=100.0) as producer:

        async def send_to_each() -> asyncio.Task[None]:
            for partition in range(100):
                await producer.enqueue("t", b"v", partition=partition)
            flushing = asyncio.create_task(producer.flush())
            for _ in range(5):  # the sender looks
                await asyncio.sleep(0)
            return flushing

        await (await send_to_each())
        node.answering.clear()
        waiting = [await send_to_each()]
        await node.has_requests(2)
        waiting += [await send_to_each() for _ in range(3)]
        node.answering.set()
        await asyncio.gather(*waiting)
    assert {len(partition.batches) for partition in topic.partitions} == {3}


async def test_linger_waits_for_company_and_flush_does_not(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster, linger_s=60.0, delivery_timeout_s=100.0) as producer:
        deliveries = [await producer.enqueue("t", b"v") for _ in range(10)]
        assert not any(delivery.done for delivery in deliveries)
        await producer.flush()
        assert all(delivery.done for delivery in deliveries)
    assert len(topic.partitions[0].batches) == 1


async def test_linger_ends_on_time_while_a_request_awaits_its_answer(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odradek.client.producing.node_sender._SUSPICION_S", 1000.0)
    cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster, linger_s=0.01) as producer:
        await producer.send("t", b"0")
        node.answering.clear()
        await producer.enqueue("t", b"1")
        await node.has_requests(2)
        await producer.enqueue("t", b"2")
        await node.has_requests(3)
        node.answering.set()


@pytest.mark.parametrize("codec", ["zstd", "lz4", "snappy", "gzip"])
async def test_compressed_batches_arrive_and_are_smaller(cluster: FakeCluster, codec: str) -> None:
    topic = cluster.create_topic("t", partitions=2)
    values = [b"the same words again and again %d" % (number % 10) for number in range(2000)]
    async with producing(cluster, compression=codec, batch_bytes=16384) as producer:
        await producer.send_many("t", values)
        await asyncio.gather(*(producer.send("t", b"x" * 500) for _ in range(50)))
    assert sorted(topic.values()) == sorted([*values, *[b"x" * 500] * 50])
    stored = sum(len(batch) for partition in topic.partitions for batch in partition.batches)
    assert stored < sum(map(len, values)) / 2


async def test_acks_leader_carries_no_producer_id(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster, acks="leader") as producer:
        await producer.send_many("t", [b"%d" % number for number in range(100)])
    assert numbers(topic.values()) == list(range(100))
    assert topic.partitions[0].producers == {}
    assert cluster.granted == []


async def test_a_partitioner_of_ones_own_decides_and_an_explicit_partition_wins(
    cluster: FakeCluster,
) -> None:
    cluster.create_topic("t", partitions=4)
    async with producing(cluster, partitioner=lambda topic, key, count: count - 1) as producer:
        assert (await producer.send("t", b"v", key=b"k")).partition == 3
        assert (await producer.send("t", b"v", key=b"k", partition=1)).partition == 1
        assert {ack.partition for ack in await producer.send_many("t", [b"v"] * 5)} == {3}


def _choose_by_weather(topic: str, key: bytes | None, count: int) -> int:
    raise LookupError("no forecast")


@pytest.mark.parametrize(
    ("partitioner", "name", "reason"),
    [
        (_choose_by_weather, "_choose_by_weather", "no forecast"),
        (lambda *_: "1", "lambda", "it returned str, not int"),
    ],
)
async def test_a_partitioner_that_fails_is_named_and_nothing_is_sent(
    cluster: FakeCluster, partitioner: Any, name: str, reason: str
) -> None:
    topic = cluster.create_topic("t", partitions=4)
    async with producing(cluster, partitioner=partitioner) as producer:
        for sending in (producer.send("t", b"v", key=b"k"), producer.send_many("t", [b"v"] * 3)):
            with pytest.raises(PartitionerError, match=reason) as caught:
                await sending
            assert caught.value.topic == "t"
            assert name in caught.value.partitioner
        await producer.flush()
    assert topic.values() == []

"""Back-pressure, cancellation, failures nobody awaited."""

import asyncio
import contextlib
from typing import Any

import pytest

from odradek.client import (
    BufferFullError,
    Client,
    DeliveryFailedError,
    DeliveryTimeoutError,
    Topic,
    serdes,
)
from odradek.client.cluster.image import TopicInfo
from odradek.protocol.errors import (
    RecordTooLargeError,
    UnknownTopicOrPartitionError,
)
from tests.client.fake_node import FakeCluster, Fault
from tests.client.producing import numbers, producing


async def test_a_full_buffer_makes_send_wait_its_turn(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster, buffer_bytes=8192, batch_bytes=2048) as producer:
        await producer.send("t", b"warm")
        node.answering.clear()
        order: list[int] = []

        async def enqueue(number: int) -> None:
            await producer.enqueue("t", b"%04d" % number + bytes(1000))
            order.append(number)

        tasks = [asyncio.create_task(enqueue(number)) for number in range(40)]
        await node.has_requests(2)
        assert 7 <= len(order) <= 9, "eight records of 1 KiB fit, and no more"
        node.answering.set()
        await asyncio.gather(*tasks)
        assert order == list(range(40)), "first come, first served"
        await producer.flush()
    assert len(topic.values()) == 41


async def test_a_full_buffer_gives_up_after_the_delivery_timeout(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    node = cluster.nodes[1]
    small: dict[str, Any] = {"buffer_bytes": 2048, "batch_bytes": 2048, "delivery_timeout_s": 0.3}
    async with (
        Client(cluster.bootstrap) as client,
        client.producer() as patient,
        client.producer(**small) as producer,
    ):
        await patient.send("t", b"warm")  # may take its time
        cluster.move_leader(cluster.topics["t"], 0, -1)
        await asyncio.sleep(0.05)
        first = await producer.enqueue("t", bytes(3000))
        with pytest.raises((BufferFullError, DeliveryTimeoutError)):
            await producer.send("t", bytes(3000))
        with pytest.raises(DeliveryTimeoutError):
            await first
        assert node.requests


async def test_those_refused_when_their_turn_comes_let_the_next_one_in(
    cluster: FakeCluster,
) -> None:
    topic = cluster.create_topic("t", config={"max.message.bytes": "2000"})
    node = cluster.nodes[1]
    async with producing(cluster, buffer_bytes=2048, batch_bytes=2048) as producer:
        await producer.send("t", b"warm")
        node.answering.clear()
        first = [await producer.enqueue("t", bytes(1500)) for _ in range(2)]
        refused = [asyncio.create_task(producer.send_many("t", [bytes(3000)])) for _ in range(9)]
        patient = asyncio.create_task(producer.send("t", b"patient"))
        await node.has_requests(2)
        node.answering.set()
        await asyncio.gather(*first)
        async with asyncio.timeout(5):
            await patient
        for each in refused:
            with pytest.raises(RecordTooLargeError):
                await each
    assert len(topic.values()) == 4


async def test_a_topic_by_many_handles_stays_known(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odradek.client.producing.appender._TARGETS_MAX", 3)
    topic = cluster.create_topic("t")
    async with producing(cluster, buffer_bytes=2048, batch_bytes=2048) as producer:
        sending = [
            producer.send(Topic("t", serdes.raw, serdes.raw), bytes(1000)) for _ in range(20)
        ]
        await asyncio.gather(*sending)
    assert len(topic.values()) == 20


async def test_first_sends_that_look_the_topic_up_at_once_all_go(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        metadata = producer._core._scope.metadata
        know = metadata.topic

        async def ask(name: str, *, timeout_s: float) -> TopicInfo:
            await asyncio.sleep(0)
            return await know(name, timeout_s=timeout_s)

        monkeypatch.setattr(metadata, "topic", ask)
        await asyncio.gather(*(producer.send_many("t", [bytes(1000)] * 3000) for _ in range(2)))
    assert len(topic.values()) == 6000


async def test_cancelling_one_sender_harms_no_other(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster) as producer:
        await producer.send("t", b"0")
        node.answering.clear()
        tasks = [asyncio.create_task(producer.send("t", b"%d" % number)) for number in range(1, 9)]
        await asyncio.sleep(0.05)
        tasks[2].cancel()
        await asyncio.sleep(0)
        assert tasks[2].cancelled()
        node.answering.set()
        acks = await asyncio.gather(*(task for task in tasks if task is not tasks[2]))
    assert len(acks) == 7
    assert numbers(topic.values()) == list(range(9))


async def test_a_failure_nobody_awaited_is_raised_by_flush_once(cluster: FakeCluster) -> None:
    cluster.create_topic("t", config={"max.message.bytes": "2000"})
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    async with producing(cluster) as producer:
        await producer.enqueue("t", b"v")
        with pytest.raises(DeliveryFailedError, match="refused") as caught:
            await producer.flush()
        assert caught.value.record_count == 1
        assert isinstance(caught.value.__cause__, RecordTooLargeError)
        await producer.flush()


async def test_a_failure_nobody_awaited_is_raised_on_exit(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    with pytest.raises(DeliveryFailedError):
        async with producing(cluster) as producer:
            await producer.enqueue("t", b"v")


async def test_the_block_s_own_error_is_not_hidden_by_failed_deliveries(
    cluster: FakeCluster,
) -> None:
    cluster.create_topic("t")
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))

    async def work() -> None:
        async with producing(cluster) as producer:
            await producer.enqueue("t", b"v")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()


async def test_an_awaited_failure_is_not_raised_again(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    async with producing(cluster) as producer:
        with pytest.raises(RecordTooLargeError):
            await (await producer.enqueue("t", b"v"))
        await producer.flush()


async def test_leaving_the_block_delivers_everything(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", partitions=3)
    async with producing(cluster, linger_s=30.0) as producer:
        for number in range(1000):
            await producer.enqueue("t", b"%d" % number)
    assert sorted(numbers(topic.values())) == list(range(1000))


async def test_a_deleted_topic_fails_what_waits_for_it(cluster: FakeCluster) -> None:
    cluster.create_topic("t", leader=-1)
    cluster.create_topic("tt")
    async with producing(cluster) as producer:
        sending = asyncio.create_task(producer.send("t", b"v"))
        await asyncio.sleep(0.05)
        cluster.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await sending
        with pytest.raises(UnknownTopicOrPartitionError, match="did you mean tt"):
            await producer.send("t", b"v")


async def test_a_topic_made_again_takes_records_again(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    async with producing(cluster) as producer:
        await producer.send("t", b"old")
        cluster.delete_topic("t")
        topic = cluster.create_topic("t")
        while not topic.values():  # until the news of both has come
            with contextlib.suppress(UnknownTopicOrPartitionError):
                await producer.send("t", b"new")
            await asyncio.sleep(0)
    assert topic.values() == [b"new"]


async def test_a_topic_made_again_with_fewer_partitions_takes_turns_on_these_alone(
    cluster: FakeCluster,
) -> None:
    before = cluster.create_topic("t", partitions=3)
    async with producing(cluster) as producer:
        await producer.send("t", b"old")
        cluster.move_leader(before, 2, -1)
        waiting = await producer.enqueue("t", b"waits for a leader", partition=2)
        topic = cluster.create_topic("t", partitions=1)  # nobody hears of the deletion
        with pytest.raises(UnknownTopicOrPartitionError, match="made again with fewer partitions"):
            await waiting
        for number in range(3):
            await producer.send("t", b"%d" % number)
    assert topic.values() == [b"0", b"1", b"2"]


async def test_new_partitions_are_used(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", partitions=1)
    async with producing(cluster) as producer:
        await producer.send("t", b"v")
        cluster.add_partition(topic)
        seen: set[int] = set()
        while seen != {0, 1}:
            seen.add((await producer.send("t", b"v")).partition)

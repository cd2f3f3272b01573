"""The producer against a cluster in memory, over real gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from odradek.client import (
    BufferFullError,
    Client,
    ClientClosedError,
    DeliveryFailedError,
    DeliveryTimeoutError,
    Producer,
    SerializationError,
    serdes,
)
from odradek.protocol.errors import (
    InvalidTopicError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceNumberError,
    RecordTooLargeError,
    RequestTimedOutError,
    StorageFullError,
    ThrottledError,
    UnknownTopicOrPartitionError,
)
from tests.client.fake_node import Fault, FakeCluster

DEADLINE_S = 20.0


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    running = FakeCluster()
    await running.start_node()
    yield running
    await running.stop()


@contextlib.asynccontextmanager
async def producing(cluster: FakeCluster, **options) -> AsyncIterator[Producer[bytes, bytes]]:
    async with (
        asyncio.timeout(DEADLINE_S),
        Client(cluster.bootstrap) as client,
        client.producer(**options) as producer,
    ):
        yield producer


def numbers(values) -> list[int]:
    return [int(value) for value in values]


# ---------------------------------------------------------------------- what it promises


async def test_records_sent_one_by_one_take_turns_over_partitions(cluster):
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


async def test_equal_keys_share_a_partition_and_keep_their_order(cluster):
    topic = cluster.create_topic("t", partitions=4)
    async with producing(cluster, key=serdes.string) as producer:
        await asyncio.gather(
            *(producer.send("t", b"%d" % number, key=f"k{number % 5}") for number in range(200))
        )
    for key in range(5):
        name = f"k{key}".encode()
        found = [
            [int(record.value) for record in partition.records() if record.key == name]
            for partition in topic.partitions
        ]
        assert [values for values in found if values] == [list(range(key, 200, 5))]


async def test_a_record_arrives_whole(cluster):
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        ack = await producer.send(
            "t", b"v", key=b"k", headers=[("a", b"1"), ("a", None)], timestamp_ms=1234
        )
    (record,) = topic.partitions[0].records()
    assert (record.key, record.value, record.timestamp) == (b"k", b"v", 1234)
    assert list(record.headers) == [("a", b"1"), ("a", None)]
    assert (ack.topic, ack.timestamp_ms, ack.timestamp.year) == ("t", 1234, 1970)


async def test_headers_may_be_a_dictionary_and_a_value_a_tombstone(cluster):
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        await producer.send("t", None, key=b"k", headers={"unit": b"m"})
    (record,) = topic.partitions[0].records()
    assert (record.value, list(record.headers)) == (None, [("unit", b"m")])


async def test_send_many_fills_batches_and_tells_where_each_record_lies(cluster):
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


async def test_send_many_with_keys_spreads_by_key(cluster):
    topic = cluster.create_topic("t", partitions=3)
    values = [b"%06d" % number for number in range(500)]
    async with producing(cluster, key=serdes.int64, batch_bytes=2048) as producer:
        acks = await producer.send_many("t", values, keys=[number % 7 for number in range(500)])
        with pytest.raises(ValueError, match="zip"):
            await producer.send_many("t", values, keys=[1])
    logs = [partition.values() for partition in topic.partitions]
    assert [logs[ack.partition][ack.offset] for ack in acks] == values
    assert sorted(value for log in logs for value in log) == values


async def test_small_records_of_many_partitions_travel_in_few_requests(cluster):
    cluster.create_topic("t", partitions=50)
    async with producing(cluster) as producer:
        for number in range(500):
            await producer.enqueue("t", b"v", partition=number % 50)
        await producer.flush()
    assert len(cluster.nodes[1].requests) <= 5


async def test_records_gather_while_a_request_is_under_way(cluster):
    cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster) as producer:
        await producer.send("t", b"first")
        node.answering.clear()
        waiting = [asyncio.create_task(producer.send("t", b"v")) for _ in range(100)]
        while len(node.requests) < 2:
            await asyncio.sleep(0)
        waiting += [asyncio.create_task(producer.send("t", b"v")) for _ in range(100)]
        await asyncio.sleep(0)
        node.answering.set()
        await asyncio.gather(*waiting)
    assert len(node.requests) <= 4


async def test_linger_waits_for_company_and_flush_does_not(cluster):
    topic = cluster.create_topic("t")
    async with producing(cluster, linger_s=60.0, delivery_timeout_s=100.0) as producer:
        deliveries = [await producer.enqueue("t", b"v") for _ in range(10)]
        assert not any(delivery.done for delivery in deliveries)
        await producer.flush()
        assert all(delivery.done for delivery in deliveries)
    assert len(topic.partitions[0].batches) == 1


@pytest.mark.parametrize("codec", ["zstd", "lz4", "snappy", "gzip"])
async def test_compressed_batches_arrive_and_are_smaller(cluster, codec):
    topic = cluster.create_topic("t", partitions=2)
    values = [b"the same words again and again %d" % (number % 10) for number in range(2000)]
    async with producing(cluster, compression=codec, batch_bytes=16384) as producer:
        await producer.send_many("t", values)
        await asyncio.gather(*(producer.send("t", b"x" * 500) for _ in range(50)))
    assert sorted(topic.values()) == sorted([*values, *[b"x" * 500] * 50])
    stored = sum(len(batch) for partition in topic.partitions for batch in partition.batches)
    assert stored < sum(map(len, values)) / 2


async def test_acks_leader_carries_no_producer_id(cluster):
    topic = cluster.create_topic("t")
    async with producing(cluster, acks="leader") as producer:
        await producer.send_many("t", [b"%d" % number for number in range(100)])
    assert numbers(topic.values()) == list(range(100))
    assert topic.partitions[0].producers == {}
    assert cluster.granted == []


async def test_a_partitioner_of_ones_own_decides_and_an_explicit_partition_wins(cluster):
    cluster.create_topic("t", partitions=4)
    async with producing(cluster, partitioner=lambda topic, key, count: count - 1) as producer:
        assert (await producer.send("t", b"v", key=b"k")).partition == 3
        assert (await producer.send("t", b"v", key=b"k", partition=1)).partition == 1
        assert {ack.partition for ack in await producer.send_many("t", [b"v"] * 5)} == {3}


# ---------------------------------------------------------------------- retries


@pytest.mark.parametrize(
    "fault",
    [
        Fault(),
        Fault(appended=True),
        Fault(ThrottledError()),
        Fault(NotEnoughReplicasError()),
        Fault(StorageFullError()),
        Fault(RequestTimedOutError(), appended=True),
    ],
    ids=lambda fault: f"{type(fault.error).__name__}-{fault.appended}",
)
async def test_a_retry_neither_duplicates_nor_reorders(cluster, fault):
    topic = cluster.create_topic("t", partitions=2)
    node = cluster.nodes[1]
    async with producing(cluster, batch_bytes=1024, request_bytes=4096) as producer:
        await producer.send_many("t", [b"000"] * 2)
        node.faults.extend([None, fault, None, None, fault, fault, None, fault])
        await asyncio.gather(
            *(producer.send("t", b"%d" % number, partition=number % 2) for number in range(1, 2001))
        )
    for index, partition in enumerate(topic.partitions):
        sent = [number for number in range(1, 2001) if number % 2 == index]
        assert [number for number in numbers(partition.values()) if number] == sent


async def test_a_moved_leader_is_found_by_the_hint_in_the_refusal(cluster):
    topic = cluster.create_topic("t")
    await cluster.start_node()
    async with producing(cluster) as producer:
        await producer.send("t", b"1")
        cluster.move_leader(topic, 0, 2, announce=False)
        ack = await producer.send("t", b"2")
    assert (ack.offset, topic.values()) == (1, [b"1", b"2"])
    assert len(cluster.nodes[2].requests) == 1


async def test_records_follow_the_leader_when_its_node_dies(cluster):
    topic = cluster.create_topic("t", partitions=2)
    await cluster.start_node()
    async with producing(cluster) as producer:
        await producer.send("t", b"0", partition=0)
        sending = [
            asyncio.create_task(producer.send("t", b"%d" % number, partition=number % 2))
            for number in range(1, 300)
        ]
        await asyncio.sleep(0)
        await cluster.nodes[1].stop()
        for index in range(2):
            cluster.move_leader(topic, index, 2)
        await asyncio.gather(*sending)
    assert sorted(numbers(topic.values())) == list(range(300))
    for partition in topic.partitions:
        assert numbers(partition.values()) == sorted(numbers(partition.values()))


async def test_a_silent_leader_does_not_hold_its_records_once_another_leads(cluster):
    """A paused process breaks no connection; the news comes from another node."""
    topic = cluster.create_topic("t")
    second = await cluster.start_node()
    async with (
        asyncio.timeout(DEADLINE_S),
        Client(second.address) as client,
        client.producer() as producer,
    ):
        await producer.send("t", b"1")
        cluster.nodes[1].reading.clear()
        sending = asyncio.create_task(producer.send("t", b"2"))
        await asyncio.sleep(0.05)
        cluster.move_leader(topic, 0, 2)
        assert (await sending).offset == 1
        cluster.nodes[1].reading.set()
    assert topic.values() == [b"1", b"2"]


async def test_a_broken_sequence_gets_a_new_epoch(cluster):
    topic = cluster.create_topic("t", partitions=2)
    async with producing(cluster) as producer:
        await asyncio.gather(*(producer.send("t", b"0", partition=index) for index in range(2)))
        cluster.nodes[1].faults.append(Fault(OutOfOrderSequenceNumberError()))
        await producer.send("t", b"1", partition=0)
        await producer.send("t", b"1", partition=1)
    assert cluster.granted == [(1000, 0), (1000, 1)]
    assert [partition.values() for partition in topic.partitions] == [[b"0", b"1"]] * 2


async def test_the_leader_unknown_for_a_while(cluster):
    topic = cluster.create_topic("t", leader=-1)
    async with producing(cluster) as producer:
        sending = asyncio.create_task(producer.send("t", b"v"))
        await asyncio.sleep(0.05)
        assert not sending.done()
        cluster.move_leader(topic, 0, 1)
        assert (await sending).offset == 0


async def test_not_leader_without_end_is_given_up_after_the_delivery_timeout(cluster):
    cluster.create_topic("t")
    cluster.nodes[1].judge = lambda _: Fault(NotLeaderOrFollowerError("not here"))
    async with producing(cluster, delivery_timeout_s=0.3) as producer:
        with pytest.raises(DeliveryTimeoutError, match="not here") as caught:
            await producer.send("t", b"v")
    assert (caught.value.topic, caught.value.partition) == ("t", 0)
    assert caught.value.maybe_appended


async def test_the_delivery_timeout_of_a_record_never_sent_says_so(cluster):
    cluster.create_topic("t", leader=-1)
    async with producing(cluster, delivery_timeout_s=0.2) as producer:
        with pytest.raises(DeliveryTimeoutError, match="nobody leads") as caught:
            await producer.send("t", b"v")
    assert not caught.value.maybe_appended


async def test_a_node_that_never_answers_is_given_up(cluster):
    cluster.create_topic("t")
    cluster.nodes[1].answering.clear()
    async with producing(cluster, delivery_timeout_s=0.3) as producer:
        with pytest.raises(DeliveryTimeoutError) as caught:
            await producer.send("t", b"v")
        cluster.nodes[1].answering.set()
    assert caught.value.maybe_appended


# ---------------------------------------------------------------------- back-pressure and failures


async def test_a_full_buffer_makes_send_wait_its_turn(cluster):
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
        while len(node.requests) < 2:
            await asyncio.sleep(0.01)
        assert 7 <= len(order) <= 9, "eight records of 1 KiB fit, and no more"
        node.answering.set()
        await asyncio.gather(*tasks)
        assert order == list(range(40)), "first come, first served"
        await producer.flush()
    assert len(topic.values()) == 41


async def test_a_full_buffer_gives_up_after_the_delivery_timeout(cluster):
    cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(
        cluster, buffer_bytes=2048, batch_bytes=2048, delivery_timeout_s=0.3
    ) as producer:
        await producer.send("t", b"warm")
        cluster.move_leader(cluster.topics["t"], 0, -1)
        await asyncio.sleep(0.05)
        first = await producer.enqueue("t", bytes(3000))
        with pytest.raises((BufferFullError, DeliveryTimeoutError)):
            await producer.send("t", bytes(3000))
        with pytest.raises(DeliveryTimeoutError):
            await first
        assert node.requests


async def test_cancelling_one_sender_harms_no_other(cluster):
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


async def test_a_failure_nobody_awaited_is_raised_by_flush_once(cluster):
    cluster.create_topic("t", config={"max.message.bytes": "2000"})
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    async with producing(cluster) as producer:
        await producer.enqueue("t", b"v")
        with pytest.raises(DeliveryFailedError, match="refused") as caught:
            await producer.flush()
        assert caught.value.record_count == 1
        assert isinstance(caught.value.__cause__, RecordTooLargeError)
        await producer.flush()


async def test_a_failure_nobody_awaited_is_raised_on_exit(cluster):
    cluster.create_topic("t")
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    with pytest.raises(DeliveryFailedError):
        async with producing(cluster) as producer:
            await producer.enqueue("t", b"v")


async def test_the_block_s_own_error_is_not_hidden_by_failed_deliveries(cluster):
    cluster.create_topic("t")
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    with pytest.raises(ZeroDivisionError):
        async with producing(cluster) as producer:
            await producer.enqueue("t", b"v")
            raise ZeroDivisionError


async def test_an_awaited_failure_is_not_raised_again(cluster):
    cluster.create_topic("t")
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    async with producing(cluster) as producer:
        with pytest.raises(RecordTooLargeError):
            await (await producer.enqueue("t", b"v"))
        await producer.flush()


async def test_leaving_the_block_delivers_everything(cluster):
    topic = cluster.create_topic("t", partitions=3)
    async with producing(cluster, linger_s=30.0) as producer:
        for number in range(1000):
            await producer.enqueue("t", b"%d" % number)
    assert sorted(numbers(topic.values())) == list(range(1000))


async def test_a_deleted_topic_fails_what_waits_for_it(cluster):
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


async def test_a_topic_made_again_takes_records_again(cluster):
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


async def test_new_partitions_are_used(cluster):
    topic = cluster.create_topic("t", partitions=1)
    async with producing(cluster) as producer:
        await producer.send("t", b"v")
        cluster.add_partition(topic)
        seen = set()
        while seen != {0, 1}:
            seen.add((await producer.send("t", b"v")).partition)


# ---------------------------------------------------------------------- bad input


async def test_an_unknown_topic_is_an_error_at_once_with_near_names(cluster):
    cluster.create_topic("positions")
    async with producing(cluster) as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="positions") as caught:
            await producer.send("postions", b"v")
    assert caught.value.suggestions == ("positions",)
    assert caught.value.value == "postions"


async def test_an_illegal_topic_name_is_an_error(cluster):
    async with producing(cluster) as producer:
        with pytest.raises(InvalidTopicError):
            await producer.send("no spaces", b"v")


async def test_an_unknown_partition_is_an_error(cluster):
    cluster.create_topic("t", partitions=3)
    async with producing(cluster) as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="0 to 2, not 3"):
            await producer.send("t", b"v", partition=3)


@pytest.mark.parametrize("value", ["text", 7, object()])
async def test_a_value_that_does_not_serialize_is_named_and_nothing_is_sent(cluster, value):
    topic = cluster.create_topic("orders")
    async with producing(cluster) as producer:
        with pytest.raises(SerializationError) as caught:
            await producer.send("orders", value, key=b"k-1")
        with pytest.raises(SerializationError):
            await producer.send_many("orders", [b"fine", value])
    assert topic.values() == []
    assert (caught.value.topic, caught.value.key, caught.value.serde) == ("orders", b"k-1", "bytes")
    for named in ("orders", "k-1", "bytes"):
        assert named in str(caught.value)


async def test_a_header_that_is_not_bytes_is_named(cluster):
    cluster.create_topic("t")
    async with producing(cluster) as producer:
        with pytest.raises(SerializationError, match="'unit'"):
            await producer.send("t", b"v", headers={"unit": "m"})


async def test_a_record_too_large_names_both_sizes_and_harms_no_other(cluster):
    topic = cluster.create_topic("t", config={"max.message.bytes": "2000"})
    async with producing(cluster) as producer:
        good = await producer.enqueue("t", b"good")
        with pytest.raises(RecordTooLargeError) as caught:
            await producer.send("t", bytes(3000))
        await good
        await producer.send("t", b"after")
    assert int(caught.value.value) > 3000
    assert caught.value.limit == "2000"
    assert caught.value.value in str(caught.value)
    assert topic.values() == [b"good", b"after"]


async def test_a_record_larger_than_a_batch_travels_alone(cluster):
    topic = cluster.create_topic("t")
    async with producing(cluster, batch_bytes=1024) as producer:
        await producer.send_many("t", [b"a", bytes(100_000), b"b"])
    assert sorted(map(len, topic.values())) == [1, 1, 100_000]


async def test_a_closed_producer_refuses(cluster):
    cluster.create_topic("t")
    async with producing(cluster) as producer:
        await producer.send("t", b"v")
        await producer.close()
        await producer.close()
        with pytest.raises(ClientClosedError):
            await producer.send("t", b"v")


async def test_a_producer_that_was_not_entered_refuses(cluster):
    cluster.create_topic("t")
    async with Client(cluster.bootstrap) as client:
        with pytest.raises(ClientClosedError, match="async with"):
            await client.producer().send("t", b"v")

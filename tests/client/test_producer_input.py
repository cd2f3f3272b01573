"""What bad input gets from a producer."""

from typing import Any

import pytest

from odradek.client import (
    Client,
    ClientClosedError,
    SerializationError,
    serdes,
)
from odradek.protocol.errors import (
    InvalidTopicError,
    RecordTooLargeError,
    UnknownTopicOrPartitionError,
)
from tests.client.fake_node import FakeCluster
from tests.client.producing import producing


async def test_an_unknown_topic_is_an_error_at_once_with_near_names(cluster: FakeCluster) -> None:
    cluster.create_topic("positions")
    async with producing(cluster) as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="positions") as caught:
            await producer.send("postions", b"v")
    assert caught.value.suggestions == ("positions",)
    assert caught.value.value == "postions"


async def test_an_illegal_topic_name_is_an_error(cluster: FakeCluster) -> None:
    async with producing(cluster) as producer:
        with pytest.raises(InvalidTopicError):
            await producer.send("no spaces", b"v")


async def test_an_unknown_partition_is_an_error(cluster: FakeCluster) -> None:
    cluster.create_topic("t", partitions=3)
    async with producing(cluster) as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="0 to 2, not 3"):
            await producer.send("t", b"v", partition=3)
        with pytest.raises(UnknownTopicOrPartitionError, match="0 to 2, not '1'"):
            await producer.send("t", b"v", partition="1")  # type: ignore[call-overload]


@pytest.mark.parametrize("value", ["text", 7, object()])
async def test_a_value_that_does_not_serialize_is_named_and_nothing_is_sent(
    cluster: FakeCluster, value: Any
) -> None:
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


async def test_a_header_that_is_not_bytes_is_named(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    async with producing(cluster) as producer:
        with pytest.raises(SerializationError, match="'unit'"):
            await producer.send("t", b"v", headers={"unit": "m"})  # type: ignore[dict-item]


@pytest.mark.parametrize("before", [[], [b"a"]], ids=["first", "behind another"])
@pytest.mark.parametrize(
    "headers", [{"\udcff": b"x"}, [("a", b"x", 1)], [("a",)], ["abc"], [None], 5]
)
async def test_bad_headers_are_refused_and_harm_no_other_record(
    cluster: FakeCluster, headers: Any, before: list[bytes]
) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster, linger_s=60.0) as producer:
        for value in before:
            await producer.enqueue("t", value)
        for key in (None, b"k"):
            with pytest.raises(SerializationError, match="headers"):
                await producer.enqueue("t", b"bad", key=key, headers=headers)
            with pytest.raises(SerializationError, match="headers"):
                await producer.send_many("t", [b"bad"], headers=headers)
        await producer.enqueue("t", b"good", headers={"unit": b"m"})
    assert topic.values() == [*before, b"good"]


async def test_a_serde_that_says_nothing_is_told_by_the_name_of_its_error(
    cluster: FakeCluster,
) -> None:
    def refuse(value: str) -> bytes:
        raise LookupError

    cluster.create_topic("t")
    serde = serdes.FunctionSerde("codes", refuse, str)
    async with producing(cluster, value=serde) as producer:
        with pytest.raises(SerializationError, match="codes: LookupError"):
            await producer.send("t", "v")


async def test_a_record_too_large_names_both_sizes_and_harms_no_other(cluster: FakeCluster) -> None:
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


async def test_a_record_larger_than_a_batch_travels_alone(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster, batch_bytes=1024) as producer:
        await producer.send_many("t", [b"a", bytes(100_000), b"b"])
    assert sorted(map(len, topic.values())) == [1, 1, 100_000]


async def test_a_closed_producer_refuses(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    async with producing(cluster) as producer:
        await producer.send("t", b"v")
        await producer.close()
        await producer.close()
        with pytest.raises(ClientClosedError):
            await producer.send("t", b"v")


async def test_a_producer_that_was_not_entered_refuses(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    async with Client(cluster.bootstrap) as client:
        with pytest.raises(ClientClosedError, match="async with"):
            await client.producer().send("t", b"v")


async def test_a_topic_with_a_setting_of_a_newer_cluster_takes_records(
    cluster: FakeCluster,
) -> None:
    topic = cluster.create_topic("t", config={"tier.storage": "cold"})
    async with producing(cluster) as producer:
        await producer.send("t", b"v")
    assert topic.values() == [b"v"]


async def test_one_text_is_not_many_values(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        for text in ("text", b"bytes"):
            with pytest.raises(TypeError, match="many values, not one"):
                await producer.send_many("t", text)
    assert topic.values() == []

"""Opening, closing and misusing a client."""

import asyncio
import math
import re
import threading
from typing import Any, assert_type

import msgspec
import pytest

import odradek.client
from odradek.client import (
    Acks,
    Client,
    ClientClosedError,
    Compression,
    Consumer,
    InvalidOptionsError,
    NodesUnreachableError,
    Producer,
    Record,
    Topic,
    WrongEventLoopError,
    serdes,
)
from odradek.protocol.errors import InvalidTopicError
from tests.client.fake_node import FakeCluster


def test_construction_does_no_io_and_needs_no_loop() -> None:
    client = Client("nowhere.invalid:1,localhost:2", client_id="c")
    assert repr(client) == "Client('nowhere.invalid:1,localhost:2')"


async def test_entering_connects(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client:
        assert client.cluster_id == cluster.cluster_id


async def test_no_node_answers() -> None:
    client = Client("127.0.0.1:1", request_timeout_s=0.2, operation_timeout_s=0.3)
    with pytest.raises(NodesUnreachableError, match=r"127\.0\.0\.1:1"):
        await client.__aenter__()


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        ({"bootstrap": ""}, ["at least one"]),
        ({"bootstrap": "a:b,host:99999"}, ["'a:b' is not host:port", "'host:99999'"]),
        ({"bootstrap": "a b,http://a:1,::1"}, ["'a b:7070'", "'http://a:1'", "'::1'"]),
        (
            {"bootstrap": "a", "client_id": "a\ud800", "rack": "x" * 256},
            ["client_id 'a\\ud800' is illegal", "rack 'xxx"],
        ),
        (
            {"bootstrap": "a", "request_timeout_s": math.inf, "operation_timeout_s": math.inf},
            ["request_timeout_s inf must be positive and at most 86400"],
        ),
        (
            {"bootstrap": "a", "request_timeout_s": 0, "operation_timeout_s": -1},
            ["request_timeout_s", "operation_timeout_s"],
        ),
    ],
)
def test_wrong_options_are_reported_all_together(
    arguments: dict[str, Any], reasons: list[str]
) -> None:
    with pytest.raises(InvalidOptionsError) as caught:
        Client(**arguments)
    assert len(caught.value.reasons) == len(reasons)
    for reason in reasons:
        assert reason in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "node_1.lan", "10.0.0.7", "[::1]", "[fe80::1%eth0]"])
def test_hosts_are_names_and_addresses(host: str) -> None:
    Client(f"{host}:7070")


def test_wrong_producer_settings_are_reported_all_together() -> None:
    client = Client("localhost")
    with pytest.raises(InvalidOptionsError) as caught:
        client.producer(
            linger_s=-1, batch_bytes=1 << 30, buffer_bytes=10, in_flight=9, retry_delay_s=0
        )
    assert len(caught.value.reasons) == 5
    with pytest.raises(InvalidOptionsError, match="did you mean linger_s"):
        client.producer(linger=1)  # type: ignore[call-overload]
    with pytest.raises(InvalidOptionsError, match="none, gzip, snappy, lz4, zstd"):
        client.producer(compression="zip")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_wait_s": math.inf}, "max_wait_s inf must be 0 to 86400"),
        ({"fetch_bytes": 1 << 32}, "fetch_bytes 4294967296, which is at most 4294967295"),
        ({"min_bytes": 1 << 32}, "min_bytes 4294967296 must be 0 to 4294967295"),
        ({"rebalance_timeout_s": 1e10, "group": "g"}, "rebalance_timeout_s"),
        ({"instance_id": "a\n", "group": "g"}, "instance_id 'a\\n' is illegal"),
    ],
)
def test_what_does_not_fit_into_a_request_is_refused_at_once(
    settings: dict[str, Any], reason: str
) -> None:
    client = Client("localhost")
    with pytest.raises(InvalidOptionsError, match=re.escape(reason)):
        client.consumer("t", **settings)
    with pytest.raises(InvalidOptionsError, match="request_timeout_s"):
        client.producer(request_timeout_s=math.inf)


def test_settings_may_be_words_or_enums() -> None:
    client = Client("localhost")
    client.producer(compression="zstd", acks="leader")
    client.producer(compression=Compression.ZSTD, acks=Acks.ALL)


async def test_a_closed_client_refuses(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    client = Client(cluster.bootstrap)
    with pytest.raises(ClientClosedError, match="async with"):
        await client.admin.list_topics()
    async with client:
        pass
    await client.close()
    with pytest.raises(ClientClosedError, match="closed"):
        await client.admin.list_topics()
    with pytest.raises(ClientClosedError, match="closed"):
        async with client.producer():
            pass
    with pytest.raises(ClientClosedError, match="once"):
        await client.__aenter__()


async def test_a_client_left_open_is_a_resource_warning(cluster: FakeCluster) -> None:
    client = Client(cluster.bootstrap)
    await client.__aenter__()
    with pytest.warns(ResourceWarning, match="unclosed Client"):
        client.__del__()
    await client.close()


async def test_another_loop_is_told(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    caught: list[BaseException] = []
    async with Client(cluster.bootstrap) as client, client.producer() as producer:
        await producer.send("t", b"v")

        def elsewhere() -> None:
            for use in (lambda: producer.send("t", b"v"), client.admin.list_topics):
                try:
                    asyncio.run(use())
                except WrongEventLoopError as error:
                    caught.append(error)

        await asyncio.to_thread(elsewhere)
        await producer.send("t", b"v")
    assert len(caught) == 2
    assert "one client per loop" in str(caught[0])


async def test_a_thread_without_a_loop_is_told(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client, client.consumer() as consumer:
        with pytest.raises(WrongEventLoopError):
            await asyncio.to_thread(consumer.pause)


async def test_a_client_may_be_closed_by_another_task_than_opened_it(cluster: FakeCluster) -> None:
    """Frameworks open in one task and close in another."""
    client = Client(cluster.bootstrap)
    await asyncio.create_task(client.__aenter__())
    await asyncio.create_task(client.close())
    assert threading.active_count() > 0


async def test_two_clients_do_not_disturb_each_other(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with Client(cluster.bootstrap) as one, Client(cluster.bootstrap) as other:
        async with one.producer() as first, other.producer() as second:
            await asyncio.gather(first.send("t", b"1"), second.send("t", b"2"))
        await one.close()
        assert [each.name for each in await other.admin.list_topics()] == ["t"]
    assert sorted(topic.values()) == [b"1", b"2"]


def test_an_illegal_topic_handle_is_refused() -> None:
    with pytest.raises(InvalidTopicError):
        Client("localhost").topic("a b", key=serdes.raw, value=serdes.raw)


class Position(msgspec.Struct):
    """A value type."""

    x: float


async def check_types(client: Client) -> None:
    """Read by mypy, never run: serdes give producers, consumers and topics their types."""
    positions = client.topic("p", key=serdes.string, value=serdes.json_of(Position))
    assert_type(positions, Topic[str, Position])
    assert_type(client.producer(), Producer[bytes, bytes])
    assert_type(client.producer(key=serdes.int64), Producer[int, bytes])
    assert_type(client.producer(value=serdes.string, linger_s=1), Producer[bytes, str])
    producer = client.producer(key=serdes.string, value=serdes.json_of(Position))
    assert_type(producer, Producer[str, Position])
    await producer.send("p", Position(1.0), key="k")
    await producer.send("p", 1.0)  # type: ignore[call-overload]
    await producer.send("p", Position(1.0), key=7)  # type: ignore[call-overload]
    await client.producer().send(positions, Position(1.0), key="k")
    await client.producer().send(positions, b"bytes")  # type: ignore[misc]
    consumer = client.consumer(positions, group="g")
    assert_type(consumer, Consumer[str, Position])
    async for record in consumer:
        assert_type(record, Record[str, Position])
        assert_type(record.key, str | None)
        assert_type(record.value, Position)


def test_the_public_names_are_exactly_these() -> None:
    """Frozen: a name added or removed here is a decision, and a line in the changelog."""
    assert odradek.client.__all__ == sorted(odradek.client.__all__)
    assert " ".join(odradek.client.__all__) == (
        "Acknowledgements Acks Admin Batch BrokerError BufferFullError Client ClientClosedError"
        " ClusterDescription CommittedOffset Compression ConfigEntry Consumer ConsumerBusyError"
        " ConsumerOptions ControllerDescription Delivery DeliveryAbandonedError DeliveryFailedError"
        " DeliveryGuarantee DeliveryTimeoutError DeserializationError ForkedProcessError"
        " GroupDescription GroupMemberDescription GroupMemberState GroupState GroupSummary Header"
        " Headers InvalidOptionsError Isolation Lag LogTruncatedError NewTopic"
        " NoCommittedOffsetError NodeDescription NodesUnreachableError NotAssignedError"
        " OdradekError OrderedBy PartitionDescription PartitionerError Producer ProducerOptions"
        " Reassignment Record RecordMetadata Serde SerializationError TlsOptions Topic"
        " TopicDescription TopicPartition TopicSummary WrongEventLoopError serdes"
    )


async def test_a_cluster_of_the_same_address_made_anew_is_followed(cluster: FakeCluster) -> None:
    """A developer restarts a throw-away cluster: its metadata versions begin again."""
    async with Client(cluster.bootstrap) as client:
        for _ in range(5):
            cluster.create_topic(f"t{_}")
        await client.admin.create_topic("seen")
        fresh = FakeCluster()
        fresh.nodes = cluster.nodes
        node = cluster.nodes[1]
        node.cluster = fresh
        for stream in list(cluster._watchers):
            stream.put_nowait(None)
        made = fresh.create_topic("new")
        async with asyncio.timeout(20), client.producer() as producer:
            while not made.values():
                try:
                    await producer.send("new", b"v")
                except odradek.client.BrokerError:
                    await client._scope.metadata.newer_than(client._scope.metadata.image)
        assert client.cluster_id == fresh.cluster_id


async def test_closing_ends_calls_of_other_tasks_with_an_error(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client:
        cluster.nodes[1].reading.clear()  # nobody answers
        asking = asyncio.ensure_future(client.admin.list_topics())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosedError):
            await asking


async def test_a_channel_closed_under_the_watch_is_opened_again(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client:
        await client._scope.connections.retain(())
        cluster.create_topic("t")
        await client._scope.metadata.at_least(cluster.version, timeout_s=10.0)

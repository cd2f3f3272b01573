"""Lost answers, refusals, moved and silent leaders: once and in order, or an honest error."""

import asyncio
import socket
import threading

import pytest

from odradek.client import (
    Client,
    DeliveryTimeoutError,
)
from odradek.protocol.errors import (
    InvalidProducerEpochError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OutOfOrderSequenceNumberError,
    RequestTimedOutError,
    StorageFullError,
    ThrottledError,
    UnknownServerError,
)
from odradek.protocol.record_batch import Codec, compress
from odradek.v1 import broker_pb2
from tests.client.fake_node import FakeCluster, Fault
from tests.client.producing import DEADLINE_S, numbers, producing


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
async def test_a_retry_neither_duplicates_nor_reorders(cluster: FakeCluster, fault: Fault) -> None:
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


@pytest.mark.parametrize("results", [0, 2])
async def test_an_answer_that_does_not_fit_loses_its_request_with_the_stream(
    cluster: FakeCluster, results: int
) -> None:
    """Else its batches await an answer for ever, and nothing more of their partition is sent."""
    topic = cluster.create_topic("t")
    node = cluster.nodes[1]
    is_wrong = True

    def distort(response: broker_pb2.ProduceResponse) -> None:
        if is_wrong:
            one = response.partitions.pop()
            response.partitions.extend([one] * results)

    node.distort = distort
    async with producing(cluster) as producer:
        with pytest.raises(UnknownServerError, match=f"{results} results"):
            await producer.send("t", b"1")
        is_wrong = False
        assert (await producer.send("t", b"2")).offset == 1
    assert topic.values() == [b"1", b"2"]


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_a_stream_that_breaks_under_the_only_request_is_noticed(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    """Nothing else is sent that would meet the broken stream, and no alarm rings."""
    monkeypatch.setattr("odradek.client.producing.node_sender._SUSPICION_S", 1000.0)
    topic = cluster.create_topic("t")
    async with producing(cluster, compression=compression) as producer:
        await producer.send("t", b"1")
        cluster.nodes[1].faults.append(Fault(appended=True))
        await producer.send("t", b"2")
    assert topic.values() == [b"1", b"2"]


async def test_what_was_being_compressed_for_a_stream_that_ended_is_sent_anew(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = cluster.create_topic("t")
    node = cluster.nodes[1]
    compressing, go_on = threading.Event(), threading.Event()

    def compress_slowly(batch: bytearray, codec: Codec) -> bytes | bytearray:
        compressing.set()
        go_on.wait(DEADLINE_S)
        return compress(batch, codec)

    await cluster.start_node()
    async with (
        asyncio.timeout(DEADLINE_S),
        Client(cluster.bootstrap) as client,
        client.producer(compression="zstd") as producer,
    ):
        await producer.send("t", b"1")
        monkeypatch.setattr("odradek.client.producing.compressing.compress", compress_slowly)
        delivery = await producer.enqueue("t", b"2")
        await asyncio.to_thread(compressing.wait, DEADLINE_S)
        for name, port in (("gone", 1), ("back", node.port)):
            node.port = port
            cluster.publish_node(node)
            await client.admin.create_topic(name)  # then the client has heard of it
        go_on.set()
        await delivery
    assert topic.values() == [b"1", b"2"]
    assert len(node.requests) == 2


async def test_what_comes_while_a_request_is_compressed_follows_it(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odradek.client.producing.node_sender._SPACING_S", 0.0)
    topic = cluster.create_topic("t")
    compressing, go_on = threading.Event(), threading.Event()

    def compress_slowly(batch: bytearray, codec: Codec) -> bytes | bytearray:
        compressing.set()
        go_on.wait(DEADLINE_S)
        return compress(batch, codec)

    async with producing(cluster, compression="zstd") as producer:
        await producer.send("t", b"1")
        monkeypatch.setattr("odradek.client.producing.compressing.compress", compress_slowly)
        first = await producer.enqueue("t", b"2")
        await asyncio.to_thread(compressing.wait, DEADLINE_S)
        second = await producer.enqueue("t", b"3")
        for _ in range(5):  # the sender looks
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, second)
    assert topic.values() == [b"1", b"2", b"3"]
    assert len(cluster.nodes[1].requests) == 3


async def test_a_batch_is_compressed_once_however_often_it_is_sent(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = cluster.create_topic("t")
    cluster.nodes[1].faults.extend([Fault(), Fault(ThrottledError()), None])
    compressed = 0

    def compress_and_count(batch: bytearray, codec: Codec) -> bytes | bytearray:
        nonlocal compressed
        compressed += 1
        return compress(batch, codec)

    monkeypatch.setattr("odradek.client.producing.compressing.compress", compress_and_count)
    async with producing(cluster, compression="zstd") as producer:
        await producer.send("t", b"1")
    assert (topic.values(), compressed) == ([b"1"], 1)


async def test_a_moved_leader_is_found_by_the_hint_in_the_refusal(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    await cluster.start_node()
    async with producing(cluster) as producer:
        await producer.send("t", b"1")
        cluster.move_leader(topic, 0, 2, announce=False)
        ack = await producer.send("t", b"2")
    assert (ack.offset, topic.values()) == (1, [b"1", b"2"])
    assert len(cluster.nodes[2].requests) == 1


async def test_records_follow_the_leader_when_its_node_dies(cluster: FakeCluster) -> None:
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


async def test_a_silent_leader_does_not_hold_its_records_once_another_leads(
    cluster: FakeCluster,
) -> None:
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


async def test_a_broken_sequence_gets_a_new_epoch(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", partitions=2)
    async with producing(cluster) as producer:
        await asyncio.gather(*(producer.send("t", b"0", partition=index) for index in range(2)))
        cluster.nodes[1].faults.append(Fault(OutOfOrderSequenceNumberError()))
        await producer.send("t", b"1", partition=0)
        await producer.send("t", b"1", partition=1)
    assert cluster.granted == [(1000, 0)], "the producer raises the epoch of its id by itself"
    assert [partition.producers[1000][0] for partition in topic.partitions] == [1, 1]
    assert [partition.values() for partition in topic.partitions] == [[b"0", b"1"]] * 2


async def test_a_fenced_producer_goes_on_with_another_id(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster) as producer:
        await producer.send("t", b"0")
        cluster.nodes[1].faults.append(Fault(InvalidProducerEpochError()))
        await asyncio.gather(*(producer.send("t", b"%d" % number) for number in range(1, 9)))
    assert cluster.granted == [(1000, 0), (1001, 0)]
    assert numbers(topic.values()) == list(range(9))


@pytest.mark.parametrize("announce", [True, False])
async def test_leaders_that_move_to_and_fro_neither_duplicate_nor_reorder(
    cluster: FakeCluster, *, announce: bool
) -> None:
    """With several requests under way, some answers lost after the append."""
    topic = cluster.create_topic("t", partitions=2)
    second = await cluster.start_node()
    async with producing(cluster, batch_bytes=1024, request_bytes=2048) as producer:
        await producer.send_many("t", [b"0"] * 2)
        for node in (cluster.nodes[1], second):
            lost = Fault(RequestTimedOutError(), appended=True)
            node.faults.extend([None, lost, None, None] * 5)

        async def move() -> None:
            for turn in range(20):
                for _ in range(20):
                    await asyncio.sleep(0)
                cluster.move_leader(topic, turn % 2, 1 + turn // 2 % 2, announce=announce)

        sending = [
            asyncio.create_task(producer.send("t", b"%d" % number, partition=number % 2))
            for number in range(1, 3001)
        ]
        await asyncio.gather(move(), *sending)
    for index, partition in enumerate(topic.partitions):
        sent = [number for number in range(1, 3001) if number % 2 == index]
        assert [number for number in numbers(partition.values()) if number] == sent


@pytest.mark.parametrize("is_bootstrap", [True, False], ids=["channel kept", "channel closed"])
async def test_a_node_that_comes_back_elsewhere_gets_what_waited_for_its_old_address(
    cluster: FakeCluster, *, is_bootstrap: bool
) -> None:
    """The old one accepts and says nothing: the producer would dial it for many seconds."""
    moving = await cluster.start_node()
    topic = cluster.create_topic("t", leader=moving.node_id)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        hole.setblocking(False)
        new_port, moving.port = moving.port, hole.getsockname()[1]
        bootstrap = cluster.bootstrap if is_bootstrap else cluster.nodes[1].address
        async with Client(bootstrap) as client, client.producer() as producer:
            waiting = [await producer.enqueue("t", b"%d" % number) for number in range(9)]
            dialled, _ = await asyncio.get_running_loop().sock_accept(hole)
            with dialled:
                moving.port = new_port
                cluster.publish_node(moving)
                async with asyncio.timeout(3):
                    await asyncio.gather(*waiting)
                    await producer.send("t", b"9")
    assert numbers(topic.values()) == list(range(10))


async def test_a_leader_that_moves_away_from_a_dead_address_gets_what_waited_there(
    cluster: FakeCluster,
) -> None:
    gone = await cluster.start_node()
    topic = cluster.create_topic("t", leader=gone.node_id)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        hole.setblocking(False)
        gone.port = hole.getsockname()[1]
        async with producing(cluster) as producer:
            waiting = [await producer.enqueue("t", b"%d" % number) for number in range(9)]
            dialled, _ = await asyncio.get_running_loop().sock_accept(hole)
            with dialled:
                gone.fenced = True
                cluster.publish_node(gone)
                cluster.move_leader(topic, 0, 1)
                async with asyncio.timeout(3):
                    await asyncio.gather(*waiting)
    assert numbers(topic.values()) == list(range(9))


async def test_a_leader_that_no_node_answers_for_is_waited_for(cluster: FakeCluster) -> None:
    """Metadata may name a leader before the node itself is known."""
    topic = cluster.create_topic("t", leader=9)
    async with producing(cluster) as producer:
        sending = asyncio.create_task(producer.send("t", b"v"))
        await asyncio.sleep(0.05)
        cluster.move_leader(topic, 0, 1)
        assert (await sending).offset == 0


async def test_the_leader_unknown_for_a_while(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", leader=-1)
    async with producing(cluster) as producer:
        sending = asyncio.create_task(producer.send("t", b"v"))
        await asyncio.sleep(0.05)
        assert not sending.done()
        cluster.move_leader(topic, 0, 1)
        assert (await sending).offset == 0


async def test_not_leader_without_end_is_given_up_after_the_delivery_timeout(
    cluster: FakeCluster,
) -> None:
    cluster.create_topic("t")
    cluster.nodes[1].judge = lambda _: Fault(NotLeaderOrFollowerError("not here"))
    async with producing(cluster, delivery_timeout_s=0.3) as producer:
        with pytest.raises(DeliveryTimeoutError, match="not here") as caught:
            await producer.send("t", b"v")
    assert (caught.value.topic, caught.value.partition) == ("t", 0)
    assert caught.value.maybe_appended


async def test_the_delivery_timeout_of_a_record_never_sent_says_so(cluster: FakeCluster) -> None:
    cluster.create_topic("t", leader=-1)
    async with producing(cluster, delivery_timeout_s=0.2) as producer:
        with pytest.raises(DeliveryTimeoutError, match="nobody leads") as caught:
            await producer.send("t", b"v")
    assert not caught.value.maybe_appended


async def test_a_node_that_never_answers_is_given_up(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    cluster.nodes[1].answering.clear()
    async with producing(cluster, delivery_timeout_s=0.3) as producer:
        with pytest.raises(DeliveryTimeoutError) as caught:
            await producer.send("t", b"v")
        cluster.nodes[1].answering.set()
    assert caught.value.maybe_appended

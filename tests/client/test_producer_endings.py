"""How a producer ends: in peace, by an error, by a cancellation, by a failure of its own."""

import asyncio

import pytest

from odradek.client import Client, ClientClosedError, DeliveryAbandonedError, DeliveryFailedError
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.protocol.errors import RecordTooLargeError
from odradek.rpc.channels import ConnectionLostError
from tests.client.fake_node import FakeCluster, Fault
from tests.client.producing import producing


async def test_a_block_left_by_an_error_delivers_what_it_can(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t")

    async def work() -> None:
        async with producing(cluster, linger_s=30.0) as producer:
            await producer.enqueue("t", b"v")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert topic.values() == [b"v"]


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
async def test_a_block_left_by_an_error_does_not_wait_long_and_says_what_was_abandoned(
    cluster: FakeCluster, error: type[BaseException]
) -> None:
    cluster.create_topic("t", leader=-1)

    async def work() -> None:
        async with producing(cluster) as producer:
            await producer.enqueue("t", b"v")
            raise error

    with pytest.raises(error) as caught:
        await work()
    assert "1 record(s) for t-0" in caught.value.__notes__[0]
    assert "never sent" in caught.value.__notes__[0]


async def test_close_abandons_what_is_not_acknowledged_in_time(cluster: FakeCluster) -> None:
    cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster) as producer:
        await producer.send("t", b"warm")
        node.answering.clear()
        await producer.enqueue("t", b"v")
        await node.has_requests(2)
        with pytest.raises(DeliveryFailedError) as caught:
            await producer.close(timeout_s=0.05)
        node.answering.set()
    assert isinstance(caught.value.__cause__, DeliveryAbandonedError)
    assert caught.value.__cause__.maybe_appended


async def test_a_broken_producer_tells_everybody_and_closes(cluster: FakeCluster) -> None:
    cluster.create_topic("t", leader=-1)

    async def break_down() -> None:
        raise ZeroDivisionError

    async def work() -> None:
        async with producing(cluster) as producer:
            waiting = asyncio.create_task(producer.send("t", b"v"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            sender = producer._core._sender
            sender._background.spawn(break_down(), name="failing")
            with pytest.raises(DeliveryAbandonedError, match="ZeroDivisionError"):
                await waiting
            with pytest.raises(ClientClosedError, match="ZeroDivisionError"):
                await producer.send("t", b"v")

    with pytest.raises(ExceptionGroup):
        await work()


@pytest.mark.parametrize("is_given_up", [False, True], ids=["alone", "as the stream ends"])
async def test_a_failure_while_answers_are_taken_breaks_the_producer(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, *, is_given_up: bool
) -> None:
    """No task takes them: else the loop would log it, and those who wait would never know."""
    cluster.create_topic("t", partitions=2)
    cluster.create_topic("nobody-leads", leader=-1)

    async def work() -> None:
        async with producing(cluster) as producer:
            await producer.send("t", b"warm")
            (sender,) = producer._core._sender._nodes.values()

            def break_down(*_: object) -> None:
                if is_given_up:
                    sender._give_up(ConnectionLostError("the node moved in the same moment"))
                raise ZeroDivisionError

            monkeypatch.setattr(PartitionQueue, "on_acknowledged", break_down)
            waiting = [await producer.enqueue("t", b"v", partition=each) for each in range(2)]
            waiting.append(await producer.enqueue("nobody-leads", b"v"))
            for each in waiting:
                with pytest.raises(DeliveryAbandonedError, match="ZeroDivisionError"):
                    await each
            with pytest.raises(ClientClosedError, match="ZeroDivisionError"):
                await producer.send("t", b"v")

    with pytest.raises(ExceptionGroup) as caught:
        await work()
    assert caught.value.subgroup(ZeroDivisionError) is not None


async def test_one_who_asks_twice_does_not_hide_anothers_failure(cluster: FakeCluster) -> None:
    cluster.create_topic("t", leader=-1)
    async with producing(cluster, delivery_timeout_s=0.2) as producer:
        first, _ = [await producer.enqueue("t", b"v") for _ in range(2)]
        await asyncio.gather(first, first, return_exceptions=True)
        with pytest.raises(DeliveryFailedError) as caught:
            await producer.flush()
    assert caught.value.record_count == 1


async def test_a_failure_is_not_heard_by_one_who_was_cancelled(cluster: FakeCluster) -> None:
    topic = cluster.create_topic("t", leader=-1)
    async with producing(cluster) as producer:
        sending = asyncio.create_task(producer.send("t", b"v"))
        await asyncio.sleep(0.02)
        sending.cancel()
        await asyncio.wait([sending])
        cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
        cluster.move_leader(topic, 0, 1)
        with pytest.raises(DeliveryFailedError, match="refused"):
            await producer.flush()


async def test_enqueueing_to_many_partitions_lets_the_loop_breathe(cluster: FakeCluster) -> None:
    cluster.create_topic("t", partitions=64)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with producing(cluster) as producer:
        await producer.send("t", b"warm")
        counting = asyncio.create_task(count())
        for number in range(4096):
            await producer.enqueue("t", bytes(1024), partition=number % 64)
        counting.cancel()
    assert turns >= 3, "4 MiB, none of whose batches was full"


async def test_a_failure_is_not_heard_by_a_send_many_that_was_cancelled(
    cluster: FakeCluster,
) -> None:
    cluster.create_topic("t")
    node = cluster.nodes[1]
    async with producing(cluster) as producer:
        node.answering.clear()
        node.faults.append(Fault(RecordTooLargeError("refused")))
        sending = asyncio.create_task(producer.send_many("t", [b"a", b"b"]))
        await node.has_requests(1)
        sending.cancel()
        await asyncio.wait([sending])
        node.answering.set()
        with pytest.raises(DeliveryFailedError, match="refused") as caught:
            await producer.flush()
    assert caught.value.record_count == 2


@pytest.mark.parametrize("keys", [None, [b"k"] * 3])
async def test_what_a_refused_send_many_has_sent_is_not_hidden(
    cluster: FakeCluster, keys: list[bytes] | None
) -> None:
    topic = cluster.create_topic("t", config={"max.message.bytes": "1024"})
    cluster.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
    async with producing(cluster) as producer:
        with pytest.raises(RecordTooLargeError, match="it was not sent"):
            await producer.send_many("t", [b"a", bytes(2000), b"c"], keys=keys)
        with pytest.raises(DeliveryFailedError, match="refused") as caught:
            await producer.flush()
    assert caught.value.record_count == 1
    assert topic.values() == []


async def test_a_client_that_closes_first_ends_its_producers_at_once(cluster: FakeCluster) -> None:
    cluster.create_topic("t", partitions=2)
    node = cluster.nodes[1]
    async with asyncio.timeout(5):
        async with Client(cluster.bootstrap) as client:
            producer = client.producer(buffer_bytes=4096, batch_bytes=2048)
            await producer.__aenter__()
            await producer.send("t", b"warm", partition=0)
            cluster.move_leader(cluster.topics["t"], 1, -1)
            await client._scope.metadata.at_least(cluster.version, timeout_s=5.0)
            node.answering.clear()
            sent = await producer.enqueue("t", b"v", partition=0)
            await node.has_requests(2)
            unsent = await producer.enqueue("t", bytes(5000), partition=1)
            waiting = asyncio.create_task(producer.send("t", b"no room"))
            await asyncio.sleep(0)
        node.answering.set()
        for delivery in (sent, unsent):
            with pytest.raises(DeliveryAbandonedError, match="the client was closed") as caught:
                await delivery
            assert caught.value.maybe_appended is (delivery is sent)
        with pytest.raises(ClientClosedError, match="the client is closed"):
            await waiting
        with pytest.raises(ClientClosedError, match="the client is closed"):
            await producer.send("t", b"v")
        await producer.close()


async def test_a_producer_closed_after_its_client_raises_what_nobody_heard_of(
    cluster: FakeCluster,
) -> None:
    cluster.create_topic("t", leader=-1)
    async with asyncio.timeout(5), Client(cluster.bootstrap) as client:
        producer = client.producer()
        await producer.__aenter__()
        await producer.enqueue("t", b"v")
        await client.close()
        with pytest.raises(DeliveryFailedError, match="never sent"):
            await producer.close()


async def test_a_send_that_waits_to_hear_of_its_topic_ends_with_the_client(
    cluster: FakeCluster,
) -> None:
    node = cluster.nodes[1]
    async with (
        asyncio.timeout(5),
        Client(cluster.bootstrap) as client,
        client.producer() as producer,
    ):
        await node.stop()
        while client._scope.metadata._watched is not None:
            await client._scope.metadata._changed.wait()
        sending = asyncio.create_task(producer.send("unknown", b"v"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosedError):
            await sending

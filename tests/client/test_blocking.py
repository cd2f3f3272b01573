"""The blocking face, with the cluster in a thread of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from odradek.client import ClientClosedError, DeliveryFailedError, serdes
from odradek.client.blocking import Client
from odradek.client.blocking.portal import Portal
from odradek.protocol.errors import RecordTooLargeError, UnknownTopicOrPartitionError
from tests.client.fake_log import FakeTopic
from tests.client.fake_node import FakeCluster, Fault


class ThreadedCluster:
    """A `FakeCluster` that other threads can ask things of."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal
        self.inner = FakeCluster()
        portal.call(self.inner.start_node())
        self.bootstrap = self.inner.bootstrap

    def create_topic(self, name: str, **options: Any) -> FakeTopic:
        return self.portal.run(self.inner.create_topic, name, **options)


@pytest.fixture
def cluster() -> Iterator[ThreadedCluster]:
    portal = Portal("cluster")
    portal.start()
    running = ThreadedCluster(portal)
    yield running
    portal.call(running.inner.stop())
    portal.stop()


def test_send_and_enqueue(cluster: ThreadedCluster) -> None:
    topic = cluster.create_topic("t", partitions=2)
    with (
        Client(cluster.bootstrap) as client,
        client.producer(key=serdes.string, value=serdes.json) as producer,
    ):
        ack = producer.send("t", {"n": 1}, key="k", headers={"a": b"1"})
        deliveries = [producer.enqueue("t", number, partition=1) for number in range(1000)]
        producer.flush()
        assert [delivery.result().offset for delivery in deliveries] == list(range(1000))
    assert (ack.topic, ack.offset) == ("t", 0)
    assert [int(value) for value in topic.partitions[1].values() if value != b'{"n":1}'] == list(
        range(1000)
    )


def test_many_threads_share_a_producer_and_each_keeps_its_order(cluster: ThreadedCluster) -> None:
    topic = cluster.create_topic("t")
    with Client(cluster.bootstrap) as client, client.producer() as producer:

        def work(name: int) -> None:
            for number in range(2000):
                producer.enqueue("t", b"%d %d" % (name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [tuple(map(int, value.split())) for value in topic.values()]
    assert len(found) == 8000
    for name in range(4):
        assert [number for one, number in found if one == name] == list(range(2000))


def test_send_many_and_a_typed_topic(cluster: ThreadedCluster) -> None:
    topic = cluster.create_topic("t")
    with Client(cluster.bootstrap) as client, client.producer() as producer:
        numbers = client.topic("t", key=serdes.string, value=serdes.int64)
        acks = producer.send_many(numbers, range(100), keys=["k"] * 100)
        assert [ack.offset for ack in acks] == list(range(100))
    assert topic.values() == [number.to_bytes(8, "big") for number in range(100)]


def test_errors_come_out_as_they_are(cluster: ThreadedCluster) -> None:
    cluster.create_topic("orders")
    with Client(cluster.bootstrap) as client, client.producer() as producer:
        with pytest.raises(UnknownTopicOrPartitionError, match="did you mean orders"):
            producer.send("order", b"v")
        cluster.inner.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
        with pytest.raises(RecordTooLargeError, match="refused"):
            producer.send("orders", b"v")
        cluster.inner.nodes[1].faults.append(Fault(RecordTooLargeError("refused")))
        producer.enqueue("orders", b"v")
        with pytest.raises(DeliveryFailedError):
            producer.flush()


def test_waiting_for_a_result_can_end_earlier(cluster: ThreadedCluster) -> None:
    topic = cluster.create_topic("t", leader=-1)
    with Client(cluster.bootstrap) as client, client.producer() as producer:
        delivery = producer.enqueue("t", b"v")
        with pytest.raises(TimeoutError):
            delivery.result(timeout_s=0.1)
        cluster.portal.run(cluster.inner.move_leader, topic, 0, 1)
        assert delivery.result().offset == 0


def test_the_admin_face(cluster: ThreadedCluster) -> None:
    with Client(cluster.bootstrap) as client:
        made = client.admin.create_topic("t", partitions=3)
        assert (made.name, made.partitions) == ("t", 3)
        assert [topic.name for topic in client.admin.list_topics()] == ["t"]
        client.admin.delete_topic("t")
        assert client.admin.list_topics() == []
        assert client.cluster_id == cluster.inner.cluster_id
        assert client.admin.create_topic.__doc__


def test_a_closed_client_refuses(cluster: ThreadedCluster) -> None:
    cluster.create_topic("t")
    client = Client(cluster.bootstrap)
    with pytest.raises(ClientClosedError, match="with Client"):
        client.admin.list_topics()
    with client, client.producer() as producer:
        producer.send("t", b"v")
    with pytest.raises(ClientClosedError, match="closed"):
        producer.send("t", b"v")
    with pytest.raises(ClientClosedError, match="closed"):
        client.admin.list_topics()
    client.close()


def test_a_client_left_open_is_a_resource_warning(cluster: ThreadedCluster) -> None:
    client = Client(cluster.bootstrap)
    client.__enter__()
    with pytest.warns(ResourceWarning, match="unclosed"):
        client.__del__()
    client.close()


class LatePortal(Portal):
    """A caller is between looking for the loop and handing its work over, for as long as wanted."""

    def __init__(self) -> None:
        super().__init__("late")
        self.is_late = False
        self.looked, self.go_on = threading.Event(), threading.Event()

    def _checked_loop(self) -> asyncio.AbstractEventLoop:
        loop = super()._checked_loop()
        if self.is_late:
            self.looked.set()
            self.go_on.wait()
        return loop


def outcome_in_a_thread(call: Callable[[], object]) -> "Future[object]":
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 what the test is about
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_a_call_under_way_ends_with_the_client() -> None:
    portal = Portal("slow")
    portal.start()
    begun = threading.Event()

    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    calling = outcome_in_a_thread(lambda: portal.call(slow()))
    begun.wait()
    portal.stop()
    with pytest.raises(ClientClosedError, match="by another thread"):
        calling.result(20)


def test_a_call_that_comes_after_the_loop_has_ended_is_refused() -> None:
    portal = LatePortal()
    portal.start()
    portal.is_late = True
    calling = outcome_in_a_thread(lambda: portal.call(asyncio.Event().wait()))
    portal.looked.wait()
    portal.stop()
    portal.go_on.set()
    with pytest.raises(ClientClosedError):
        calling.result(20)


def test_a_call_that_comes_while_the_loop_ends_is_refused_at_once() -> None:
    portal = LatePortal()
    portal.start()
    begun, ending, holding = threading.Event(), threading.Event(), threading.Event()

    async def last() -> None:
        asyncio.get_running_loop().run_in_executor(None, holding.wait)  # the loop waits for it
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()

    outcome_in_a_thread(lambda: portal.call(last()))
    begun.wait()
    portal.is_late = True
    calling = outcome_in_a_thread(lambda: portal.call(asyncio.Event().wait()))
    portal.looked.wait()
    stopping = outcome_in_a_thread(portal.stop)
    ending.wait()
    portal.go_on.set()
    with pytest.raises(ClientClosedError):
        calling.result(20)
    holding.set()
    stopping.result(20)

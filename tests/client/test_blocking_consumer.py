"""The blocking consumer, with the cluster in a thread of its own."""

import operator
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from odradek.client import ClientClosedError, DeserializationError, serdes
from odradek.client.blocking import Client, Consumer
from odradek.client.blocking.portal import Portal
from odradek.client.record import Record
from odradek.protocol.errors import InvalidRequestError
from tests.client.consumer_world import TIMEOUT_S, World, world
from tests.client.fake_node import FakeTopic


class ThreadedWorld:
    """A `World` that other threads can ask things of, and a blocking client of it."""

    def __init__(self, portal: Portal, made: World) -> None:
        self.portal = portal
        self.made = made
        self.client = Client(made.cluster.bootstrap)

    def topic(self, *, partitions: int = 1, records: int = 0) -> FakeTopic:
        """A topic the client knows of."""
        topic = self.portal.call(self.made.topic(partitions=partitions, records=records))
        known = self.client._inner._scope.metadata.at_least(
            self.made.cluster.version, timeout_s=TIMEOUT_S
        )
        self.client._portal.call(known)
        return topic

    def committed(self, topic: FakeTopic) -> int | None:
        return self.portal.run(self.made.groups.committed, "g", topic, 0)


@pytest.fixture
def one() -> Iterator[ThreadedWorld]:
    portal = Portal("cluster")
    portal.start()
    entering = world()
    yield ThreadedWorld(portal, portal.call(entering.__aenter__()))
    portal.call(entering.__aexit__(None, None, None))
    portal.stop()


@pytest.fixture
def client(one: ThreadedWorld) -> Iterator[Client]:
    with one.client as entered:
        yield entered


def test_reading_and_committing(one: ThreadedWorld, client: Client) -> None:
    topic = one.topic(records=30)
    with client.consumer("t", group="g") as consumer:
        seen = [next(consumer).offset for _ in range(25)]
    assert seen == list(range(25))
    assert one.committed(topic) == 24, "the last one was not done with"
    with client.consumer("t", group="g") as consumer:
        batch = next(consumer.batches())
        assert batch.records[0].offset == 24
        consumer.commit({("t", 0): 27})
    assert one.committed(topic) == 27


def test_a_paused_partition_waits_and_the_group_can_be_asked(
    one: ThreadedWorld, client: Client
) -> None:
    one.topic(partitions=2, records=20)
    with client.consumer("t", group="g", auto_commit=False) as consumer:
        held = ("t", next(consumer).partition)
        other = ("t", 1 - held[1])
        assert consumer.assignment == {held, other}
        consumer.pause()
        consumer.resume(other)
        seen = [next(consumer) for _ in range(20)]
        assert [(each.partition, each.offset) for each in seen] == [
            (other[1], n) for n in range(20)
        ]
        assert (consumer.position(held), consumer.position(other)) == (1, 20)
        assert consumer.committed(held, other) == {held: None, other: None}
        consumer.commit()
        assert consumer.committed() == {held: 1, other: 20}
        assert {name: lag.records for name, lag in consumer.lag().items()} == {held: 19, other: 0}
        consumer.resume()
        again = next(consumer)
        assert (again.partition, again.offset) == (held[1], 1)


def test_a_record_looked_at_while_those_behind_are_taken_back_comes_once(
    one: ThreadedWorld, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.topic(records=200)
    found: list[int] = []
    with client.consumer("t") as consumer:
        hand = consumer._hand
        while not operator.length_hint(hand.records):
            found.append(next(consumer).offset)

        def count_and_be_overtaken(records: Iterator[Any]) -> int:
            left = operator_length_hint(records)
            for record in hand.records:  # the reading thread's step
                hand.record = record
                found.append(record.offset)
                break
            return left

        operator_length_hint = operator.length_hint
        with monkeypatch.context() as patched:
            patched.setattr(operator, "length_hint", count_and_be_overtaken)
            consumer.pause()
        consumer.resume()
        while len(found) < 200:
            found.append(next(consumer).offset)
    assert found == list(range(200))


def test_a_damaged_record_of_an_assigned_partition_is_skipped(
    one: ThreadedWorld, client: Client
) -> None:
    topic = one.topic(partitions=2, records=1)
    one.portal.run(one.made.logs.append, topic, 1, [b"1", b"damaged", b"3"])
    with client.consumer(value=serdes.json) as consumer:
        assert consumer.assignment == set()
        consumer.assign([("t", 1)])
        assert consumer.assignment == {("t", 1)}
        consumer.seek(("t", 1), 1)
        assert next(consumer).value == 1
        for _ in range(2):
            with pytest.raises(DeserializationError) as caught:
                next(consumer)
        assert consumer.skip(caught.value)
        assert next(consumer).value == 3
        assert not consumer.skip(caught.value), "it was passed before"


def test_closing_ends_a_loop_that_waits_in_another_thread(
    one: ThreadedWorld, client: Client
) -> None:
    one.topic(records=1)
    seen: list[int] = []
    first = threading.Event()
    with client.consumer("t") as consumer:

        def loop() -> None:
            for record in consumer:
                seen.append(record.offset)
                first.set()

        thread = threading.Thread(target=loop)
        thread.start()
        assert first.wait(TIMEOUT_S)
        consumer.close()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
        with pytest.raises(ClientClosedError):
            consumer.seek(("t", 0), 0)
    assert seen == [0]


def test_handlers_run_in_threads(one: ThreadedWorld, client: Client) -> None:
    topic = one.topic(records=20)
    together = threading.Barrier(4)
    handled: list[int] = []
    with client.consumer("t", group="g") as consumer:

        def handler(record: Record[Any, Any]) -> None:
            if record.offset < 4:
                together.wait(TIMEOUT_S)
            handled.append(record.offset)
            if len(handled) == 20:
                closing.start()

        closing = threading.Thread(target=consumer.close)
        consumer.run(handler, concurrency=4, ordered_by=None)
        closing.join(TIMEOUT_S)
    assert sorted(handled) == list(range(20))
    assert one.committed(topic) == 20


@pytest.mark.parametrize("error", [StopIteration, ValueError])
def test_a_handler_that_fails_ends_run(
    one: ThreadedWorld, client: Client, error: type[Exception]
) -> None:
    topic = one.topic(records=20)

    def handler(record: Record[Any, Any]) -> None:
        if record.offset == 3:
            raise error

    def run(consumer: Consumer[Any, Any]) -> None:
        try:
            consumer.run(handler)
        except (RuntimeError, ValueError) as failure:
            failures.append(failure)

    failures: list[Exception] = []
    with client.consumer("t", group="g") as consumer:
        thread = threading.Thread(target=run, args=[consumer], daemon=True)
        thread.start()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert [each.__notes__ for each in failures] == [["while handling t-0 offset 3"]]
    assert one.committed(topic) == 3


def test_bad_options_of_run(client: Client, one: ThreadedWorld) -> None:
    one.topic()
    with client.consumer("t") as consumer, pytest.raises(InvalidRequestError, match="concurrency"):
        consumer.run(print, concurrency=0)

"""Keyed records in bulk: the batches, the order and the room they would have one by one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odradek.client import Acknowledgements, RecordMetadata, SerializationError, serdes
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.delivery import Run, extend_runs, raise_first
from odradek.client.producing.encoding import Target
from odradek.client.producing.intake import Intake
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.protocol.errors import InvalidTimestampError, NotEnoughReplicasError
from tests.client.test_accumulator import info, topic_of

_records = st.lists(
    st.tuples(st.none() | st.binary(max_size=600), st.binary(max_size=3) | st.binary(max_size=70)),
    min_size=1,
    max_size=300,
)


def intake_of(topic: TopicQueues, ready: list[PartitionQueue]) -> tuple[Intake, Target]:
    target = Target(topic, serdes.raw, serdes.raw, takes_bytes=True)
    return Intake(None, topic.ledger, ready.append), target


def one_by_one(
    topic: TopicQueues, pairs: list[Any], partition: int | None, ready: list[PartitionQueue]
) -> list[Run]:
    intake, target = intake_of(topic, ready)
    runs: list[Run] = []
    for position, (value, key) in enumerate(pairs):
        record = intake.encode(
            target, value, key, partition=partition, headers=None, timestamp_ms=9
        )
        delivery = intake.append(target, record) or intake.append_new(target, record, 0.0)
        extend_runs(runs, delivery.as_run(position))
    return runs


def in_bulk(
    topic: TopicQueues,
    pairs: list[Any],
    partition: int | None,
    ready: list[PartitionQueue],
    *,
    room_bytes: int,
) -> list[Run]:
    intake, target = intake_of(topic, ready)
    bulk = intake.encode_keyed(target, iter(pairs), partition=partition, timestamp_ms=9)
    runs: list[Run] = []
    position = 0
    while position < len(pairs):
        before_bytes = topic.ledger.used_bytes
        chunk = range(position, bulk.chunk_end(position, room_bytes))
        intake.append_bulk(target, bulk, chunk, 0.0, runs)
        position = chunk.stop
        last_bytes = len(pairs[chunk[-1]][0] or b"") + len(pairs[chunk[-1]][1]) + 32
        assert topic.ledger.used_bytes - before_bytes < room_bytes + last_bytes
    return runs


def acknowledged(topic: TopicQueues, runs: list[Run]) -> tuple[list[bytes], list[RecordMetadata]]:
    """Return all batches, and where each record lies."""
    built = []
    for queue in topic.queues:
        offset = 0
        while not queue.idle:
            batch = queue.take(None)
            assert batch.watched_count == batch.record_count
            batch.build()
            built.append(bytes(batch.data))
            queue.on_acknowledged(batch, offset, -1, 0.0)
            offset += batch.record_count
    assert topic.ledger.used_bytes == 0
    return built, list(Acknowledgements(runs, 9))


@settings(deadline=None)
@given(
    pairs=_records,
    partitions=st.integers(1, 5),
    partition=st.none() | st.just(0),
    room_bytes=st.sampled_from([1, 100, 2000, 1 << 20]),
)
def test_the_batches_are_those_of_records_appended_one_by_one(
    *, pairs: list[Any], partitions: int, partition: int | None, room_bytes: int
) -> None:
    topics = [topic_of(info(partitions)) for _ in range(2)]
    singly_ready: list[PartitionQueue] = []
    bulk_ready: list[PartitionQueue] = []
    singly = one_by_one(topics[0], pairs, partition, singly_ready)
    bulk = in_bulk(topics[1], pairs, partition, bulk_ready, room_bytes=room_bytes)
    assert {queue.partition for queue in bulk_ready} == {queue.partition for queue in singly_ready}
    assert acknowledged(topics[1], bulk) == acknowledged(topics[0], singly)


def test_the_first_record_that_failed_is_told_of() -> None:
    topic = topic_of(info(2))
    pairs = [(bytes(300), b"k%d" % number) for number in range(100)]
    runs = in_bulk(topic, pairs, None, [], room_bytes=1 << 20)
    first, second = (queue.sealed[0] for queue in topic.queues)
    last = topic.queues[0].sealed[-1]
    for batch in {id(run.batch): run.batch for run in runs}.values():
        if batch not in {first, second, last}:
            batch.succeed(0, -1)
    first.succeed(0, -1)
    second.fail(NotEnoughReplicasError("of the second partition's first batch"))
    last.fail(NotEnoughReplicasError("later"))
    with pytest.raises(NotEnoughReplicasError, match="second partition"):
        raise_first(runs)


def test_a_key_that_does_not_encode_is_named_and_so_is_the_first_of_several() -> None:
    topic = topic_of(info())
    intake, _ = intake_of(topic, [])
    target = Target(topic, serdes.string, serdes.int64, takes_bytes=False)
    pairs: list[tuple[object, object]] = [(1, "a"), ("no number", "b"), (3, 7)]
    with pytest.raises(SerializationError) as caught:
        intake.encode_keyed(target, iter(pairs), partition=None, timestamp_ms=9)
    assert (caught.value.topic, caught.value.key, caught.value.serde) == ("t", "b", "int64")
    with pytest.raises(SerializationError) as caught:
        intake.encode_keyed(target, iter(pairs[2:]), partition=None, timestamp_ms=9)
    assert (caught.value.key, caught.value.serde) == (7, "string")


@pytest.mark.parametrize("count", [1, 50])
def test_a_timestamp_that_is_none_leaves_no_trace(count: int) -> None:
    topic = topic_of(info())
    intake, target = intake_of(topic, [])
    pairs = iter([(b"v", b"k")] * count)
    bulk = intake.encode_keyed(target, pairs, partition=None, timestamp_ms=-1)
    with pytest.raises(InvalidTimestampError):
        intake.append_bulk(target, bulk, range(count), 0.0, [])
    assert topic.ledger.used_bytes == 0
    assert all(queue.idle for queue in topic.queues)

"""Batches by size, partitions in turn."""

import pytest

from odradek.client.cluster.image import PartitionInfo, TopicInfo
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.protocol.errors import (
    NotLeaderOrFollowerError,
    RecordTooLargeError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.hashing import partition_for_key
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicName
from tests.client.test_partition_queue import LIMITS


def info(
    partitions: int = 3,
    *,
    leaders: list[int] | None = None,
    config: dict[str, str] | None = None,
    topic_id: bytes = b"t" * 16,
) -> TopicInfo:
    return TopicInfo(
        TopicName("t"),
        TopicId(topic_id),
        tuple(
            PartitionInfo(
                PartitionIndex(index), NodeId(leaders[index] if leaders else 1), LeaderEpoch(0)
            )
            for index in range(partitions)
        ),
        False,
        config or {},
    )


def topic_of(topic: TopicInfo, *, compresses: bool = False) -> TopicQueues:
    return TopicQueues.of(topic, LIMITS, Ledger(1 << 20), compresses=compresses)


def put(
    topic: TopicQueues, value: bytes = b"v", queue: PartitionQueue | None = None
) -> ProducerBatch:
    return topic.append(queue, None, value, 1, []) or topic.append_new(
        queue, None, value, 1, [], 0.0
    )


def test_a_batch_is_filled_before_the_next_partition_has_its_turn() -> None:
    topic = topic_of(info())
    partitions = [put(topic, bytes(1000)).partition for _ in range(10)]
    assert partitions == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0]


def test_records_sent_one_by_one_go_to_the_partitions_in_turn() -> None:
    topic = topic_of(info())
    turns = []
    for _ in range(5):
        batch = put(topic)
        turns.append(batch.partition)
        topic.queues[batch.partition].take(None)
        topic.queues[batch.partition].on_acknowledged(batch, 0, -1, 0.0)
    assert turns == [0, 1, 2, 0, 1]


def test_a_partition_that_was_not_answered_yet_keeps_its_turn_for_16_kib() -> None:
    topic = topic_of(info())
    turns = []
    for _ in range(40):
        batch = put(topic, bytes(1000))
        turns.append(batch.partition)
        topic.queues[batch.partition].take(None)
        batch.build()
    assert turns == [0] * 16 + [1] * 16 + [2] * 8


def test_a_partition_that_refused_a_batch_loses_its_turn() -> None:
    topic = topic_of(info())
    batch = put(topic)
    queue = topic.queues[batch.partition]
    queue.take(None)
    queue.on_failed(batch, NotLeaderOrFollowerError(), 0.0)
    assert put(topic).partition == 1


def test_partitions_without_leader_are_passed_over_unless_all_are() -> None:
    topic = topic_of(info(leaders=[1, -1, 1]))
    turns = [put(topic, bytes(3000)).partition for _ in range(4)]
    assert turns == [0, 2, 0, 2]
    leaderless = topic_of(info(leaders=[-1, -1, -1]))
    assert [put(leaderless, bytes(3000)).partition for _ in range(3)] == [0, 1, 2]


def test_records_without_key_join_a_batch_of_keyed_ones() -> None:
    topic = topic_of(info())
    keyed = put(topic, b"keyed", topic.queues[0])
    assert put(topic) is keyed


def test_the_ledger_holds_exactly_what_batches_hold() -> None:
    topic = topic_of(info())
    batches = {id(batch): batch for batch in (put(topic, bytes(500)) for _ in range(40))}
    assert topic.ledger.used_bytes > 40 * 500
    for batch in batches.values():
        queue = topic.queues[batch.partition]
        if queue.open is batch:
            queue.seal()
        batch.succeed(0, -1)
    assert topic.ledger.used_bytes == 0


def test_append_many_fills_batch_after_batch() -> None:
    topic = topic_of(info())
    values = [b"%04d" % number for number in range(2000)]
    position, sizes = 0, []
    while position < len(values):
        batch, count = topic.append_many(None, values[position:], 1, 0.0)
        sizes.append((batch.partition, count))
        position += count
    assert sum(count for _, count in sizes) == 2000
    assert [partition for partition, _ in sizes[:4]] == [0, 1, 2, 0]
    assert topic.queues[0].sealed[0].size_bytes <= LIMITS.batch_bytes


def test_a_record_beyond_the_topic_s_limit_names_both_sizes_and_leaves_no_trace() -> None:
    topic = topic_of(info(config={"max.message.bytes": "2000"}))
    with pytest.raises(RecordTooLargeError, match="2000") as caught:
        put(topic, bytes(5000))
    assert int(caught.value.value) > 5000
    assert topic.ledger.used_bytes == 0
    assert all(queue.idle for queue in topic.queues)
    assert topic.queues[put(topic).partition].open is not None


def test_with_compression_the_leader_judges_the_size() -> None:
    topic = topic_of(info(config={"max.message.bytes": "2000"}), compresses=True)
    assert put(topic, bytes(5000))


def test_batches_are_no_larger_than_the_topic_takes_them() -> None:
    topic = topic_of(info(1, config={"max.message.bytes": "2000"}))
    for _ in range(100):
        put(topic, bytes(300))
    assert max(batch.size_bytes for batch in topic.queues[0].sealed) <= 2000


def test_an_unknown_partition_is_an_error() -> None:
    with pytest.raises(UnknownTopicOrPartitionError, match="0 to 2, not -1"):
        topic_of(info()).queue_of(-1)


def test_news_moves_leaders_and_adds_partitions() -> None:
    topic = topic_of(info(2))
    assert topic.on_info(info(2), 0.0) == []
    moved = topic.on_info(info(3, leaders=[1, 2, 1]), 0.0)
    assert [queue.partition for queue in moved] == [1, 2]
    assert topic.queues[1].leader_id == 2
    again = topic.on_info(info(3, leaders=[1, 2, 1], topic_id=b"u" * 16), 0.0)
    assert len(again) == 3


def test_equal_keys_meet_where_kafka_puts_them() -> None:
    """Known answers of Kafka's Java client for ten partitions."""
    assert [
        partition_for_key(key, 10) for key in (b"21", b"foobar", b"a-little-bit-long-string")
    ] == [int(number % 10) for number in (1173551340, 1357151166, 1161502112)]

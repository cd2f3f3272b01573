"""The rules of order, retries and sequences, against a leader that follows Kafka's."""

from typing import Any

import pytest

from odradek.client.errors import DeliveryAbandonedError, DeliveryTimeoutError
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.partition_queue import PartitionQueue, QueueLimits
from odradek.client.producing.producer_batch import ProducerBatch, ProducerIdentity
from odradek.protocol.errors import (
    NotEnoughReplicasError,
    OutOfOrderSequenceNumberError,
    RecordTooLargeError,
    ThrottledError,
)
from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    PartitionIndex,
    ProducerEpoch,
    ProducerId,
    TopicId,
    TopicName,
)

LIMITS = QueueLimits(
    batch_bytes=4096,
    linger_s=0.0,
    delivery_timeout_s=100.0,
    in_flight=5,
    retry_delay_s=0.1,
    retry_delay_max_s=1.0,
)
FIRST = ProducerIdentity(ProducerId(7), ProducerEpoch(0))
SECOND = ProducerIdentity(ProducerId(7), ProducerEpoch(1))


def new_queue(**changes: Any) -> PartitionQueue:
    limits = {**{name: getattr(LIMITS, name) for name in LIMITS.__slots__}, **changes}
    queue = PartitionQueue(
        TopicName("t"),
        TopicId(b"t" * 16),
        PartitionIndex(0),
        QueueLimits(**limits),
        Ledger(1 << 20),
    )
    queue.on_leader(TopicId(b"t" * 16), NodeId(1), LeaderEpoch(0), 0.0)
    return queue


def put(queue: PartitionQueue, value: bytes, now_s: float = 0.0) -> ProducerBatch:
    """Append one record in a batch of its own."""
    batch = queue.open_batch(now_s)
    assert batch.builder is not None
    size_bytes = batch.builder.append(None, value, 1, [])
    assert size_bytes is not None
    queue.ledger.used_bytes += size_bytes
    queue.seal()
    return batch


def introduce(queue: PartitionQueue) -> None:
    """Have a first batch acknowledged: from now on several may be under way."""
    batch = put(queue, b"hello")
    take(queue)
    queue.on_acknowledged(batch, 0, -1, 0.0)


def take(
    queue: PartitionQueue, identity: ProducerIdentity = FIRST, now_s: float = 0.0
) -> ProducerBatch:
    assert queue.ready_at_s(identity) <= now_s
    batch = queue.take(identity)
    batch.build()
    return batch


def test_the_first_batch_goes_alone_since_a_leader_takes_any_sequence_from_a_stranger() -> None:
    queue = new_queue()
    first, second = put(queue, b"a"), put(queue, b"b")
    take(queue)
    assert queue.ready_at_s(FIRST) == float("inf")
    queue.on_acknowledged(first, 0, -1, 0.0)
    assert take(queue) is second


def test_sequences_follow_each_other() -> None:
    queue = new_queue()
    introduce(queue)
    for value in (b"a", b"b", b"c"):
        put(queue, value)
    taken = [take(queue) for _ in range(3)]
    assert [batch.base_sequence for batch in taken] == [1, 2, 3]


def test_at_most_so_many_are_under_way() -> None:
    queue = new_queue(in_flight=2)
    introduce(queue)
    batches = [put(queue, b"v") for _ in range(3)]
    take(queue)
    take(queue)
    assert queue.ready_at_s(FIRST) == float("inf")
    queue.on_acknowledged(batches[0], 0, -1, 0.0)
    assert take(queue) is batches[2]


def test_answers_out_of_order_do_not_let_more_under_way_than_a_leader_remembers() -> None:
    queue = new_queue()
    introduce(queue)
    batches = [put(queue, b"v") for _ in range(6)]
    for _ in range(5):
        take(queue)
    queue.on_acknowledged(batches[4], 4, -1, 0.0)
    assert batches[4].done
    assert queue.ready_at_s(FIRST) == float("inf"), "the first of them is unanswered"
    queue.on_acknowledged(batches[0], 0, -1, 0.0)
    assert take(queue) is batches[5]


def test_a_failure_sends_everything_after_it_again_in_order_with_the_same_sequences() -> None:
    queue = new_queue()
    introduce(queue)
    batches = [put(queue, b"v") for _ in range(4)]
    for _ in range(3):
        take(queue)
    queue.on_failed(batches[0], ThrottledError(), 1.0)
    assert queue.ready_at_s(FIRST) == float("inf"), "the others are still under way"
    queue.on_failed(batches[1], OutOfOrderSequenceNumberError(), 1.0)
    queue.on_failed(batches[2], OutOfOrderSequenceNumberError(), 1.0)
    assert 1.0 < queue.ready_at_s(FIRST) <= 1.1, "after a pause"
    again = [take(queue, now_s=2.0) for _ in range(4)]
    assert again == batches
    assert [batch.base_sequence for batch in again] == [1, 2, 3, 4]
    assert queue.refused_identity is None, "an echo of the first failure proves no gap"


def test_a_gap_before_the_first_batch_asks_for_a_new_identity_and_starts_at_0() -> None:
    queue = new_queue()
    introduce(queue)
    acknowledged, refused = put(queue, b"a"), put(queue, b"b")
    take(queue)
    take(queue)
    queue.on_acknowledged(acknowledged, 0, -1, 0.0)
    queue.on_failed(refused, OutOfOrderSequenceNumberError(), 0.0)
    assert queue.refused_identity is FIRST
    assert queue.ready_at_s(FIRST) == float("inf"), "not with the old identity"
    assert take(queue, SECOND, now_s=1.0) is refused
    assert (refused.identity, refused.base_sequence) == (SECOND, 0)


def test_a_renewed_identity_waits_until_the_old_one_is_answered() -> None:
    queue = new_queue()
    old, new = put(queue, b"a"), put(queue, b"b")
    take(queue, FIRST)
    assert queue.ready_at_s(SECOND) == float("inf")
    queue.on_acknowledged(old, 0, -1, 0.0)
    assert take(queue, SECOND) is new
    assert new.base_sequence == 0


def test_a_refused_batch_fails_alone_and_its_sequence_is_used_again() -> None:
    queue = new_queue()
    refused = put(queue, b"a")
    take(queue)
    queue.on_failed(refused, RecordTooLargeError("too large"), 0.0)
    assert isinstance(refused.error, RecordTooLargeError)
    put(queue, b"b")
    assert take(queue).base_sequence == 0


def test_a_leader_change_sends_what_is_under_way_to_the_new_leader_at_once() -> None:
    queue = new_queue()
    introduce(queue)
    batches = [put(queue, b"v") for _ in range(2)]
    take(queue)
    take(queue)
    queue.on_leader(queue.topic_id, NodeId(2), LeaderEpoch(1), 5.0)
    assert take(queue, now_s=5.0) is batches[0]
    assert queue.ready_at_s(FIRST) == float("inf"), "the new leader may not know the producer"
    queue.on_acknowledged(batches[0], 1, -1, 5.0)
    assert take(queue, now_s=5.0) is batches[1]
    assert [batch.base_sequence for batch in batches] == [1, 2]


def test_after_long_silence_the_first_batch_goes_alone_since_leaders_forget() -> None:
    queue = new_queue()
    introduce(queue)
    for value in (b"a", b"b"):
        put(queue, value, now_s=2 * 60 * 60.0)
    take(queue, now_s=2 * 60 * 60.0)
    assert queue.ready_at_s(FIRST) == float("inf")


def test_abandoned_records_tell_whether_they_may_be_in_the_log() -> None:
    queue = new_queue()
    sent, waiting = put(queue, b"a"), put(queue, b"b")
    take(queue)
    queue.abandon("the producer ended")
    assert isinstance(sent.error, DeliveryAbandonedError)
    assert sent.error.maybe_appended
    assert isinstance(waiting.error, DeliveryAbandonedError)
    assert not waiting.error.maybe_appended
    assert queue.idle
    assert queue.ledger.used_bytes == 0


def test_the_delivery_timeout_says_whether_the_record_may_be_in_the_log() -> None:
    queue = new_queue(delivery_timeout_s=10.0)
    sent, waiting = put(queue, b"a"), put(queue, b"b")
    take(queue)
    queue.on_time(9.9)
    assert not sent.done
    queue.on_time(10.0)
    assert isinstance(sent.error, DeliveryTimeoutError)
    assert sent.error.maybe_appended
    assert isinstance(waiting.error, DeliveryTimeoutError)
    assert not waiting.error.maybe_appended
    assert "t-0" in str(waiting.error)
    assert queue.ledger.used_bytes == 0


def test_the_delivery_timeout_names_the_last_answer_even_while_the_batch_is_sent_again() -> None:
    queue = new_queue(delivery_timeout_s=10.0)
    batch = put(queue, b"a")
    take(queue)
    queue.on_failed(batch, NotEnoughReplicasError("2 of 3 are missing"), 1.0)
    take(queue, now_s=2.0)
    queue.on_time(10.0)
    assert "sent 2 time(s)" in str(batch.error)
    assert "2 of 3 are missing" in str(batch.error)


def test_a_late_answer_to_a_batch_given_up_changes_nothing() -> None:
    queue = new_queue(delivery_timeout_s=10.0)
    batch = put(queue, b"a")
    take(queue)
    queue.on_time(10.0)
    queue.on_acknowledged(batch, 3, -1, 11.0)
    assert isinstance(batch.error, DeliveryTimeoutError)
    assert queue.idle


def test_a_late_answer_to_a_batch_abandoned_changes_nothing() -> None:
    queue = new_queue()
    batch = put(queue, b"a")
    take(queue)
    queue.abandon("the producer ended")
    queue.on_acknowledged(batch, 3, -1, 1.0)
    assert isinstance(batch.error, DeliveryAbandonedError)
    assert queue.idle


@pytest.mark.parametrize("attempts", [1, 3])
def test_pauses_grow_while_retries_fail(attempts: int) -> None:
    queue = new_queue()
    batch = put(queue, b"a")
    now_s = 0.0
    for _ in range(attempts):
        take(queue, now_s=now_s)
        queue.on_failed(batch, NotEnoughReplicasError(), now_s)
        pause_s = queue.ready_at_s(FIRST) - now_s
        now_s = queue.ready_at_s(FIRST)
    assert pause_s == pytest.approx(0.1 * 2 ** (attempts - 1))

"""Whatever is lost, throttled, answered late, moved or truncated: once and in order.

Random histories of one partition against leaders that follow Kafka's rules; a failing seed is kept
by hypothesis.
"""

import random
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from odradek.client.errors import DeliveryTimeoutError
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.producer_batch import ProducerBatch, ProducerIdentity
from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    NotEnoughReplicasAfterAppendError,
    NotLeaderOrFollowerError,
    RequestTimedOutError,
    ThrottledError,
)
from odradek.protocol.types import LeaderEpoch, NodeId, ProducerEpoch, ProducerId
from tests.client.fake_log import BATCH_BYTES_MAX, FakePartition
from tests.client.test_partition_queue import FIRST, new_queue, put, take


class Leader:
    """Answers in any order, forgets to answer, throttles, refuses, and is replaced."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.log = FakePartition(0, 1, 1)
        self.answers: deque[tuple[ProducerBatch, int, Any]] = deque()

    def receive(self, batch: ProducerBatch) -> None:
        fate = self.chance.choice(["append"] * 6 + ["throttle", "lose", "lose after append"])
        if fate == "throttle":
            self.answers.append((batch, batch.attempts, ThrottledError()))
            return
        if fate == "lose":
            self.answers.append((batch, batch.attempts, RequestTimedOutError()))
            return
        try:
            answer: object = self.log.append(bytes(batch.data), BATCH_BYTES_MAX)
        except BrokerError as error:
            answer = error
        if fate == "lose after append":
            answer = RequestTimedOutError()
        self.answers.append((batch, batch.attempts, answer))

    def answer(self, queue: PartitionQueue, now_s: float) -> None:
        index = self.chance.randrange(len(self.answers))
        batch, attempts, answer = self.answers[index]
        del self.answers[index]
        if batch.attempts != attempts:
            return  # what the sender drops
        if isinstance(answer, BrokerError):
            queue.on_failed(batch, answer, now_s)
        else:
            queue.on_acknowledged(batch, answer, -1, now_s)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 30))
def test_every_record_is_appended_once_and_in_order(seed: int) -> None:
    """Whatever is lost, throttled, answered late or moved: acknowledged offsets tell the truth."""
    chance = random.Random(seed)
    leader = Leader(chance)
    queue = new_queue(delivery_timeout_s=1e9)
    batches = []
    identity, now_s, sent = FIRST, 0.0, 0
    while sent < 40 or not queue.idle:
        now_s += chance.uniform(0, 0.2)
        step = chance.random()
        if step < 0.4 and sent < 40:
            batches.append(put(queue, b"%d" % sent, now_s))
            sent += 1
        elif step < 0.7:
            if queue.refused_identity is identity:
                identity = ProducerIdentity(ProducerId(7), ProducerEpoch(identity.epoch + 1))
            if queue.ready_at_s(identity) <= now_s:
                leader.receive(take(queue, identity, now_s))
        elif step < 0.72:
            queue.on_leader(queue.topic_id, NodeId(1), LeaderEpoch(queue.leader_epoch + 1), now_s)
        elif leader.answers:
            leader.answer(queue, now_s)
    assert [int(value) for value in leader.log.values()] == list(range(40))
    assert [batch.base_offset for batch in batches] == list(range(40))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 1 << 30))
def test_giving_up_loses_only_what_is_reported_and_never_repeats_or_reorders(seed: int) -> None:
    """With delivery time-outs: the log is an ordered selection with all that was acknowledged."""
    chance = random.Random(seed)
    leader = Leader(chance)
    queue = new_queue(delivery_timeout_s=1.5)
    batches = []
    identity, now_s, sent = FIRST, 0.0, 0
    while sent < 40 or not queue.idle:
        now_s += chance.uniform(0, 0.2)
        queue.on_time(now_s)
        step = chance.random()
        if step < 0.3 and sent < 40:
            batches.append(put(queue, b"%d" % sent, now_s))
            sent += 1
        elif step < 0.6:
            if queue.refused_identity is identity:
                identity = ProducerIdentity(ProducerId(7), ProducerEpoch(identity.epoch + 1))
            if queue.ready_at_s(identity) <= now_s:
                leader.receive(take(queue, identity, now_s))
        elif leader.answers:
            leader.answer(queue, now_s)
    numbers = [int(value) for value in leader.log.values()]
    assert numbers == sorted(set(numbers))
    acknowledged = [number for number, batch in enumerate(batches) if batch.error is None]
    assert set(acknowledged) <= set(numbers)
    for number, batch in enumerate(batches):
        if isinstance(batch.error, DeliveryTimeoutError) and not batch.error.maybe_appended:
            assert number not in numbers


class ReplicatedLeader:
    """Acknowledges what is committed; an election keeps that and any part of what follows."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.log = FakePartition(0, 1, 1)
        self.committed_count = 0
        self.uncommitted: deque[tuple[ProducerBatch, int, int]] = deque()
        self.requests: deque[tuple[ProducerBatch, int, bytes]] = deque()
        self.answers: list[tuple[ProducerBatch, int, Any]] = []

    def send(self, batch: ProducerBatch) -> None:
        self.requests.append((batch, batch.attempts, bytes(batch.data)))

    def receive(self) -> None:
        batch, attempts, data = self.requests.popleft()
        if self.chance.random() < 0.1:
            self.answers.append((batch, attempts, ThrottledError()))
            return
        try:
            offset = self.log.append(data, BATCH_BYTES_MAX)
        except BrokerError as error:
            self.answers.append((batch, attempts, error))
        else:
            self.uncommitted.append((batch, attempts, offset))

    def commit(self) -> None:
        batch, attempts, offset = self.uncommitted.popleft()
        count = next(
            (i for i, each in enumerate(self.log.batches) if each[:8] == offset.to_bytes(8, "big")),
            -1,
        )
        self.committed_count = max(self.committed_count, count + 1)
        lost = self.chance.random() < 0.1
        answer: Any = NotEnoughReplicasAfterAppendError() if lost else offset
        self.answers.append((batch, attempts, answer))

    def elect(self) -> None:
        """Another leads: its log, and the windows rebuilt from it; what is under way is refused."""
        for batch, attempts, _ in self.uncommitted:
            self.answers.append((batch, attempts, NotLeaderOrFollowerError("resigned")))
        for batch, attempts, _ in self.requests:
            self.answers.append((batch, attempts, FencedLeaderEpochError("an old epoch")))
        self.uncommitted.clear()
        self.requests.clear()
        kept = self.chance.randint(self.committed_count, len(self.log.batches))
        batches, self.log = self.log.batches[:kept], FakePartition(0, 1, 1)
        for batch_bytes in batches:
            self.log.append(bytes(batch_bytes), BATCH_BYTES_MAX)

    def answer(self, queue: PartitionQueue, now_s: float) -> None:
        batch, attempts, answer = self.answers.pop(self.chance.randrange(len(self.answers)))
        if batch.attempts != attempts:
            return  # what the sender drops
        if self.chance.random() < 0.1:
            answer = RequestTimedOutError()
        if isinstance(answer, BrokerError):
            queue.on_failed(batch, answer, now_s)
        else:
            queue.on_acknowledged(batch, answer, -1, now_s)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 30))
def test_leaders_may_move_with_five_under_way_and_answers_lost(seed: int) -> None:  # noqa: C901
    """An acknowledged offset holds that record in every later log; nothing is there twice."""
    chance = random.Random(seed)
    leader = ReplicatedLeader(chance)
    queue = new_queue(delivery_timeout_s=1e9)
    batches: list[ProducerBatch] = []
    identity, now_s, sent = FIRST, 0.0, 0
    while sent < 30 or not queue.idle:
        now_s += chance.uniform(0, 0.1)
        step = chance.random()
        if step < 0.3 and sent < 30:
            batches.append(put(queue, b"%d" % sent, now_s))
            sent += 1
        elif step < 0.55:
            if queue.refused_identity is identity:
                identity = ProducerIdentity(ProducerId(7), ProducerEpoch(identity.epoch + 1))
            if queue.ready_at_s(identity) <= now_s:
                leader.send(take(queue, identity, now_s))
                assert len(queue.in_flight) <= 5
        elif step < 0.7 and leader.requests:
            leader.receive()
        elif step < 0.85 and leader.uncommitted:
            leader.commit()
        elif step < 0.86:
            leader.elect()
            if chance.random() < 0.5:  # else only the refusals tell
                epoch = LeaderEpoch(queue.leader_epoch + 1)
                queue.on_leader(queue.topic_id, NodeId(1), epoch, now_s)
        elif leader.answers:
            leader.answer(queue, now_s)
    assert [int(value) for value in leader.log.values()] == list(range(30))
    assert [batch.base_offset for batch in batches] == list(range(30))
    assert identity is FIRST, "nothing acknowledged was lost: no sequence was broken"

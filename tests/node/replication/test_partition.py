"""A replica over a real log: what is acknowledged, to whom, and when."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import pytest

from odradek.node.cluster.image import PartitionState, TopicState
from odradek.node.replication import partition
from odradek.node.replication.partition import UNCOMMITTED_BYTES_MAX, PartitionReplica
from odradek.node.replication.surroundings import ReplicaSurroundings
from odradek.node.storage import Storage
from odradek.protocol.errors import (
    BrokerError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTxnStateError,
    LeaderNotAvailableError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    StorageFullError,
    ThrottledError,
)
from odradek.protocol.hot import Acks
from odradek.protocol.record_batch import stamp_producer
from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    ProducerEpoch,
    ProducerId,
    TopicId,
    TopicName,
)
from tests.node.running import SMALL, batch, monotonic_ms

ME, OTHER = NodeId(1), NodeId(2)


@dataclass
class _Answers:
    acknowledged: list[int] = field(default_factory=list)
    errors: list[BrokerError] = field(default_factory=list)

    def committed(
        self, index: int, base_offset: Offset, log_append_time_ms: int, log_start_offset: Offset
    ) -> None:
        self.acknowledged.append(base_offset)

    def failed(self, index: int, error: BrokerError) -> None:
        self.errors.append(error)


@dataclass
class _Reader:
    woken: int = 0
    error: BrokerError | None = None

    def wake(self) -> None:
        self.woken += 1

    def end(self, error: BrokerError) -> None:
        self.error = error

    __hash__ = object.__hash__


@dataclass
class _Bench:
    """One replica in a storage of its own; the test decides when syncs have happened."""

    storage: Storage
    answers: _Answers = field(default_factory=_Answers)
    lapse: BrokerError | None = None
    replica: PartitionReplica = field(init=False)

    def lead(self, *isr: NodeId, config: dict[str, str] | None = None) -> PartitionReplica:
        topic, partition = _state(isr, config or {})
        surroundings = ReplicaSurroundings(ME, lambda: self.lapse, lambda _: None)
        log = self.storage.log(partition.uid)
        self.replica = PartitionReplica(log, topic, partition, surroundings)
        self.replica.take_role()
        return self.replica

    def produce(self, data: bytes | None = None, *, acks: Acks = Acks.ALL) -> None:
        self.replica.produce(batch() if data is None else data, acks, self.answers, 0)

    def synced(self) -> None:
        """Everything appended so far is on disk."""
        self.replica.on_synced(self.storage.group_commit.appended)


def _state(isr: tuple[NodeId, ...], config: dict[str, str]) -> tuple[TopicState, PartitionState]:
    partition = PartitionState(
        index=PartitionIndex(0),
        uid=PartitionUid(5),
        leader_id=ME,
        leader_epoch=LeaderEpoch(3),
        partition_epoch=PartitionEpoch(0),
        replicas=(ME, OTHER),
        isr=isr,
    )
    topic = TopicState(
        name=TopicName("t"),
        topic_id=TopicId(b"t" * 16),
        partitions=(partition,),
        config=MappingProxyType({"min.insync.replicas": "1", **config}),
    )
    return topic, partition


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[_Bench]:
    def fatal(error: BaseException) -> None:
        raise AssertionError(f"fatal: {error}") from error

    async with Storage(tmp_path, SMALL, fatal=fatal, now_ms=monotonic_ms) as storage:
        yield _Bench(storage)


async def test_nothing_is_acknowledged_before_its_sync(bench: _Bench) -> None:
    replica = bench.lead(ME)
    bench.produce()
    bench.produce(batch(2))
    assert bench.answers.acknowledged == []
    assert replica.high_watermark == 0
    bench.synced()
    assert bench.answers.acknowledged == [0, 1]
    assert replica.high_watermark == 3


async def test_the_page_cache_is_enough_where_the_topic_says_so(bench: _Bench) -> None:
    bench.lead(ME, config={"flush": "os"})
    bench.produce()
    assert bench.answers.acknowledged == [0]


async def test_acks_leader_waits_for_this_disk_alone(bench: _Bench) -> None:
    replica = bench.lead(ME, OTHER)
    bench.produce(acks=Acks.LEADER)
    bench.produce()
    bench.synced()
    assert bench.answers.acknowledged == [0]
    assert replica.high_watermark == 0


async def test_bytes_that_wait_for_a_slow_member_are_bounded(bench: _Bench) -> None:
    replica = bench.lead(ME, OTHER)
    large = batch(value=bytes(1 << 19))
    for _ in range(UNCOMMITTED_BYTES_MAX // len(large) + 1):
        await bench.storage.patiently(lambda: bench.produce(large))
    with pytest.raises(ThrottledError) as caught:
        bench.produce(large)
    assert caught.value.limit == str(UNCOMMITTED_BYTES_MAX)
    bench.synced()
    alone = replace(replica.partition, isr=(ME,), partition_epoch=PartitionEpoch(1))
    replica.update(replica.topic, alone)
    assert len(bench.answers.acknowledged) == replica.log_end_offset
    await bench.storage.patiently(lambda: bench.produce(large))


async def test_a_repeat_joins_the_wait_of_the_original(bench: _Bench) -> None:
    bench.lead(ME)
    first = batch(producer_id=4, producer_epoch=0, base_sequence=0)
    bench.produce(first)
    bench.produce()
    bench.produce(first)
    assert bench.answers.acknowledged == []
    bench.synced()
    assert sorted(bench.answers.acknowledged) == [0, 0, 1]
    bench.produce(first)
    assert bench.answers.acknowledged.count(0) == 3


async def test_a_wall_clock_that_swings_makes_no_repeat_a_new_batch(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = bench.lead(ME)
    first = batch(producer_id=4, producer_epoch=0, base_sequence=0)
    bench.produce(first)
    right_ns = time.time_ns()
    for sequence in range(60):
        off_ns = sequence % 2 * (120 + sequence) * 60 * 1_000_000_000
        monkeypatch.setattr(time, "time_ns", lambda ns=right_ns + off_ns: ns)
        bench.produce(batch(producer_id=5, producer_epoch=0, base_sequence=sequence))
    bench.produce(first)
    bench.synced()
    assert replica.log_end_offset == 61
    assert bench.answers.acknowledged.count(0) == 2


async def test_a_clock_set_back_refuses_new_batches_but_no_repeat(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = bench.lead(ME)
    first = batch(producer_id=4, producer_epoch=0, base_sequence=0)
    bench.produce(first)
    bench.synced()
    two_hours_ago_ns = time.time_ns() - 2 * 60 * 60 * 1_000_000_000
    second = batch(producer_id=4, producer_epoch=0, base_sequence=1)
    monkeypatch.setattr(time, "time_ns", lambda: two_hours_ago_ns)
    with pytest.raises(InvalidTimestampError):
        bench.produce(second)
    bench.produce(first)
    assert bench.answers.acknowledged == [0, 0]
    assert replica.log_end_offset == 1


async def test_repeats_that_wait_are_bounded(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.lead(ME, OTHER)
    first = batch(producer_id=4, producer_epoch=0, base_sequence=0)
    bench.produce(first)
    bench.synced()
    monkeypatch.setattr(partition, "UNCOMMITTED_BYTES_MAX", 10_000)
    for _ in range(10):
        bench.produce(first)
    with pytest.raises(ThrottledError):
        bench.produce(first)


async def test_a_second_batch_behind_the_first_is_refused_with_it(bench: _Bench) -> None:
    replica = bench.lead(ME)
    with pytest.raises(InvalidRecordError) as caught:
        bench.produce(batch() + batch())
    assert (caught.value.value, caught.value.limit) == (str(2 * len(batch())), str(len(batch())))
    assert replica.log_end_offset == 0


async def test_a_repeat_older_than_the_window_succeeds_without_an_offset(bench: _Bench) -> None:
    bench.lead(ME)
    for sequence in range(7):
        bench.produce(batch(producer_id=4, producer_epoch=0, base_sequence=sequence))
    bench.synced()
    bench.produce(batch(producer_id=4, producer_epoch=0, base_sequence=0))
    assert bench.answers.acknowledged[-1] == -1
    assert bench.replica.log_end_offset == 7


async def test_a_lapsed_session_acknowledges_nothing(bench: _Bench) -> None:
    bench.lead(ME)
    bench.produce()
    bench.lapse = NotLeaderOrFollowerError("paused for too long")
    bench.synced()
    assert bench.answers.acknowledged == []
    assert bench.answers.errors == [bench.lapse]


async def test_resigning_answers_everybody(bench: _Bench) -> None:
    replica = bench.lead(ME, OTHER)
    reader = _Reader()
    replica.subscribers.add(reader)
    bench.produce()
    bench.produce(acks=Acks.LEADER)
    gone = NotLeaderOrFollowerError("moved")
    replica.resign(gone)
    assert bench.answers.errors == [gone, gone]
    assert reader.error is gone
    with pytest.raises(NotLeaderOrFollowerError):
        bench.produce()
    bench.synced()
    assert bench.answers.acknowledged == []


@pytest.mark.parametrize("is_shorter", [False, True], ids=["whole", "shorter"])
async def test_after_a_full_disk_nothing_is_appended_before_a_new_epoch(
    bench: _Bench, *, is_shorter: bool
) -> None:
    """Followers may have what the reopened store lost; in one epoch an offset is written once."""
    replica = bench.lead(ME)
    bench.produce()
    bench.synced()
    bench.produce()
    full = StorageFullError("no room")
    replica.on_storage_failed(full)
    assert bench.answers.errors == [full]
    if is_shorter:
        replica.log.truncate_to(Offset(1), 0)
    end = replica.log_end_offset
    for _ in ("before the store is back", "and after"):
        with pytest.raises(StorageFullError):
            bench.produce()
        assert replica.log_end_offset == end
        replica.on_storage_recovered(bench.storage.group_commit.appended)
        bench.synced()
    replica.resign(NotLeaderOrFollowerError())
    replica.update(replica.topic, replace(replica.partition, leader_epoch=LeaderEpoch(4)))
    replica.take_role()
    bench.produce()
    bench.synced()
    assert bench.answers.acknowledged == [0, end]


async def test_a_log_found_shorter_takes_nothing_before_a_new_epoch(bench: _Bench) -> None:
    """The store was reopened, and this replica awaited nothing that could have failed."""
    replica = bench.lead(ME)
    bench.produce()
    bench.synced()
    replica.log.truncate_to(Offset(0), 0)
    with pytest.raises(StorageFullError, match="recovering"):
        bench.produce()
    assert replica.log_end_offset == 0


async def test_without_a_leader_the_error_says_so(bench: _Bench) -> None:
    replica = bench.lead(ME)
    replica.resign(LeaderNotAvailableError())
    replica.update(replica.topic, replace(replica.partition, leader_id=NodeId(-1)))
    with pytest.raises(LeaderNotAvailableError):
        bench.produce()


async def test_a_leader_of_a_new_epoch_remembers_what_is_on_its_disk(bench: _Bench) -> None:
    replica = bench.lead(ME)
    bench.produce()
    bench.synced()
    bench.produce()
    replica.resign(NotLeaderOrFollowerError())
    replica.update(replica.topic, replace(replica.partition, leader_epoch=LeaderEpoch(4)))
    replica.take_role()
    assert replica.high_watermark == 1
    assert not replica.reached_epoch_start
    bench.synced()
    assert replica.high_watermark == 2
    assert replica.reached_epoch_start
    bench.produce()
    assert replica.log.leader_epochs.entries == ((3, 0), (4, 2))


async def test_readers_are_woken_by_the_high_watermark_alone(bench: _Bench) -> None:
    replica = bench.lead(ME)
    reader = _Reader()
    replica.readers.add(reader)
    bench.produce()
    assert reader.woken == 0
    bench.synced()
    assert reader.woken == 1
    assert not replica.readers


async def test_too_few_in_sync_replicas_refuse_before_appending(bench: _Bench) -> None:
    replica = bench.lead(ME, config={"min.insync.replicas": "2"})
    with pytest.raises(NotEnoughReplicasError) as caught:
        bench.produce()
    assert (caught.value.value, caught.value.limit) == ("1", "2")
    assert replica.log_end_offset == 0


async def test_transactional_batches_are_refused_for_now(bench: _Bench) -> None:
    bench.lead(ME)
    data = bytearray(batch())
    data[22] |= 0x10
    stamp_producer(data, ProducerId(3), ProducerEpoch(0), 0)
    with pytest.raises(InvalidTxnStateError):
        bench.produce(bytes(data))


async def test_settings_change_while_leading(bench: _Bench) -> None:
    replica = bench.lead(ME)
    topic = replace(replica.topic, config=MappingProxyType({"flush": "os"}))
    replica.update(topic, replica.partition)
    # The default of min.insync.replicas is a majority of the two replicas: both.
    with pytest.raises(NotEnoughReplicasError):
        bench.produce()
    bench.produce(acks=Acks.LEADER)
    assert bench.answers.acknowledged == [0]


async def test_a_coordinators_append_returns_once_committed(bench: _Bench) -> None:
    replica = bench.lead(ME)
    appended = replica.append(batch())
    bench.synced()
    assert await appended == 0
    await replica.confirm_leadership()
    bench.lapse = NotLeaderOrFollowerError()
    with pytest.raises(NotLeaderOrFollowerError):
        await replica.confirm_leadership()

"""Which replica a request reaches, and who may wait for one."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from odradek.node.cluster.image import ImageUpdate, PartitionState, TopicState
from odradek.node.cluster.view import ClusterView
from odradek.node.replication.parked import PARKED_BYTES_MAX
from odradek.node.replication.replicas import Replicas, RoleChanges
from odradek.node.replication.waiting import FutureWaiter
from odradek.node.storage import Storage
from odradek.protocol.errors import (
    InconsistentTopicIdError,
    LeaderNotAvailableError,
    NotLeaderOrFollowerError,
    StorageFullError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.hot import Acks
from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)
from tests.node.running import SMALL, WAIT_S, batch, monotonic_ms

ME, OTHER = NodeId(1), NodeId(2)
ANY_EPOCH = LeaderEpoch(-1)
ZERO = PartitionIndex(0)


class _Host:
    """Replicas over a storage, fed with updates."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.view = ClusterView()
        self.new_epochs_needed = asyncio.Event()
        self.replicas = Replicas(
            ME,
            storage,
            self.view,
            lapsed=lambda: None,
            new_epochs_needed=self.new_epochs_needed.set,
        )

    def step(self, **changes: object) -> RoleChanges:
        before = self.view.image
        update = ImageUpdate(version=before.version + 1, **changes)  # type: ignore[arg-type]
        self.view.publish(update)
        return self.replicas.reconcile(before, update)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[_Host]:
    def fatal(error: BaseException) -> None:
        raise AssertionError(f"fatal: {error}") from error

    async with Storage(tmp_path, SMALL, fatal=fatal, now_ms=monotonic_ms) as storage:
        yield _Host(storage)


def _topic(*leaders: NodeId, name: str = "t", number: int = 1) -> TopicState:
    return TopicState(
        name=TopicName(name),
        topic_id=TopicId(number.to_bytes(16, "big")),
        partitions=tuple(
            PartitionState(
                index=PartitionIndex(index),
                uid=PartitionUid(number * 100 + index),
                leader_id=leader,
                leader_epoch=LeaderEpoch(0),
                partition_epoch=PartitionEpoch(0),
                replicas=(leader,) if leader >= 0 else (ME,),
                isr=(leader,) if leader >= 0 else (ME,),
            )
            for index, leader in enumerate(leaders)
        ),
    )


async def test_before_the_first_image_a_request_should_come_again(host: _Host) -> None:
    with pytest.raises(LeaderNotAvailableError):
        host.replicas.find(TopicId(b""), "t", ZERO, ANY_EPOCH)


async def test_what_is_led_here_is_found_by_id_and_by_name(host: _Host) -> None:
    topic = _topic(ME, OTHER)
    changes = host.step(snapshot=True, topics=(topic,))
    assert [str(each) for each in changes.leading] == ["t-0"]
    by_id = host.replicas.find(topic.topic_id, "", ZERO, ANY_EPOCH)
    assert host.replicas.find(TopicId(b""), "t", ZERO, LeaderEpoch(0)) is by_id
    with pytest.raises(NotLeaderOrFollowerError):
        host.replicas.find(topic.topic_id, "t", PartitionIndex(1), ANY_EPOCH)
    with pytest.raises(UnknownTopicOrPartitionError):
        host.replicas.find(topic.topic_id, "t", PartitionIndex(2), ANY_EPOCH)
    with pytest.raises(InconsistentTopicIdError):
        host.replicas.find(topic.topic_id, "u", ZERO, ANY_EPOCH)


async def test_each_step_changes_the_roles_it_names(host: _Host) -> None:
    topic = _topic(ME, ME)
    host.step(snapshot=True, topics=(topic,))
    moved = replace(topic.partitions[0], leader_id=NodeId(-1), leader_epoch=LeaderEpoch(1))
    changes = host.step(partitions=((topic.topic_id, moved),))
    assert [str(each) for each in changes.resigned] == ["t-0"]
    assert changes.leading == []
    with pytest.raises(LeaderNotAvailableError):
        host.replicas.find(topic.topic_id, "t", ZERO, ANY_EPOCH)
    back = replace(moved, leader_id=ME, leader_epoch=LeaderEpoch(2))
    changes = host.step(partitions=((topic.topic_id, back),))
    assert [str(each) for each in changes.leading] == ["t-0"]
    again = replace(back, leader_epoch=LeaderEpoch(3))
    changes = host.step(partitions=((topic.topic_id, again),))
    assert [str(each) for each in changes.resigned + changes.leading] == ["t-0", "t-0"]


async def test_a_snapshot_drops_what_it_does_not_name(host: _Host) -> None:
    old, kept = _topic(ME), _topic(ME, name="kept", number=2)
    host.step(snapshot=True, topics=(old, kept))
    changes = host.step(snapshot=True, topics=(kept,))
    assert [str(each) for each in changes.resigned] == ["t-0"]
    assert len(host.replicas) == 1
    with pytest.raises(UnknownTopicIdError):
        host.replicas.find(old.topic_id, "t", ZERO, ANY_EPOCH)


async def test_a_deleted_topics_data_is_gone(host: _Host) -> None:
    topic = _topic(ME)
    host.step(snapshot=True, topics=(topic,))
    uid = topic.partitions[0].uid
    appended = host.replicas.find(topic.topic_id, "t", ZERO, ANY_EPOCH).append(batch())
    host.replicas.commit_soon()
    assert await appended == Offset(0)
    host.step(removed_topic_ids=(topic.topic_id,))
    assert host.storage.log(uid).log_end_offset == 0


async def test_the_next_sync_runs_while_the_last_ones_appends_are_answered(
    host: _Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = host.storage.group_commit
    sync, begun = commit._sync, threading.Semaphore(0)

    def counted() -> None:
        begun.release()
        sync()

    monkeypatch.setattr(commit, "_sync", counted)
    topic = _topic(ME)
    host.step(snapshot=True, topics=(topic,))
    replica = host.replicas.find(topic.topic_id, "t", ZERO, ANY_EPOCH)
    overlapped: list[bool] = []

    class Answered(FutureWaiter):
        def committed(
            self, index: int, base_offset: Offset, log_append_time_ms: int, log_start_offset: Offset
        ) -> None:
            overlapped.append(begun.acquire(timeout=5))
            super().committed(index, base_offset, log_append_time_ms, log_start_offset)

    first = Answered()
    replica.produce(batch(), Acks.ALL, first, 0)
    host.replicas.commit_soon()
    await asyncio.sleep(0)  # a sync begins a pass of the loop later
    assert begun.acquire(timeout=5), "the first sync"
    second = replica.append(batch())
    assert await first.future == Offset(0)
    assert overlapped == [True]
    assert await second == Offset(1)


async def test_what_survived_a_full_disk_is_committed_though_nobody_appends(
    host: _Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a coordinator waits for ever, and readers never see the end of the log."""
    topic = _topic(ME)
    host.step(snapshot=True, topics=(topic,))
    replica = host.replicas.find(topic.topic_id, "t", ZERO, ANY_EPOCH)

    def full() -> None:
        raise StorageFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(host.storage.group_commit, "_sync", full)
        appended = replica.append(batch())
        host.replicas.commit_soon()
        with pytest.raises(StorageFullError):
            await appended
    upkeep = asyncio.create_task(host.replicas.run())
    await host.new_epochs_needed.wait()
    led_anew = replace(topic.partitions[0], leader_epoch=LeaderEpoch(1))
    host.step(partitions=((topic.topic_id, led_anew),))
    async with asyncio.timeout(WAIT_S):
        await replica.confirm_leadership()
    assert replica.high_watermark == 1
    upkeep.cancel()


async def test_a_topic_deleted_before_it_was_heard_of_is_no_news(host: _Host) -> None:
    changes = host.step(removed_topic_ids=(TopicId(b"x" * 16),))
    assert (changes.resigned, changes.leading) == ([], [])


async def test_parking_is_bounded_in_bytes_and_time(host: _Host) -> None:
    given_up: list[int] = []
    half = PARKED_BYTES_MAX // 2
    for number in range(2):
        assert host.replicas.park(half, 0.0, lambda: False, lambda n=number: given_up.append(n))  # type: ignore[misc]
    assert not host.replicas.park(1, 0.0, lambda: False, lambda: None)
    host.step()  # both are past their deadline
    assert given_up == [0, 1]
    assert host.replicas.park(1, 0.0, lambda: True, lambda: None)


async def test_the_parked_are_tried_again_in_order_at_each_step(host: _Host) -> None:
    tried: list[int] = []

    def attempt(number: int) -> bool:
        tried.append(number)
        return len(tried) > 2

    for number in range(2):
        host.replicas.park(1, float("inf"), lambda n=number: attempt(n), lambda: None)  # type: ignore[misc]
    host.step()
    host.step()
    host.step()
    assert tried == [0, 1, 0, 1]

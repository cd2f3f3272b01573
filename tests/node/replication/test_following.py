"""A follower over a real log."""

import time
from pathlib import Path

import pytest

from odradek.node.cluster.image import PartitionState
from odradek.node.replication.durable_end import DurableEnd
from odradek.node.replication.following import Following
from odradek.node.storage.store import Store
from odradek.protocol.errors import StorageFullError
from odradek.protocol.replication import PushFrame
from odradek.protocol.types import LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex
from tests.node.storage.batches import EPOCH, UID, append, batch, opened


async def test_a_log_start_that_a_full_disk_refused_is_taken_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader_id = NodeId(1)
    partition = PartitionState(
        index=PartitionIndex(0),
        uid=UID,
        leader_id=leader_id,
        leader_epoch=LeaderEpoch(EPOCH + 1),
        partition_epoch=PartitionEpoch(0),
        replicas=(leader_id, NodeId(2)),
        isr=(leader_id,),
    )

    def refuse(*_: object) -> None:
        raise StorageFullError

    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        for _ in range(3):
            append(log, batch(2))
        following = Following(
            log,
            partition,
            DurableEnd(log.log_end_offset),
            high_watermark=Offset(6),
            new_session=lambda: 1,
            counts_page_cache=lambda: False,
            announce=lambda _: None,
            ack=lambda _: None,
            unsynced=lambda: None,
            storage_refused=lambda: None,
        )
        following.on_connected()
        push = PushFrame(
            UID, partition.leader_epoch, 1, Offset(6), Offset(6), Offset(4), memoryview(b"")
        )
        with monkeypatch.context() as full:
            full.setattr(Store, "write", refuse)
            following.on_pushed(push)
            following.on_tick(time.monotonic())
            assert log.log_start_offset == 0
        following.on_tick(time.monotonic())
        assert log.log_start_offset == 4

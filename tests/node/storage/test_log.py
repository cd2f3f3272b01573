"""One partition's log: append, read, truncate, retain, find by time, reopen."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odradek.node.storage import PartitionLog, Storage, StorageOptions, TimestampOffset
from odradek.protocol.errors import (
    CorruptMessageError,
    InvalidRecordError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
)
from odradek.protocol.record_batch import BatchHeader, decode, validate
from odradek.protocol.types import LeaderEpoch, Offset, PartitionUid
from tests.node.storage.batches import (
    BATCH_BYTES_MAX,
    EPOCH,
    NOW_MS,
    SMALL,
    UID,
    append,
    base_offsets,
    batch,
    copy_as_after_power_loss,
    opened,
    read_all,
)

COLD = StorageOptions(reserve_bytes=1 << 20, store=SMALL.store, tail_cache_bytes=0)
HOUR_MS = 60 * 60 * 1000


async def test_offsets_and_epochs_are_stamped(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        assert (log.log_start_offset, log.log_end_offset, log.size_bytes) == (0, 0, 0)
        first, second = append(log, batch(3)), append(log, batch(2))
        assert (first.base_offset, first.last_offset) == (0, 2)
        assert (second.base_offset, second.last_offset) == (3, 4)
        assert log.log_end_offset == 5
        assert log.size_bytes == len(batch(3)) + len(batch(2))
        await storage.group_commit.when_durable(second.position)
        stored = await read_all(log)
        assert [(r.offset, r.value) for b in stored for r in decode(b)] == [
            (i, b"value") for i in range(5)
        ]
        assert {BatchHeader.parse(b).leader_epoch for b in stored} == {EPOCH}


@pytest.mark.parametrize("options", [SMALL, COLD])
async def test_reading_returns_whole_batches(tmp_path: Path, options: StorageOptions) -> None:
    async with opened(tmp_path, options) as storage:
        log = storage.log(UID)
        storage.log(PartitionUid(UID + 1)).append_replicated([batch(9)], NOW_MS)
        size = len(batch(2))
        for _ in range(5):
            append(log, batch(2))
        assert base_offsets(await log.read(Offset(0), 1 << 20)) == [0, 2, 4, 6, 8]
        assert base_offsets(await log.read(Offset(3), 1 << 20)) == [2, 4, 6, 8]
        assert base_offsets(await log.read(Offset(3), 2 * size)) == [2, 4]
        assert base_offsets(await log.read(Offset(3), 1)) == [2]
        assert base_offsets(await log.read(Offset(0), 1 << 20, Offset(6))) == [0, 2, 4]
        assert base_offsets(await log.read(Offset(0), 1 << 20, Offset(5))) == [0, 2]
        assert await log.read(Offset(4), 1 << 20, Offset(4)) == []
        assert await log.read(Offset(10), 1 << 20) == []
        for outside in (-1, 11):
            with pytest.raises(OffsetOutOfRangeError) as error:
                await log.read(Offset(outside), 1)
            assert (error.value.value, error.value.limit) == (str(outside), "0..10")


async def test_a_log_reopens_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        append(log, batch(3, producer_id=5, producer_epoch=0, base_sequence=0))
        append(log, batch(2, timestamp_ms=NOW_MS + 50), LeaderEpoch(4))
        log.checkpoint_high_watermark(Offset(3))
        before = await read_all(log)
        size_bytes = log.size_bytes
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        assert (log.log_end_offset, log.size_bytes) == (5, size_bytes)
        assert log.high_watermark_checkpoint == 3
        assert list(log.leader_epochs.entries) == [(3, 0), (4, 3)]
        assert await read_all(log) == before
        again = append(log, batch(3, producer_id=5, producer_epoch=0, base_sequence=0))
        assert again.is_duplicate
        assert (again.base_offset, again.last_offset) == (0, 2)
        assert log.log_end_offset == 5


async def test_producers_are_checked(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        for sequence in range(7):
            append(log, batch(producer_id=5, producer_epoch=0, base_sequence=sequence))
        duplicate = append(log, batch(producer_id=5, producer_epoch=0, base_sequence=4))
        assert (duplicate.base_offset, duplicate.is_duplicate) == (4, True)
        ancient = append(log, batch(producer_id=5, producer_epoch=0, base_sequence=0))
        assert (ancient.base_offset, ancient.is_duplicate) == (None, True)
        with pytest.raises(OutOfOrderSequenceNumberError):
            append(log, batch(producer_id=5, producer_epoch=0, base_sequence=9))
        assert log.log_end_offset == 7


async def test_log_append_time_replaces_the_producers(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        data = batch(2, timestamp_ms=NOW_MS + 9 * HOUR_MS)
        header = validate(data, BATCH_BYTES_MAX)
        log.append(data, header, EPOCH, 0, append_time_ms=NOW_MS)
        (stored,) = await read_all(log)
        assert {record.timestamp for record in decode(stored)} == {NOW_MS}


@pytest.mark.parametrize("options", [SMALL, COLD])
async def test_truncation_removes_whole_batches(tmp_path: Path, options: StorageOptions) -> None:
    async with opened(tmp_path, options) as storage:
        log = storage.log(UID)
        for i in range(5):
            append(
                log,
                batch(2, producer_id=1, producer_epoch=0, base_sequence=2 * i),
                LeaderEpoch(i),
            )
        log.checkpoint_high_watermark(Offset(8))
        log.truncate_to(Offset(7), NOW_MS)
        assert log.log_end_offset == 6
        assert base_offsets(await read_all(log)) == [0, 2, 4]
        assert log.size_bytes == 3 * len(batch(2))
        assert log.high_watermark_checkpoint == 6
        assert log.leader_epochs.latest == 2
        again = append(log, batch(2, producer_id=1, producer_epoch=0, base_sequence=6), EPOCH)
        assert (again.base_offset, again.is_duplicate) == (6, False)
        kept = append(log, batch(2, producer_id=1, producer_epoch=0, base_sequence=4), EPOCH)
        assert (kept.base_offset, kept.is_duplicate) == (4, True)
        log.truncate_to(Offset(0), NOW_MS)
        assert (log.log_end_offset, log.size_bytes) == (0, 0)
        assert append(log, batch(4)).last_offset == 3


async def test_the_log_start_only_moves_forward(tmp_path: Path) -> None:
    async with opened(tmp_path, COLD) as storage:
        log = storage.log(UID)
        for _ in range(5):
            append(log, batch(2))
        log.advance_log_start(Offset(5), NOW_MS)
        log.advance_log_start(Offset(1), NOW_MS)
        assert log.log_start_offset == 5
        assert base_offsets(await log.read(Offset(5), 1 << 20)) == [4, 6, 8]
        assert log.size_bytes == 3 * len(batch(2))
        with pytest.raises(OffsetOutOfRangeError):
            await log.read(Offset(4), 1)
        with pytest.raises(OffsetOutOfRangeError):
            log.advance_log_start(Offset(11), NOW_MS)
        log.advance_log_start(Offset(10), NOW_MS)
        assert (log.log_end_offset, log.size_bytes) == (10, 0)
    async with opened(tmp_path, COLD) as storage:
        log = storage.log(UID)
        assert (log.log_start_offset, log.log_end_offset, log.size_bytes) == (10, 10, 0)
        assert append(log, batch()).base_offset == 10


async def test_followers_append_what_the_leader_stamped(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        leader, follower = storage.log(UID), storage.log(PartitionUid(8))
        for i in range(4):
            append(
                leader,
                batch(2, producer_id=1, producer_epoch=0, base_sequence=2 * i),
                LeaderEpoch(i // 2),
            )
        batches = await read_all(leader)
        follower.append_replicated(batches[:3], NOW_MS)
        follower.append_replicated([memoryview(batches[3])], NOW_MS)
        assert await read_all(follower) == batches
        assert follower.leader_epochs.entries == leader.leader_epochs.entries
        repeated = append(follower, batch(2, producer_id=1, producer_epoch=0, base_sequence=2))
        assert repeated.base_offset == 2
        with pytest.raises(InvalidRecordError) as error:
            follower.append_replicated([batches[1]], NOW_MS)
        assert error.value.field == "base_offset"
        with pytest.raises(CorruptMessageError):
            follower.append_replicated([batches[3][:-1] + b"?"], NOW_MS)
        assert follower.log_end_offset == 8


async def test_a_record_is_found_by_time(tmp_path: Path) -> None:
    async with opened(tmp_path, COLD) as storage:
        log = storage.log(UID)
        assert await log.max_timestamp() is None
        for start in (100, 200, 150, 300):
            append(log, batch(5, timestamp_ms=NOW_MS + start))
        for wanted, offset, timestamp in (
            (0, 0, 100),
            (102, 2, 102),
            (105, 5, 200),
            (204, 9, 204),
            (205, 15, 300),
            (304, 19, 304),
        ):
            found = await log.offset_for_timestamp(NOW_MS + wanted)
            assert found == TimestampOffset(Offset(offset), NOW_MS + timestamp, EPOCH)
        assert await log.offset_for_timestamp(NOW_MS + 305) is None
        assert await log.max_timestamp() == TimestampOffset(Offset(19), NOW_MS + 304, EPOCH)


async def test_deleted_batches_do_not_answer_for_their_time(tmp_path: Path) -> None:
    async with opened(tmp_path, COLD) as storage:
        log = storage.log(UID)
        for start in (900, 100, 200):
            append(log, batch(5, timestamp_ms=NOW_MS + start))
        log.advance_log_start(Offset(5), NOW_MS)
        found = await log.offset_for_timestamp(NOW_MS + 150)
        assert found == TimestampOffset(Offset(10), NOW_MS + 200, EPOCH)
        assert await log.offset_for_timestamp(NOW_MS + 500) is None
        assert await log.max_timestamp() == TimestampOffset(Offset(14), NOW_MS + 204, EPOCH)


async def test_damage_on_disk_is_found_and_named(tmp_path: Path) -> None:
    async with opened(tmp_path, COLD) as storage:
        log = storage.log(UID)
        append(log, batch(2))
        append(log, batch(2, value=bytes(range(256)) * 160))
        append(log, batch(2))
    (segment,) = (tmp_path / "store" / "values").iterdir()
    content = bytearray(segment.read_bytes())
    content[1500] ^= 1
    segment.write_bytes(content)
    async with opened(tmp_path, COLD) as storage:
        log = storage.log(UID)
        assert base_offsets(await log.read(Offset(0), 1)) == [0]
        with pytest.raises(CorruptMessageError, match="uid 7, offset 2"):
            await log.read(Offset(2), 1)
        assert base_offsets(await log.read(Offset(4), 1)) == [4]


async def test_snapshots_spare_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odradek.node.storage.producer_snapshots.SNAPSHOT_BATCHES", 4)
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        for i in range(30):
            append(log, batch(producer_id=i % 3, producer_epoch=0, base_sequence=i // 3))
        assert log._snapshots._offsets == [19, 23, 27]
        live = log._producers.snapshot()
        log.load(NOW_MS)
        assert log._producers.snapshot() == live
        log.truncate_to(Offset(22), NOW_MS)
        assert log._snapshots._offsets == [19]
        for i in range(22, 30):
            fresh = append(log, batch(producer_id=i % 3, producer_epoch=0, base_sequence=i // 3))
            assert not fresh.is_duplicate
        assert log._producers.snapshot() == live


async def test_a_producer_is_known_though_the_log_start_has_passed_its_batches(
    tmp_path: Path,
) -> None:
    """And though nothing of the log was replayed since: a truncation and a kill reload it."""
    async with opened(tmp_path) as storage:
        log = storage.log(UID)
        only = batch(2, producer_id=1, producer_epoch=0, base_sequence=0)
        append(log, only)
        log.advance_log_start(Offset(2), NOW_MS)
        log.load(NOW_MS)
        assert append(log, only).is_duplicate
        assert log.log_end_offset == 2


async def test_a_snapshot_of_batches_that_were_cut_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a crash makes duplicates of records that are in no log: they would be lost."""
    data, crashed = tmp_path / "data", tmp_path / "crashed"
    sequences = [batch(producer_id=1, producer_epoch=0, base_sequence=each) for each in range(10)]
    async with opened(data) as storage:
        log = storage.log(UID)
        with monkeypatch.context() as often:
            often.setattr("odradek.node.storage.producer_snapshots.SNAPSHOT_BATCHES", 4)
            for each in sequences:
                append(log, each)
        assert log._snapshots._offsets == [3, 7]
        log.truncate_to(Offset(5), NOW_MS)
        for _ in range(10):
            append(log, batch())
        await storage.group_commit.when_durable(log.last_position)
        copy_as_after_power_loss(data, crashed)
    async with opened(crashed) as storage:
        log = storage.log(UID)
        assert log.log_end_offset == 15
        kept = [append(log, each) for each in sequences[:5]]
        assert [(each.base_offset, each.is_duplicate) for each in kept] == [
            (offset, True) for offset in range(5)
        ]
        sent_again = [append(log, each) for each in sequences[5:]]
        assert [(each.base_offset, each.is_duplicate) for each in sent_again] == [
            (offset, False) for offset in range(15, 20)
        ]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("truncate"), st.integers(0, 25)),
        st.tuples(st.just("advance"), st.integers(0, 25)),
        st.tuples(st.just("load"), st.just(0)),
    ),
    max_size=25,
)


async def play(storage: Storage, log: PartitionLog, actions: list[tuple[str, int]]) -> None:
    start, model = 0, list[tuple[int, int]]()  # (base, end) of each batch
    for action, argument in actions:
        end = model[-1][1] if model else start
        if action == "append":
            append(log, batch(argument))
            model.append((end, end + argument))
        elif action == "truncate" and argument >= start:
            log.truncate_to(Offset(argument), NOW_MS)
            cut = [base for base, reached in model if reached > argument]
            model = [b for b in model if b[1] <= argument]
            start = min(start, *cut) if cut else start  # the batch cut may hold the log start
        elif action == "advance" and argument <= end:
            log.advance_log_start(Offset(argument), NOW_MS)
            start = max(start, argument)
            model = [b for b in model if b[1] > start]
        elif action == "load":
            log.load(NOW_MS)
        expected_end = model[-1][1] if model else log.log_start_offset
        assert (log.log_end_offset, log.log_start_offset) == (expected_end, start)
        assert base_offsets(await read_all(log)) == [base for base, _ in model]
        assert log.size_bytes == sum(len(batch(b - a)) for a, b in model)
    storage.drop(log.uid)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(histories=st.lists(steps, min_size=1, max_size=4))
async def test_a_log_behaves_like_a_list_of_batches(
    tmp_path: Path, histories: list[list[tuple[str, int]]]
) -> None:
    async with opened(tmp_path) as storage:
        for number, actions in enumerate(histories):
            log = storage.log(PartitionUid(number))
            assert log.log_end_offset == 0
            await play(storage, log, actions)

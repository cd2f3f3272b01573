"""The whole: recovery, detection of lost data, dropping, many partitions, full disks."""

import time
from pathlib import Path

import pytest

from odradek.node.storage import RecoveryReport, Storage, StorageOptions, Table
from odradek.node.storage.durable_mark import Mark
from odradek.protocol.errors import StorageError, StorageFullError, ThrottledError
from odradek.protocol.types import Offset, PartitionUid
from tests.node.storage.batches import (
    NOW_MS,
    SMALL,
    UID,
    append,
    append_patiently,
    base_offsets,
    batch,
    copy_as_after_power_loss,
    opened,
    read_all,
    refuse,
    until,
)

NOTHING_LOST = RecoveryReport(lost_data=False, lost_pages=False)


def newest_log(directory: Path) -> Path:
    return max((directory / "store").glob("*.log"), key=lambda path: path.name)


def marked(storage: Storage) -> Mark:
    mark = storage._mark_file.mark
    assert mark is not None
    return mark


async def test_a_new_directory_has_lost_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "deep" / "data") as storage:
        assert storage.recovered == NOTHING_LOST


async def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(StorageError, match="cannot be opened"):
            async with opened(tmp_path):
                pass


async def test_power_loss_is_no_orderly_stop_but_loses_nothing_synced(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as storage:
        log = storage.log(UID)
        for _ in range(20):
            appended = append(log, batch(2))
        await storage.group_commit.when_durable(appended.position)
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "after")
    async with opened(tmp_path / "after") as storage:
        assert storage.recovered == NOTHING_LOST
        assert storage.log(UID).log_end_offset == 40


async def test_missing_synced_data_is_detected(tmp_path: Path) -> None:
    async with opened(tmp_path / "live") as storage:
        log = storage.log(UID)
        append(log, batch(2))
        for _ in range(20):
            append(log, batch(2))
        sequence = storage._store.sequence
        # Without further traffic the mark catches up by itself.
        await until(lambda: marked(storage).sequence >= sequence)
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "rotten")
    path = newest_log(tmp_path / "rotten")
    content = bytearray(path.read_bytes())
    content[len(content.rstrip(b"\0")) // 2] ^= 1
    path.write_bytes(content)
    async with opened(tmp_path / "rotten") as storage:
        assert storage.recovered == RecoveryReport(lost_data=True, lost_pages=False)
        log = storage.log(UID)
        assert 0 < log.log_end_offset < 42
        assert base_offsets(await read_all(log)) == list(range(0, log.log_end_offset, 2))
    async with opened(tmp_path / "rotten") as storage:
        assert storage.recovered.lost_data, "nobody has been told"
        await storage.recovery_told()
    async with opened(tmp_path / "rotten") as storage:
        assert storage.recovered == NOTHING_LOST


async def test_data_without_a_mark_counts_as_lost(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        append(storage.log(UID), batch())
    (tmp_path / "durable.mark").unlink()
    async with opened(tmp_path) as storage:
        assert storage.recovered.lost_data


def boot(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the machine started anew, when the name is another one."""
    monkeypatch.setattr("odradek.node.storage.storage.read_boot_id", lambda: name * 36)


async def test_a_crash_of_the_machine_costs_unsynced_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(monkeypatch, "a")
    async with opened(tmp_path / "1"):
        copy_as_after_power_loss(tmp_path / "1", tmp_path / "2")
        copy_as_after_power_loss(tmp_path / "1", tmp_path / "3")
    async with opened(tmp_path / "2") as storage:
        assert storage.recovered == NOTHING_LOST, "only the process died"
    boot(monkeypatch, "b")
    async with opened(tmp_path / "2") as storage:
        assert storage.recovered == NOTHING_LOST, "the machine restarted after an orderly stop"
    for _ in range(2):
        async with opened(tmp_path / "3") as storage:
            assert storage.recovered == RecoveryReport(lost_data=False, lost_pages=True)
    async with opened(tmp_path / "3") as storage:
        await storage.recovery_told()
    async with opened(tmp_path / "3") as storage:
        assert storage.recovered == NOTHING_LOST


async def test_new_settings_count_once_all_that_went_before_is_synced_and_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(monkeypatch, "a")
    async with opened(tmp_path / "live") as storage:
        await storage.group_commit.pause()
        append(storage.log(UID), batch(2))
        storage.on_settings_taken(7)
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "early")
        storage.group_commit.resume()
        # Also when nothing is appended any more.
        await until(lambda: marked(storage).metadata_version == 7)
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "late")
    boot(monkeypatch, "b")
    async with opened(tmp_path / "early") as storage:
        assert storage.recovered == RecoveryReport(False, lost_pages=True, metadata_version=0)
    async with opened(tmp_path / "late") as storage:
        assert storage.recovered == RecoveryReport(False, lost_pages=True, metadata_version=7)
        storage.on_settings_taken(9)
    async with opened(tmp_path / "late") as storage:
        assert storage.recovered.metadata_version == 7, "the controllers do not know yet"
        storage.on_settings_taken(9)
        await storage.recovery_told()
    async with opened(tmp_path / "late") as storage:
        assert storage.recovered == RecoveryReport(False, lost_pages=False, metadata_version=9)


async def test_changes_wait_patiently_for_room(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        storage.group_commit.on_write_stall()
        log, refusals = storage.log(UID), [ThrottledError(), ThrottledError()]

        def change() -> int:
            if refusals:
                storage.group_commit.on_write_stall()
                raise refusals.pop()
            return append(log, batch(2)).position

        await storage.group_commit.when_durable(await storage.patiently(change))
        assert log.log_end_offset == 2


async def test_nothing_is_written_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odradek.node.storage.storage._TICK_S", 0.002)
    monkeypatch.setattr("odradek.node.storage.storage._MARK_INTERVAL_S", 0.01)
    ticks = 0

    def count_ticks(_: Path) -> int:
        nonlocal ticks
        ticks += 1
        return 1 << 40

    storage = Storage(tmp_path, SMALL, fatal=refuse, now_ms=lambda: NOW_MS, free_bytes=count_ticks)
    async with storage:
        append(storage.log(UID), batch())
        await until(lambda: marked(storage).sequence == storage._store.sequence)
        marks, syncs = storage._mark_file._counter, list[None]()
        storage.group_commit._sync = lambda: syncs.append(None)
        ticks = 0
        await until(lambda: ticks > 50)
        assert (storage._mark_file._counter, syncs) == (marks, [])


async def test_a_dropped_partition_is_gone_and_others_stay(tmp_path: Path) -> None:
    other = PartitionUid(UID + 1)
    async with opened(tmp_path) as storage:
        for uid in (UID, other):
            append(storage.log(uid), batch(2))
            storage.table(Table.COMMITTED_OFFSETS).write(uid, {b"group": b"5"})
        storage.drop(UID)
        assert storage.log(UID).log_end_offset == 0
        assert storage.log(other).log_end_offset == 2
    async with opened(tmp_path) as storage:
        assert storage.log(UID).log_end_offset == 0
        assert await storage.log(UID).read(Offset(0), 1) == []
        assert storage.log(other).log_end_offset == 2
        table = storage.table(Table.COMMITTED_OFFSETS)
        assert table.get(UID, b"group") is None
        assert table.get(other, b"group") == b"5"


async def test_state_tables_are_kept_apart(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        offsets, transactions = storage.table(Table.COMMITTED_OFFSETS), storage.table(Table.REPLICA)
        position = offsets.write(UID, {b"b": b"2", b"a": b"1", b"ab": b"3"})
        transactions.write(UID, {b"a": b"other"})
        await storage.group_commit.when_durable(position)
        assert offsets.scan(UID) == [(b"a", b"1"), (b"ab", b"3"), (b"b", b"2")]
        assert offsets.scan(UID, b"a") == [(b"a", b"1"), (b"ab", b"3")]
        offsets.write(UID, {b"a": b"9"}, delete=[b"b"])
        assert offsets.scan(UID) == [(b"a", b"9"), (b"ab", b"3")]
        assert transactions.scan(UID) == [(b"a", b"other")]
        assert offsets.scan(PartitionUid(UID + 1)) == []


async def test_thousands_of_partitions_open_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        for uid in range(2000):
            append(storage.log(PartitionUid(uid)), batch(2))
    started_s = time.perf_counter()
    async with opened(tmp_path) as storage:
        ends = {storage.log(PartitionUid(uid)).log_end_offset for uid in range(2000)}
        assert ends == {2}
        assert time.perf_counter() - started_s < 3


async def test_appends_stop_at_the_reserve_and_resume(tmp_path: Path) -> None:
    free_bytes = 1 << 30
    storage = Storage(
        tmp_path,
        StorageOptions(reserve_bytes=1 << 29, store=SMALL.store),
        fatal=refuse,
        now_ms=lambda: NOW_MS,
        free_bytes=lambda _: free_bytes,
    )
    async with storage:
        log = storage.log(UID)
        append(log, batch(2))
        free_bytes = 1 << 28
        await until(lambda: storage.is_full)
        with pytest.raises(StorageFullError) as error:
            append(log, batch(2))
        assert error.value.limit == str(1 << 29)
        assert log.log_end_offset == 2, "a refused append leaves no trace"
        assert base_offsets(await log.read(Offset(0), 1)) == [0]
        storage.drop(PartitionUid(99))  # deletions pass
        free_bytes = 1 << 30
        await until(lambda: not storage.is_full)
        assert append(log, batch(2)).base_offset == 2


async def test_dropped_batches_give_their_room_back(tmp_path: Path) -> None:
    options = StorageOptions(reserve_bytes=1 << 40, store=SMALL.store)
    free_bytes = 2 << 40
    storage = Storage(
        tmp_path, options, fatal=refuse, now_ms=lambda: NOW_MS, free_bytes=lambda _: free_bytes
    )
    async with storage:
        for uid in (1, 2):
            for _ in range(20):
                await append_patiently(storage, PartitionUid(uid), batch(value=bytes(500_000)))
        storage._store.reclaim()
        before = storage._store.batch_bytes_on_disk
        storage.drop(PartitionUid(1))
        free_bytes = 1 << 39  # short: now every byte is worth the work
        await until(lambda: storage._store.batch_bytes_on_disk < 0.6 * before)
        assert len(await read_all(storage.log(PartitionUid(2)))) == 20

"""A disk that is really full: nothing is lost, reads go on, writes resume."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from odradek.node.storage import Storage, StorageOptions, StoreOptions
from odradek.protocol.errors import StorageFullError
from odradek.protocol.record_batch import decode
from odradek.protocol.types import Offset
from tests.node.storage.batches import (
    UID,
    append,
    append_patiently,
    batch,
    opened,
    read_all,
    until,
)

DISK_BYTES = 96 << 20
MEMTABLE_BYTES = 2 << 20
VALUE = os.urandom(100_000)
_SHM = Path("/dev/shm")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB; without the right to mount, a container's /dev/shm is one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode == 0:
        yield tmp_path
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
        return
    disk = os.statvfs(_SHM)
    assert disk.f_blocks * disk.f_frsize <= 2 * DISK_BYTES, "may neither mount nor use /dev/shm"
    directory = _SHM / f"odradek-{os.getpid()}"
    directory.mkdir()
    try:
        yield directory
    finally:
        subprocess.run(["rm", "-r", str(directory)], check=True)


def options(reserve_bytes: int) -> StorageOptions:
    return StorageOptions(
        reserve_bytes=reserve_bytes,
        tail_cache_bytes=0,
        store=StoreOptions(memtable_bytes=MEMTABLE_BYTES),
    )


def fill(path: Path, leave_bytes: int) -> None:
    """Let somebody else's file take the room."""
    disk = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leave_bytes)


async def append_until_full(storage: Storage) -> int:
    """Return how many batches were acknowledged."""
    acknowledged = 0
    while True:
        try:
            position = await append_patiently(storage, UID, batch(value=VALUE))
            await storage.group_commit.when_durable(position)
        except StorageFullError:
            return acknowledged
        acknowledged += 1


async def test_the_reserve_stops_appends_first(small_disk: Path) -> None:
    async with opened(small_disk / "data", options(5 * MEMTABLE_BYTES)) as storage:
        acknowledged = await asyncio.wait_for(append_until_full(storage), 60)
        assert acknowledged > 100
        assert not storage._store.is_broken, "RocksDB never met the full disk"
        log = storage.log(UID)
        assert log.log_end_offset == acknowledged
        assert len(await read_all(log)) == acknowledged
    async with opened(small_disk / "data", options(5 * MEMTABLE_BYTES)) as storage:
        assert storage.log(UID).log_end_offset == acknowledged


async def test_a_disk_filled_by_others_is_noticed_and_writes_resume(small_disk: Path) -> None:
    reserve_bytes = 5 * MEMTABLE_BYTES
    async with opened(small_disk / "data", options(reserve_bytes)) as storage:
        log = storage.log(UID)
        for _ in range(20):
            position = await append_patiently(storage, UID, batch(value=VALUE))
        await storage.group_commit.when_durable(position)
        fill(small_disk / "filler", reserve_bytes // 2)
        await until(lambda: storage.is_full, deadline_s=1)
        with pytest.raises(StorageFullError):
            append(log, batch(value=VALUE))
        assert len(await read_all(log)) == 20
        (small_disk / "filler").unlink()
        async with asyncio.timeout(5):
            await until(lambda: not storage.is_full)
            position = await append_patiently(storage, UID, batch(value=VALUE))
            await storage.group_commit.when_durable(position)
        assert log.log_end_offset == 21


async def test_after_a_real_enospc_the_store_is_reopened_in_place(small_disk: Path) -> None:
    """Without a reserve RocksDB meets the full disk; everything acknowledged is kept."""
    directory = small_disk / "data"
    async with opened(directory, options(0)) as storage:
        log = storage.log(UID)
        for _ in range(5):
            append(log, batch(value=VALUE))
        await storage.group_commit.when_durable(log.last_position)
        fill(small_disk / "filler", 3 << 20)
        storage._measure = lambda: storage._space.on_measured(1 << 40)  # type: ignore[method-assign]
        acknowledged = 5 + await asyncio.wait_for(append_until_full(storage), 30)
        assert storage._store.is_broken
        (small_disk / "filler").unlink()
        await until(lambda: not storage.is_full, deadline_s=5)
        end = log.log_end_offset
        assert end >= acknowledged
        position = await append_patiently(storage, UID, batch(value=VALUE))
        await storage.group_commit.when_durable(position)
        offsets = [record.offset for b in await read_all(log) for record in decode(b)]
        assert offsets == list(range(end + 1))
        assert await log.read(Offset(end + 1), 1) == []
    async with opened(directory, options(0)) as storage:
        assert storage.log(UID).log_end_offset == end + 1
        assert not storage.recovered.lost_data

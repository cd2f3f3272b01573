"""Batches and storages for the tests of this directory."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from odradek.node.storage import Appended, PartitionLog, Storage, StorageOptions, StoreOptions
from odradek.protocol.record_batch import BatchBuilder, BatchHeader, validate
from odradek.protocol.types import LeaderEpoch, Offset, PartitionUid, ProducerEpoch, ProducerId

NOW_MS = 1_700_000_000_000
UID = PartitionUid(7)
EPOCH = LeaderEpoch(3)
BATCH_BYTES_MAX = 1 << 20
SMALL = StorageOptions(reserve_bytes=1 << 20, store=StoreOptions(memtable_bytes=4 << 20))


def batch(
    count: int = 1,
    *,
    value: bytes = b"value",
    timestamp_ms: int = NOW_MS,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """Build a batch; record i has timestamp `timestamp_ms + i`."""
    builder = BatchBuilder(BATCH_BYTES_MAX)
    for i in range(count):
        assert builder.append(b"key", value, timestamp_ms + i, []) is not None
    return bytes(
        builder.close(ProducerId(producer_id), ProducerEpoch(producer_epoch), base_sequence)
    )


def append(log: PartitionLog, data: bytes, epoch: LeaderEpoch = EPOCH) -> Appended:
    """Append as the leader would."""
    return log.append(data, validate(data, BATCH_BYTES_MAX), epoch, NOW_MS)


async def append_patiently(storage: Storage, uid: PartitionUid, data: bytes) -> int:
    """Append when there is room, as the node does; returns the position."""
    return (await storage.patiently(lambda: append(storage.log(uid), data))).position


def base_offsets(batches: list[bytes]) -> list[int]:
    """Return where each batch starts."""
    return [BatchHeader.parse(data).base_offset for data in batches]


async def read_all(log: PartitionLog) -> list[bytes]:
    """Return every batch of a log, from the disk or the cache."""
    found: list[bytes] = []
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        found += await log.read(offset, 1 << 20)
        offset = Offset(BatchHeader.parse(found[-1]).next_offset)
    return found


def copy_as_after_power_loss(source: Path, target: Path) -> None:
    """Copy a directory in use, as it is at one moment: again while RocksDB moves its files."""

    def listing() -> dict[str, tuple[int, int]]:
        with contextlib.suppress(FileNotFoundError):
            stats = {str(path): path.stat() for path in source.rglob("*")}
            return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
        return {}

    for _ in range(1000):
        before = listing()
        with contextlib.suppress(shutil.Error, FileNotFoundError):
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("LOCK"))
            if before and before == listing():
                return
        shutil.rmtree(target, ignore_errors=True)
    raise AssertionError("the directory never stood still")


def refuse(error: BaseException) -> None:
    """Stand in for `fatal` where nothing may fail."""
    raise AssertionError(f"fatal: {error}") from error


async def until(condition: Callable[[], bool], deadline_s: float = 10) -> None:
    """Wait for something another task or thread brings about."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(
    directory: Path,
    options: StorageOptions = SMALL,
    fatal: Callable[[BaseException], None] = refuse,
) -> AsyncIterator[Storage]:
    """Open a storage with a clock that stands still."""
    async with Storage(directory, options, fatal=fatal, now_ms=lambda: NOW_MS) as storage:
        yield storage

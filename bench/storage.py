"""A node's storage alone, no network: `python -m bench.storage DIRECTORY [--megabytes 1024]`.

Writes at most the given size several times over into DIRECTORY, which it empties again.
"""

import argparse
import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from odradek.node.storage import PartitionLog, Storage, StorageOptions
from odradek.protocol.record_batch import BatchBuilder, BatchHeader, validate
from odradek.protocol.types import LeaderEpoch, Offset, PartitionUid

PARTITIONS = 6
BATCH_BYTES = 256 << 10
REQUEST_BATCHES = 4
IN_FLIGHT_REQUESTS = 8
SMALL_APPENDS = 3000
BATCH_BYTES_MAX = 1 << 20
EPOCH = LeaderEpoch(0)


def now_ms() -> int:
    """Return the time, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def make_batch(batch_bytes: int, record_bytes: int) -> bytes:
    """Build a batch of random records."""
    builder = BatchBuilder(batch_bytes)
    value = os.urandom(record_bytes)
    while builder.append(None, value, now_ms(), []) is not None:
        if builder.size_bytes + record_bytes > batch_bytes:
            break
    return bytes(builder.close())


@asynccontextmanager
async def opened(directory: Path, *, fresh: bool = True) -> AsyncIterator[Storage]:
    """Open a storage without a tail cache, so that every read is cold."""
    if fresh:
        shutil.rmtree(directory, ignore_errors=True)
    options = StorageOptions(tail_cache_bytes=0)
    async with Storage(directory, options, fatal=print, now_ms=now_ms) as storage:
        yield storage


async def append(storage: Storage, log: PartitionLog, batch: bytes) -> int:
    """Append as a node does: check, wait for room, append."""
    header = validate(batch, BATCH_BYTES_MAX)
    appended = await storage.patiently(lambda: log.append(batch, header, EPOCH, now_ms()))
    return appended.position


async def measure_append(storage: Storage, total_bytes: int, *, commit: bool) -> float:
    """Return bytes per second of 1 MiB requests, each acknowledged by the given rule."""
    batch = make_batch(BATCH_BYTES, 1024)
    requests = total_bytes // (REQUEST_BATCHES * len(batch))
    slots = asyncio.Semaphore(IN_FLIGHT_REQUESTS)
    started_s = time.perf_counter()
    for request in range(requests):
        log = storage.log(PartitionUid(request % PARTITIONS))
        await slots.acquire()
        for _ in range(REQUEST_BATCHES):
            position = await append(storage, log, batch)
        if commit:
            durable = storage.group_commit.when_durable(position)
            durable.add_done_callback(lambda _: slots.release())
        else:
            slots.release()
            await asyncio.sleep(0)
    await storage.group_commit.when_durable(storage.group_commit.appended)
    return requests * REQUEST_BATCHES * len(batch) / (time.perf_counter() - started_s)


async def measure_scan(storage: Storage) -> float:
    """Return bytes per second of reading everything from the disk in 4 MiB steps."""
    total_bytes = 0
    started_s = time.perf_counter()
    for uid in range(PARTITIONS):
        log = storage.log(PartitionUid(uid))
        offset = log.log_start_offset
        while offset < log.log_end_offset:
            batches = await log.read(offset, 4 << 20)
            total_bytes += sum(map(len, batches))
            offset = Offset(BatchHeader.parse(batches[-1]).next_offset)
    return total_bytes / (time.perf_counter() - started_s)


async def measure_small(storage: Storage) -> tuple[float, float]:
    """Return p50 and p99 seconds of one small append with its fsync."""
    batch = make_batch(300, 100)
    log = storage.log(PartitionUid(0))
    latencies_s = []
    for _ in range(SMALL_APPENDS):
        started_s = time.perf_counter()
        await storage.group_commit.when_durable(await append(storage, log, batch))
        latencies_s.append(time.perf_counter() - started_s)
    latencies_s.sort()
    return latencies_s[SMALL_APPENDS // 2], latencies_s[SMALL_APPENDS * 99 // 100]


def measure_call(batch_bytes: int) -> float:
    """Return seconds of checking and stamping one batch, without the store."""
    batch = make_batch(batch_bytes, min(1024, batch_bytes // 2))
    started_s = time.perf_counter()
    for _ in range(1000):
        validate(batch, BATCH_BYTES_MAX)
    return (time.perf_counter() - started_s) / 1000


async def run(directory: Path, total_bytes: int) -> None:
    """Measure everything and print it."""
    for commit in (True, False):
        async with opened(directory) as storage:
            rate = await measure_append(storage, total_bytes, commit=commit)
            print(f"append 256 KiB batches, {commit=}: {rate / 1e6:.0f} MB/s")
    started_s = time.perf_counter()
    async with opened(directory, fresh=False) as storage:
        print(f"reopen after a clean stop: {time.perf_counter() - started_s:.2f} s")
        print(f"cold scan: {await measure_scan(storage) / 1e6:.0f} MB/s")
        p50_s, p99_s = await measure_small(storage)
        print(f"small append + fsync: p50 {p50_s * 1e6:.0f} us, p99 {p99_s * 1e6:.0f} us")
    for batch_bytes in (1 << 10, BATCH_BYTES):
        print(f"validate {batch_bytes} B batch: {measure_call(batch_bytes) * 1e6:.1f} us")
    shutil.rmtree(directory)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    uvloop.run(run(arguments.directory / "bench-storage", arguments.megabytes << 20))


if __name__ == "__main__":
    main()

"""One sync covers everything before it; nothing is acknowledged early; a failure is fatal."""

import asyncio
import threading

import pytest

from odradek.node.storage.group_commit import GroupCommit
from odradek.protocol.errors import NodeShuttingDownError, StorageError, StorageFullError
from tests.node.storage.batches import refuse

DEADLINE_S = 10


class Disk:
    """A sync that lasts until the test lets it go."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)
        self.failure: BaseException | None = None
        self.sync_count = 0

    def sync(self) -> None:
        self.started.release()
        assert self.may_end.acquire(timeout=DEADLINE_S)
        self.sync_count += 1
        if self.failure is not None:
            raise self.failure

    async def wait_for_start(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=DEADLINE_S)


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_sync_covers_what_was_appended_before_it_began() -> None:
    disk = Disk()
    async with GroupCommit(disk.sync, 1 << 20, refuse) as commit:
        first = commit.when_durable(commit.on_appended(10))
        await disk.wait_for_start()
        others = [commit.when_durable(commit.on_appended(1)) for _ in range(100)]
        disk.may_end.release()
        await asyncio.wait_for(first, DEADLINE_S)
        assert commit.durable == 10
        assert not any(other.done() for other in others), "the second sync has not ended"
        await disk.wait_for_start()
        disk.may_end.release()
        await asyncio.wait_for(asyncio.gather(*others), DEADLINE_S)
        assert disk.sync_count == 2
        assert commit.when_durable(commit.appended).done()


async def test_appends_wait_when_too_much_is_unsynced() -> None:
    disk = Disk()
    async with GroupCommit(disk.sync, 4 << 20, refuse) as commit:
        for _ in range(4):
            assert commit.has_room
            commit.on_appended(1 << 20)  # nobody waits, and yet a sync begins
        assert not commit.has_room
        waiting = asyncio.ensure_future(commit.room())
        await disk.wait_for_start()
        await settle()
        assert not waiting.done()
        disk.may_end.release()
        await asyncio.wait_for(waiting, DEADLINE_S)
        assert commit.has_room
        disk.may_end.release()


async def test_a_write_stall_pauses_appends_for_a_moment() -> None:
    async with GroupCommit(lambda: None, 1 << 20, refuse) as commit:
        commit.on_write_stall()
        assert not commit.has_room
        await asyncio.wait_for(commit.room(), DEADLINE_S)
        assert commit.has_room


async def test_a_tick_syncs_what_nobody_waits_for() -> None:
    disk = Disk()
    async with GroupCommit(disk.sync, 1 << 20, refuse) as commit:
        position = commit.on_appended(10)
        commit.tick()
        disk.may_end.release()
        await asyncio.wait_for(commit.when_durable(position), DEADLINE_S)
        assert disk.sync_count == 1


async def test_a_cancelled_wait_disturbs_nobody() -> None:
    disk = Disk()
    async with GroupCommit(disk.sync, 1 << 20, refuse) as commit:
        position = commit.on_appended(10)
        cancelled, kept = commit.when_durable(position), commit.when_durable(position)
        cancelled.cancel()
        disk.may_end.release()
        await asyncio.wait_for(kept, DEADLINE_S)


async def test_a_failed_sync_is_fatal_and_acknowledges_nothing() -> None:
    disk, failures = Disk(), list[BaseException]()
    disk.failure = StorageError("EIO")
    async with GroupCommit(disk.sync, 1 << 20, failures.append) as commit:
        waiting = commit.when_durable(commit.on_appended(10))
        disk.may_end.release()
        with pytest.raises(StorageError):
            await asyncio.wait_for(waiting, DEADLINE_S)
        assert failures == [disk.failure]
        assert commit.durable == 0


async def test_a_full_disk_fails_the_waiters_but_not_the_process() -> None:
    disk = Disk()
    disk.failure = StorageFullError()
    async with GroupCommit(disk.sync, 1 << 20, refuse) as commit:
        waiting = commit.when_durable(commit.on_appended(10))
        disk.may_end.release()
        with pytest.raises(StorageFullError):
            await asyncio.wait_for(waiting, DEADLINE_S)
        commit.on_appended(1 << 20)
        appending = asyncio.ensure_future(commit.room())
        disk.may_end.release()
        with pytest.raises(StorageFullError):
            await asyncio.wait_for(appending, DEADLINE_S)
        disk.failure = None
        again = commit.when_durable(commit.appended)
        disk.may_end.release()
        await asyncio.wait_for(again, DEADLINE_S)


async def test_a_pause_outlasts_the_sync_in_flight() -> None:
    disk = Disk()
    async with GroupCommit(disk.sync, 1 << 20, refuse) as commit:
        waiting = commit.when_durable(commit.on_appended(10))
        await disk.wait_for_start()
        pausing = asyncio.ensure_future(commit.pause())
        await settle()
        assert not pausing.done()
        disk.may_end.release()
        await asyncio.wait_for(pausing, DEADLINE_S)
        later = commit.when_durable(commit.on_appended(10))
        await settle()
        assert waiting.done()
        assert not later.done()
        commit.resume()
        disk.may_end.release()
        await asyncio.wait_for(later, DEADLINE_S)


async def test_who_still_waits_at_the_end_is_told() -> None:
    disk = Disk()
    async with GroupCommit(disk.sync, 1 << 20, refuse) as commit:
        commit.on_appended(10)
        await commit.pause()
        waiting = commit.when_durable(commit.appended)
    with pytest.raises(NodeShuttingDownError):
        await waiting


class QuickDisk:
    """A disk whose syncs take what the test says, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sync_s = 0.0003
        self.threads: list[int] = []
        self.failure: BaseException | None = None

    def sync(self) -> None:
        self.threads.append(threading.get_ident())
        self.now_s += self.sync_s
        if self.failure is not None:
            raise self.failure

    def clock_s(self) -> float:
        return self.now_s

    async def sync_of(self, commit: GroupCommit, size_bytes: int, *, count: int = 1) -> bool:
        """Append and wait, some times; return whether the last sync was done on the loop."""
        for _ in range(count):
            await asyncio.wait_for(commit.when_durable(commit.on_appended(size_bytes)), DEADLINE_S)
        return self.threads[-1] == threading.get_ident()


async def test_small_syncs_of_a_quick_disk_are_done_on_the_loop() -> None:
    disk = QuickDisk()
    async with GroupCommit(disk.sync, 1 << 20, refuse, clock_s=disk.clock_s) as commit:
        assert not await disk.sync_of(commit, 100), "nobody knows the disk yet"
        assert await disk.sync_of(commit, 100, count=60)
        assert not await disk.sync_of(commit, 100_000), "that takes longer"
        assert await disk.sync_of(commit, 100)
        commit.is_contended = True
        assert not await disk.sync_of(commit, 100), "another thread may be syncing"


async def test_syncs_of_a_disk_that_has_become_slow_leave_the_loop_alone() -> None:
    disk = QuickDisk()
    async with GroupCommit(disk.sync, 1 << 20, refuse, clock_s=disk.clock_s) as commit:
        assert await disk.sync_of(commit, 100, count=60)
        disk.sync_s = 0.05
        assert not await disk.sync_of(commit, 100, count=2)
        disk.sync_s = 0.0003
        assert await disk.sync_of(commit, 100, count=60)


async def test_a_sync_that_failed_on_the_loop_is_the_last_one() -> None:
    disk, failures = QuickDisk(), list[BaseException]()
    async with GroupCommit(disk.sync, 1 << 20, failures.append, clock_s=disk.clock_s) as commit:
        assert await disk.sync_of(commit, 100, count=60)
        disk.failure = StorageError("EIO")
        with pytest.raises(StorageError):
            await disk.sync_of(commit, 100)
        disk.failure = None  # what a second fsync says of the same pages means nothing
        durable, count = commit.durable, len(disk.threads)
        later = commit.when_durable(commit.on_appended(100))
        await settle()
        assert (commit.durable, len(disk.threads)) == (durable, count)
        assert not later.done()
        assert len(failures) == 1
    with pytest.raises(NodeShuttingDownError):
        await later


async def test_what_is_appended_in_one_pass_of_the_loop_is_synced_once() -> None:
    disk = QuickDisk()
    async with GroupCommit(disk.sync, 1 << 20, refuse, clock_s=disk.clock_s) as commit:
        assert await disk.sync_of(commit, 100, count=60)
        count = len(disk.threads)
        await asyncio.gather(*(commit.when_durable(commit.on_appended(10)) for _ in range(5)))
        assert len(disk.threads) == count + 1

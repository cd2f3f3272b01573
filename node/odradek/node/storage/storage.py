"""A node's storage as one thing: opens, keeps itself healthy, closes.

Idea: the composition root opens one `Storage`; whoever hosts a partition asks it for a
`PartitionLog`, whoever keeps small state for a `StateTable`, and whoever acknowledges waits on
`group_commit`. One task looks after the rest four times a second: free space, the durable mark,
room to be reclaimed, and reopening after the disk was full.

Invariants: at rest nothing is written; logs are opened lazily, a few seeks each, so that a node
with 10,000 partitions starts at once; every thread and task ends with the context manager.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from odradek.node.storage.blocking import Blocking
from odradek.node.storage.directories import make_directory, sync_directory
from odradek.node.storage.durable_mark import Mark, MarkFile, RecoveryReport, read_boot_id
from odradek.node.storage.group_commit import GroupCommit
from odradek.node.storage.keys import Kind, Table, kind_range, number_of, partition_range
from odradek.node.storage.log import PartitionLog
from odradek.node.storage.segments import LOG_BEGIN, LogPoint
from odradek.node.storage.set_aside import is_any_set_aside, set_aside
from odradek.node.storage.space import Space
from odradek.node.storage.store import DamagedStoreError, DamagedTableError, Mutation, Store
from odradek.node.storage.store_options import StoreOptions
from odradek.node.storage.tables import StateTable
from odradek.node.storage.tail_cache import TailCache
from odradek.node.storage.writer import Writer
from odradek.protocol.errors import StorageFullError, ThrottledError
from odradek.protocol.types import PartitionUid

_T = TypeVar("_T")

_TICK_S = 0.25
_MARK_INTERVAL_S = 0.5
_GARBAGE_MIN = 0.5  # of a segment, to be rewritten: as many bytes are freed as written
_GARBAGE_MIN_WHEN_SHORT = 0.1
_RECLAIM_BYTES_PER_S = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """How a node's storage uses memory and disk.

    Attributes:
        store: RocksDB's share.
        tail_cache_bytes: Newest batches of all partitions kept in memory.
        unsynced_bytes_max: Appended and not yet on disk; beyond, appends wait.
        reserve_bytes: Kept free on the disk; below, appends are refused. Four memtables or more.
        cold_read_threads: How many reads may wait for the disk at once.
    """

    store: StoreOptions = field(default_factory=StoreOptions)
    tail_cache_bytes: int = 64 << 20
    unsynced_bytes_max: int = 8 << 20
    reserve_bytes: int = 1 << 30
    cold_read_threads: int = 2


@dataclass(frozen=True, slots=True)
class _Synced:
    """What a completed sync covered."""

    sequence: int = 0
    values_end: LogPoint = LOG_BEGIN
    metadata_version: int = 0


def free_bytes_on_disk(directory: Path) -> int:
    """Return how much a process without privileges may still write where a directory lies."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


class Storage:
    """Everything a node has on disk; an async context manager.

    Args:
        directory: The node's data directory.
        options: Memory and disk.
        fatal: Called from any thread when the disk failed; must end the process.
        now_ms: The monotonic clock, in milliseconds.
        free_bytes: Measures the free space of the disk that holds a directory.
    """

    def __init__(
        self,
        directory: Path,
        options: StorageOptions,
        *,
        fatal: Callable[[BaseException], None],
        now_ms: Callable[[], int],
        free_bytes: Callable[[Path], int] = free_bytes_on_disk,
    ) -> None:
        self._directory = directory
        self._options = options
        self._fatal = fatal
        self._now_ms = now_ms
        self._free_bytes = free_bytes
        self._boot_id = read_boot_id()
        self._logs: dict[PartitionUid, PartitionLog] = {}
        self._untold = RecoveryReport(lost_data=False, lost_pages=False)
        self._mark_lock = threading.Lock()  # the group commit's thread and `recovery_told`
        self._synced = _Synced()
        self._uncut_from: LogPoint | None = None  # torn batches behind it are still in their logs
        self._marked_at_s = 0.0
        self._metadata_version = 0
        self.has_set_aside = False
        """Whether a damaged store, of this opening or an earlier one, lies beside the present."""
        self.is_reopening = False
        """The disk was full and the store is being started afresh: no log can be opened."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.recovered = await asyncio.to_thread(self._open)
            stack.push_async_callback(asyncio.to_thread, self._close)
            self._blocking = Blocking(self._options.cold_read_threads)
            stack.push_async_callback(asyncio.to_thread, self._blocking.close)
            self._space = Space(self._options.reserve_bytes)
            self._measure()
            self.group_commit = await stack.enter_async_context(
                GroupCommit(self._sync, self._options.unsynced_bytes_max, self._fatal)
            )
            self._writer = Writer(self._store, self._space, self.group_commit)
            self._cache = TailCache(self._options.tail_cache_bytes)
            await self._cut_torn_logs()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._tasks = (
                tasks.create_task(self._keep_up(), name="storage upkeep"),
                tasks.create_task(self._reclaim(), name="storage reclaim"),
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            for task in self._tasks:
                task.cancel()
            for log in self._logs.values():
                with contextlib.suppress(StorageFullError, ThrottledError):
                    log.snapshot_producers(self._now_ms())
            self._store.interrupt()
        finally:
            await self._stack.aclose()

    @property
    def is_full(self) -> bool:
        """Whether appends are refused for want of room at the moment."""
        return self._space.is_short or self._store.is_broken

    async def recovery_told(self) -> None:
        """Note that the controller has acted on `recovered`; until then each opening repeats it."""
        if self._untold.lost_data or self._untold.lost_pages:
            self._untold = RecoveryReport(lost_data=False, lost_pages=False)
            await asyncio.to_thread(self._write_mark, self._synced)

    def on_settings_taken(self, metadata_version: int) -> None:
        """Have it marked that whatever was acknowledged under earlier settings is on disk."""
        self._metadata_version = metadata_version

    async def patiently(self, change: Callable[[], _T]) -> _T:
        """Make a change as soon as there is room for it.

        Args:
            change: An append, a truncation, a deletion: anything that may be THROTTLED, which means
                that nothing has happened.

        Returns:
            What `change` returned.
        """
        while True:
            await self.group_commit.room()
            with contextlib.suppress(ThrottledError):
                return change()

    def log(self, uid: PartitionUid) -> PartitionLog:
        """Return a partition's log, opening it; one that never was is empty."""
        log = self._logs.get(uid)
        if log is None:
            try:
                log = self._logs[uid] = PartitionLog(
                    uid,
                    store=self._store,
                    writer=self._writer,
                    cache=self._cache,
                    blocking=self._blocking,
                    now_ms=self._now_ms(),
                )
            except DamagedTableError as error:
                self.condemn(error)
                raise
        return log

    def condemn(self, error: DamagedTableError) -> None:
        """End the process; the next opening sets the store aside, to be filled again."""
        self._store.condemn(error.message)
        self._fatal(error)

    async def stored_uids(self) -> list[PartitionUid]:
        """Return the partitions of which anything is stored here; a seek each."""
        return await self._blocking.run(_stored_uids, self._store)

    def table(self, table: Table) -> StateTable:
        """Return the small values somebody keeps beside the logs."""
        return StateTable(self._store, self._writer, table)

    def drop(self, uid: PartitionUid) -> int:
        """Remove all that is stored of a partition; should its uid come back, it begins empty.

        Returns:
            The position to hand to `GroupCommit.when_durable`.

        Raises:
            ThrottledError: Nothing was removed; wait for room, then try again.
        """
        mutation = Mutation()
        mutation.release_batches(uid)
        for kind in (Kind.INDEX, Kind.STATE):
            mutation.delete_range(*partition_range(kind, uid))
        position = self._writer.apply(mutation)
        self._logs.pop(uid, None)
        self._cache.discard(uid)
        return position

    def _open(self) -> RecoveryReport:
        make_directory(self._directory)
        (self._directory / "store").mkdir(exist_ok=True)
        sync_directory(self._directory)  # always: whoever made them may have been killed here
        self._mark_file = MarkFile(self._directory / "durable.mark")
        try:
            self._store = self._open_store()
        except BaseException:
            self._mark_file.close()
            raise
        self.has_set_aside = is_any_set_aside(self._directory)
        mark = self._mark_file.mark
        self._metadata_version = 0 if mark is None else mark.metadata_version
        synced = self._to_sync()
        if mark is None:
            # Data without a mark: somebody lost the file, and with it the proof.
            self._untold = RecoveryReport(synced.sequence > 0, synced.sequence > 0)
        else:
            crashed = not mark.clean_stop and mark.boot_id != self._boot_id
            is_missing = synced.sequence < mark.sequence or self._store.batches.is_missing
            self._untold = RecoveryReport(
                mark.data_lost or is_missing, mark.pages_lost or crashed, mark.metadata_version
            )
            if self._store.batches.torn:  # to be found again, until the logs are cut
                self._uncut_from = mark.values_end
                synced = replace(synced, values_end=mark.values_end)
        self._store.batches.save_accounts()
        self._store.sync()
        self._write_mark(synced)
        return self._untold

    def _open_store(self) -> Store:
        """Open the store; one that is damaged is set aside, and an empty one opened."""
        directory, mark = self._directory / "store", self._mark_file.mark
        try:
            synced = mark.values_end if mark else None
            return Store(directory, self._options.store, self._fatal, synced)
        except DamagedStoreError as error:
            # First: should this end before the controllers were told, the next opening tells them.
            mark = mark or Mark(0, self._boot_id, clean_stop=False)
            self._mark_file.write(replace(mark, data_lost=True))
            set_aside(directory, error.message)
        return Store(directory, self._options.store, self._fatal)

    async def _cut_torn_logs(self) -> None:
        """Cut the logs where the bytes of batches that nobody was promised are missing."""
        torn = self._store.batches.torn
        for uid, offset in torn.items():
            await self.patiently(partial(self.log(uid).truncate_to, offset, self._now_ms()))
        if torn:
            await self.group_commit.when_durable(self.group_commit.appended)
            self._uncut_from = None

    def _to_sync(self) -> _Synced:
        """Return what a sync that begins now will cover."""
        values_end = self._uncut_from or self._store.batches.end
        return _Synced(self._store.sequence, values_end, self._metadata_version)

    def _close(self) -> None:
        """Sync and leave a clean mark, unless the store is in no state for it."""
        try:
            if not self._store.is_broken:
                synced = self._to_sync()
                self._store.sync()
                self._write_mark(synced, clean_stop=True)
        finally:
            self._mark_file.close()
            self._store.close()

    def _sync(self) -> None:
        """Run by the group commit's thread."""
        synced = self._to_sync()
        self._store.sync()
        self._synced = synced
        if time.monotonic() - self._marked_at_s >= _MARK_INTERVAL_S:
            self._write_mark(synced)

    def _write_mark(self, synced: _Synced, *, clean_stop: bool = False) -> None:
        with self._mark_lock:
            untold = self._untold
            self._mark_file.write(
                Mark(
                    synced.sequence,
                    self._boot_id,
                    clean_stop,
                    untold.lost_data,
                    untold.lost_pages,
                    synced.values_end,
                    # Until the loss is told, what it was: it says which partitions are concerned.
                    (untold if untold.lost_pages else synced).metadata_version,
                )
            )
            self._synced = synced
            self._marked_at_s = time.monotonic()

    def _measure(self) -> None:
        self._space.on_measured(self._free_bytes(self._directory))

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._measure()
            commit, mark = self.group_commit, self._mark_file.mark
            if commit.durable < commit.appended or (
                mark is not None
                and (
                    mark.sequence < self._synced.sequence
                    or mark.metadata_version < self._metadata_version
                )
            ):
                commit.tick()
            if self._store.is_broken and not self._space.is_short:
                await self._reopen()

    async def _reclaim(self) -> None:
        """Give room back, a step at a time, at a bounded rate."""
        pause_s = _TICK_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _TICK_S
            is_short = self._space.is_short
            if self._store.is_broken or not (self._store.batches.has_garbage or is_short):
                continue
            garbage_min = _GARBAGE_MIN_WHEN_SHORT if is_short else _GARBAGE_MIN
            with contextlib.suppress(StorageFullError, ThrottledError):
                self.group_commit.is_contended = True
                try:
                    copied_bytes = await self._blocking.run(self._store.reclaim, garbage_min)
                except DamagedTableError as error:  # or every start would end here
                    self.condemn(error)
                    return
                finally:
                    self.group_commit.is_contended = False
                pause_s = max(_TICK_S, copied_bytes / _RECLAIM_BYTES_PER_S)

    async def _reopen(self) -> None:
        """Start the store afresh after ENOSPC, while nobody reads or syncs."""
        await self.group_commit.pause()
        try:
            async with self._blocking.exclusive() as run:
                self.is_reopening = True
                await run(self._store.reopen)
                for log in self._logs.values():
                    log.load(self._now_ms())
        except StorageFullError:
            return  # the next tick tries again
        finally:
            self.is_reopening = self._store.is_closed
            self.group_commit.resume()


def _stored_uids(store: Store) -> list[PartitionUid]:
    found: set[PartitionUid] = set()
    for kind in (Kind.INDEX, Kind.STATE):
        end = kind_range(kind)[1]
        while (last := store.last_before(end, kind.value)) is not None:
            uid = PartitionUid(number_of(last[0]))
            found.add(uid)
            end = partition_range(kind, uid)[0]
    return sorted(found)

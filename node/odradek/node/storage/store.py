"""The only module that knows RocksDB.

Problem: RocksDB's calls differ in what they hold. `write` and `get` keep the GIL for the whole
call, `flush_wal`, iteration and compaction let it go. So small unsynced writes happen on the loop,
and what may wait for the disk runs in a thread of the caller's: `sync`, `read_batches`, `reopen`,
`reclaim`, long scans.

The interface hides where a batch's bytes lie (blob files today): batches are put and read through
calls of their own, never through a key, so that a value log may replace them.

Invariants: a `Mutation` is atomic, in memory and on disk; what was written before a `sync` began is
on disk when it returns; recovery keeps a prefix of the writes, without holes (point-in-time WAL).

Facts that shaped it: `set_iterate_lower_bound` of rocksdict 0.3.29 sets the *upper* bound, so that
only upper bounds are used; after ENOSPC RocksDB never resumes, but reopening keeps everything.
"""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from odradek.node.storage.keys import Kind, batch_key, offset_range
from odradek.protocol.errors import StorageError, StorageFullError, ThrottledError
from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionUid

_READ_AHEAD_BYTES = 2 << 20
_BLOB_BYTES_MIN = 512  # smaller values stay in the tables; index entries (77 bytes) must


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How the store uses memory and disk.

    Attributes:
        memtable_bytes: Writes are gathered in memory up to this, then written as a table.
        memtables_max: So many may wait for the disk before writes stall.
        block_cache_bytes: For tables' indexes and small values; batches are never cached here.
    """

    memtable_bytes: int = 16 << 20
    memtables_max: int = 4
    block_cache_bytes: int = 16 << 20


class Mutation:
    """Writes that happen together or not at all; spent once written."""

    __slots__ = ("_batch",)

    def __init__(self) -> None:
        self._batch = WriteBatch(raw_mode=True)

    @property
    def size_bytes(self) -> int:
        """What it will add to the log."""
        size: int = self._batch.size_in_bytes()
        return size

    def put(self, key: bytes, value: bytes) -> None:
        """Set a small value."""
        self._batch.put(key, value)

    def put_batch(self, uid: PartitionUid, base_offset: Offset, batch: bytes) -> None:
        """Store a batch's bytes."""
        self._batch.put(batch_key(uid, base_offset), batch)

    def delete(self, key: bytes) -> None:
        """Remove a small value."""
        self._batch.delete(key)

    def delete_range(self, begin: bytes, end: bytes) -> None:
        """Remove all values with keys in [begin, end)."""
        self._batch.delete_range(begin, end)

    def delete_batches(
        self, uid: PartitionUid, begin: Offset = FIRST_OFFSET, end: Offset | None = None
    ) -> None:
        """Remove the bytes of batches with base offsets in [begin, end); None: all from begin."""
        self.delete_range(*offset_range(Kind.BATCH, uid, begin, end))


class Store:
    """An ordered, atomic, recoverable map with room for batches.

    Args:
        directory: Made when missing.
        options: Memory and disk.
        fatal: Called, from whatever thread, when the disk failed in a way that leaves the state of
            written data unknown; the process should end.

    Raises:
        StorageError: Another process has it open, or it is damaged.
        StorageFullError: No room to open it.
    """

    def __init__(
        self, directory: Path, options: StoreOptions, fatal: Callable[[BaseException], None]
    ) -> None:
        self._directory = directory
        self._options = options
        self._fatal = fatal
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True  # an error instead of a sleep with the GIL held
        self._reclaiming = self._interrupted = False
        self._readers = 0
        self._readers_changed = threading.Condition()
        self.is_broken = False
        """Set after ENOSPC: reads go on, writes need a `reopen`."""
        self._db: Any = None  # None also while it is being reopened
        try:
            self._db = self._open()
        except Exception as error:
            if _is_full(error):
                raise _full(str(error)) from error
            raise StorageError(f"the store in {directory} cannot be opened: {error}") from error

    @property
    def is_closed(self) -> bool:
        """Whether there is nothing to read at the moment: a `reopen` runs, or found no room."""
        return self._db is None

    @property
    def sequence(self) -> int:
        """Grows with every write, kept by recovery: tells whether written data is missing."""
        number: int = self._handle().latest_sequence_number()
        return number

    @property
    def batch_bytes_on_disk(self) -> int:
        """Bytes in blob files, garbage included."""
        return int(self._handle().property_value("rocksdb.total-blob-file-size") or 0)

    def write(self, mutation: Mutation) -> None:
        """Apply a mutation, unsynced.

        Raises:
            ThrottledError: RocksDB would have slept; nothing was written.
            StorageFullError: The disk is full; whether it was written shows after `reopen`.
            StorageError: The disk failed; `fatal` was called.
        """
        if self.is_broken:
            raise _full("the store awaits room to be reopened")
        try:
            self._handle().write(mutation._batch, self._write_options)  # noqa: SLF001
        except Exception as error:
            raise self._typed(error) from error

    def sync(self) -> None:
        """Wait until everything written before this call is on disk. Releases the GIL."""
        try:
            self._handle().flush_wal(True)
        except Exception as error:
            raise self._typed(error) from error

    def get(self, key: bytes) -> bytes | None:
        """Return a small value."""
        value: bytes | None = self._handle().get(key)
        return value

    def scan(
        self, begin: bytes, end: bytes, count_max: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the small values with keys in [begin, end), in order, at most `count_max`."""
        found: list[tuple[bytes, bytes]] = []
        with self._iterator(end) as iterator:
            iterator.seek(begin)
            while iterator.valid() and len(found) != count_max:
                found.append((iterator.key(), iterator.value()))
                iterator.next()
            iterator.status()
        return found

    def last_before(self, end: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        """Return the small value with the largest key below `end` that begins with `prefix`."""
        with self._iterator(end) as iterator:
            iterator.seek_to_last()
            if iterator.valid() and iterator.key().startswith(prefix):
                return iterator.key(), iterator.value()
            iterator.status()
        return None

    def read_batches(
        self, uid: PartitionUid, offset: Offset, end_offset: Offset, bytes_max: int
    ) -> list[bytes]:
        """Return batches from the one with base offset `offset`, or the next after it.

        Args:
            end_offset: Batches that start at or after it are left out.
            bytes_max: Enough; the first batch is returned however large.
        """
        found: list[bytes] = []
        begin, end = offset_range(Kind.BATCH, uid, offset, end_offset)
        with self._iterator(end, _READ_AHEAD_BYTES) as iterator:
            iterator.seek(begin)
            while iterator.valid():
                batch: bytes = iterator.value()
                bytes_max -= len(batch)
                if bytes_max < 0 and found:
                    break
                found.append(batch)
                iterator.next()
            iterator.status()
        return found

    def reclaim(self) -> None:
        """Rewrite what lives and give the rest back to the file system. Slow; releases the GIL.

        One pass for the whole node: blob files are shared by all partitions, and with collection
        always on, every compaction would copy old batches.
        """
        db = self._handle()
        self._reclaiming = True
        try:
            db.set_options({"enable_blob_garbage_collection": "true"})
            try:
                db.flush(True)
                db.compact_range(None, None)
            finally:
                db.set_options({"enable_blob_garbage_collection": "false"})
        except Exception as error:
            if not self._interrupted:
                raise self._typed(error) from error
        finally:
            self._reclaiming = False

    def reopen(self) -> None:
        """Start afresh after ENOSPC: drop every handle, then recover from the log.

        Call it while nobody else uses the store.

        Raises:
            StorageFullError: Still no room; call again later.
        """
        self._close_handle()
        try:
            self._db = self._open()
        except Exception as error:
            raise self._typed(error) from error
        self.is_broken = False

    def interrupt(self) -> None:
        """Make a running `reclaim` end soon; only before `close`, since RocksDB never resumes."""
        self._interrupted = self._reclaiming
        if self._interrupted:
            self._handle().cancel_all_background(False)

    def close(self) -> None:
        """Release the directory; syncs nothing."""
        self._close_handle()

    def _close_handle(self) -> None:
        with self._readers_changed:
            self._readers_changed.wait_for(lambda: self._readers == 0)
            db, self._db = self._db, None  # whoever comes from now on finds it closed
        if db is None:
            return
        try:
            db.close()
        except Exception as error:
            if not (self.is_broken or self._interrupted or _is_full(error)):
                raise StorageError(f"closing the store failed: {error}") from error
        # After a failed close only the end of the last reference releases the directory's lock.
        del db
        gc.collect()

    def _handle(self) -> Any:
        if self._db is None:
            raise _full("the store is being reopened")
        return self._db

    def _open(self) -> Any:
        self._directory.mkdir(parents=True, exist_ok=True)
        return Rdict(str(self._directory), self._rocksdb_options())

    def _rocksdb_options(self) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(self._options.memtable_bytes)
        options.set_max_write_buffer_number(self._options.memtables_max)
        options.set_max_background_jobs(4)
        options.set_compression_type(DBCompressionType.none())  # batches are compressed by the SDK
        options.set_enable_blob_files(True)
        options.set_min_blob_size(_BLOB_BYTES_MIN)
        options.set_blob_gc_age_cutoff(1.0)  # counts only while `reclaim` runs
        # No holes in the middle; the durable mark tells whether the end is missing.
        options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        options.set_recycle_log_file_num(4)  # an fsync of a preallocated file costs a third less
        options.set_avoid_unnecessary_blocking_io(True)
        options.set_skip_stats_update_on_db_open(True)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1 << 20)
        options.set_max_open_files(512)
        tables = BlockBasedOptions()
        tables.set_block_cache(Cache(self._options.block_cache_bytes))
        options.set_block_based_table_factory(tables)
        return options

    @contextmanager
    def _iterator(self, end: bytes, read_ahead_bytes: int = 0) -> Iterator[Any]:
        """Lend an iterator that ends before `end`; short-lived, since it pins files."""
        read_options = ReadOptions()
        read_options.set_iterate_upper_bound(end)
        read_options.fill_cache(read_ahead_bytes == 0)
        read_options.set_verify_checksums(False)  # batches carry their own, checked by the reader
        if read_ahead_bytes:
            read_options.set_readahead_size(read_ahead_bytes)
        with self._readers_changed:
            self._readers += 1
        try:
            iterator = self._handle().iter(read_options)
            yield iterator
            del iterator
        finally:
            with self._readers_changed:
                self._readers -= 1
                self._readers_changed.notify_all()

    def _typed(self, error: Exception) -> Exception:
        """Tell the three kinds of RocksDB errors apart; it has only their text."""
        if "Write stall" in str(error):
            return ThrottledError(
                "the node's disk cannot keep up with its memtables", field="memtables"
            )
        if self.is_broken or _is_full(error):  # the first error is followed by vaguer ones
            self.is_broken = True
            return _full(str(error))
        failure = StorageError(f"the store failed: {error}")
        self._fatal(failure)
        return failure


def _is_full(error: Exception) -> bool:
    return "No space left on device" in str(error)


def _full(reason: str) -> StorageFullError:
    return StorageFullError(f"the node's disk is full: {reason}", field="free_bytes", value=0)

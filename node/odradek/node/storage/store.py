"""The only module that knows RocksDB.

Problem: RocksDB's calls differ in what they hold. `write` and `get` keep the GIL for the whole
call, `flush_wal`, iteration and compaction let it go. So small unsynced writes happen on the loop,
and what may wait for the disk runs in a thread of the caller's: `sync`, `read_batches`, `reopen`,
`reclaim`, long scans.

Nobody else knows where a batch's bytes lie: small ones in RocksDB, beside their index entry; the
others in the value log (`value_log`), and a reference to them in their stead. So a trickle of small
batches needs one fsync, and a flood of large ones is written once.

Invariants: a `Mutation` is atomic, in memory and on disk; what was written before a `sync` began is
on disk when it returns; recovery keeps a prefix of the writes, without holes (point-in-time WAL),
and tells which batches of that prefix lack their bytes (`torn`).

Facts that shaped it: `set_iterate_lower_bound` of rocksdict 0.3.29 sets the *upper* bound, so that
only upper bounds are used; after ENOSPC RocksDB never resumes, but reopening keeps everything.
"""

import gc
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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

from odradek.node.storage.batch_places import BatchPlaces
from odradek.node.storage.keys import Kind, offset_range
from odradek.node.storage.segments import LogPoint
from odradek.node.storage.set_aside import condemn, why_condemned
from odradek.node.storage.store_options import StoreOptions
from odradek.node.storage.value_log import is_full
from odradek.protocol.errors import (
    CorruptMessageError,
    StorageError,
    StorageFullError,
    ThrottledError,
)
from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionUid

_COMPACT_BYTES_MIN = 64 << 20
_CORRUPTION = "Corruption"  # how RocksDB's messages of it begin
_FILE_IS_MISSING = "IO error: No such file or directory"
_ALL_OFFSETS = Offset((1 << 64) - 1)


class DamagedStoreError(StorageError):
    """Bits have rotted in what RocksDB needs to find its tables: the store does not open."""


class DamagedTableError(CorruptMessageError):
    """Bits have rotted in a table: what else lies in its block is unreadable, whoever wants it."""


class Mutation:
    """Writes that happen together or not at all, in the order of the calls; spent once written."""

    __slots__ = ("_batch", "batch_bytes", "batches", "released", "removed")

    def __init__(self) -> None:
        self._batch = WriteBatch(raw_mode=True)
        self.batches: list[tuple[PartitionUid, Offset, bytes]] = []
        self.batch_bytes = 0
        self.removed: list[tuple[PartitionUid, Offset, Offset | None]] = []
        self.released: list[tuple[PartitionUid, Offset]] = []

    @property
    def size_bytes(self) -> int:
        """What it will add to the log."""
        size: int = self._batch.size_in_bytes()
        return size + self.batch_bytes

    def put(self, key: bytes, value: bytes) -> None:
        """Set a small value."""
        self._batch.put(key, value)

    def put_batch(self, uid: PartitionUid, base_offset: Offset, batch: bytes) -> None:
        """Store a batch's bytes; to replace one, remove it first, in the same mutation."""
        self.batches.append((uid, base_offset, batch))
        self.batch_bytes += len(batch)

    def delete(self, key: bytes) -> None:
        """Remove a small value."""
        self._batch.delete(key)

    def delete_range(self, begin: bytes, end: bytes) -> None:
        """Remove all values with keys in [begin, end)."""
        self._batch.delete_range(begin, end)

    def delete_batches(
        self, uid: PartitionUid, begin: Offset = FIRST_OFFSET, end: Offset | None = None
    ) -> None:
        """Remove the bytes of batches with base offsets in [begin, end); None: all from begin.

        Takes a moment for each of them; the offsets may be used again at once.
        """
        self.removed.append((uid, begin, end))
        self.delete_range(*offset_range(Kind.BATCH, uid, begin, end))

    def release_batches(self, uid: PartitionUid, end: Offset | None = None) -> None:
        """Let the bytes of batches with base offsets below `end` go, sooner or later; None: all.

        Takes no time, however many they are. They may be read until `reclaim` has come to them;
        new batches below `end` are throttled until then.
        """
        self.released.append((uid, _ALL_OFFSETS if end is None else end))


class Store:
    """An ordered, atomic, recoverable map with room for batches.

    Args:
        directory: Made when missing.
        options: Memory and disk.
        fatal: Called, from any thread, when the state of written data is unknown: end the process.
        synced: Up to where the value log is known to be synced; None when nobody knows.

    Raises:
        DamagedStoreError: It is damaged, or was condemned.
        StorageError: Another process has it open, or the disk failed.
        StorageFullError: No room to open it.
    """

    def __init__(
        self,
        directory: Path,
        options: StoreOptions,
        fatal: Callable[[BaseException], None],
        synced: LogPoint | None = None,
    ) -> None:
        self._directory = directory
        self._options = options
        self._fatal = fatal
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True  # an error instead of a sleep with the GIL held
        self._compacting = self._interrupted = False
        self._readers = 0
        self._readers_changed = threading.Condition()
        self._is_broken = self._is_value_log_full = False
        self._db: Any = None  # None also while it is being reopened
        reason = why_condemned(directory)
        if reason is not None:
            raise DamagedStoreError(f"the store in {directory} was condemned: {reason}")
        try:
            self._db = self._open()
            self.batches = BatchPlaces(
                self,
                directory / "values",
                value_bytes_min=options.value_bytes_min,
                inline_bytes_max=options.inline_bytes_max,
                segment_bytes=options.segment_bytes,
                page_cache_bytes=options.page_cache_bytes,
                synced=synced,
            )
            return  # noqa: TRY300
        except Exception as error:  # noqa: BLE001 - told below
            text = str(error)
            kind = DamagedStoreError if _is_damage(error) else StorageError
        # Not within: the error would keep the handle, and a handle that is let go of later writes
        # into whatever has the directory's name by then.
        if _CORRUPTION in self._close_handle():
            kind = DamagedStoreError
        if _is_full(text):
            raise _full(text)
        raise kind(f"the store in {directory} cannot be opened: {text}")

    @property
    def is_closed(self) -> bool:
        """Whether there is nothing to read at the moment: a `reopen` runs, or found no room."""
        return self._db is None

    @property
    def is_broken(self) -> bool:
        """Set after ENOSPC: reads go on, writes need a `reopen`."""
        return self._is_broken or self._is_value_log_full

    @property
    def sequence(self) -> int:
        """Grows with every write, kept by recovery: tells whether written data is missing."""
        number: int = self._handle().latest_sequence_number()
        return number

    @property
    def batch_bytes_on_disk(self) -> int:
        """Bytes in the value log and in tables, garbage included."""
        return self.batches.bytes_on_disk + self._table_bytes()

    def _table_bytes(self) -> int:
        return int(self._handle().property_value("rocksdb.total-sst-files-size") or 0)

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
            if self.batches.place_inline(mutation):
                self._write(mutation)
                return
            with self.batches.placing(mutation):
                self._write(mutation)
        except OSError as error:
            raise self._typed(error) from error

    def change(
        self, put: Mapping[bytes, bytes], remove: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Remove ranges of keys, then put small values, in one mutation; raises as `write`."""
        mutation = Mutation()
        for begin, end in remove:
            mutation.delete_range(begin, end)
        for key, value in put.items():
            mutation.put(key, value)
        self._write(mutation)

    def sync(self) -> None:
        """Wait until everything written before this call is on disk; raises as `write` does."""
        if self._is_broken:
            raise _full("what was written to a full disk may be gone")
        try:
            self.batches.sync()
            self._handle().flush_wal(True)
        except Exception as error:
            raise self._typed(error) from error

    def get(self, key: bytes) -> bytes | None:
        """Return a small value."""
        try:
            value: bytes | None = self._handle().get(key)
        except Exception as error:
            _check_damage(error)
            raise
        return value

    def scan(
        self, begin: bytes, end: bytes, count_max: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the small values with keys in [begin, end), in order, at most `count_max`."""
        return list(self.iterate(begin, end, count_max))

    def iterate(
        self, begin: bytes, end: bytes, count_max: int | None = None
    ) -> Generator[tuple[bytes, bytes], None, None]:
        """Yield what `scan` returns, one by one; files stay pinned until it is closed."""
        with self._iterator(end) as iterator:
            iterator.seek(begin)
            while iterator.valid() and count_max != 0:
                yield iterator.key(), iterator.value()
                count_max = count_max and count_max - 1
                iterator.next()
            iterator.status()

    def last_before(self, end: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        """Return the value of the largest key below `end` that begins with `prefix`."""
        with self._iterator(end) as iterator:
            iterator.seek_to_last()
            if iterator.valid() and iterator.key().startswith(prefix):
                return iterator.key(), iterator.value()
            iterator.status()
        return None

    def read_batches(
        self, uid: PartitionUid, offset: Offset, end_offset: Offset, bytes_max: int
    ) -> list[bytes]:
        """Return batches, see `BatchPlaces.read`."""
        return self.batches.read(uid, offset, end_offset, bytes_max)

    def reclaim(self, garbage_min: float = 0.5) -> int:
        """Give some room of removed batches back to the file system; call it while `has_garbage`.

        Args:
            garbage_min: Rewrite what has at least this share of garbage, 0 to 1.

        Returns:
            Bytes rewritten; waiting in proportion bounds the disk's load. Raises as `write`.
        """
        try:
            copied_bytes = self.batches.reclaim(garbage_min)
        except OSError as error:
            raise self._typed(error) from error
        worthwhile_bytes = max(_COMPACT_BYTES_MIN, garbage_min * self._table_bytes())
        if self.batches.inline_garbage_bytes > worthwhile_bytes:
            self._compact()
        return copied_bytes

    def _compact(self) -> None:
        db = self._handle()
        self._compacting = True
        self.batches.inline_garbage_bytes = 0
        try:
            db.flush(True)
            db.compact_range(None, None)
        except Exception as error:
            if not self._interrupted:
                raise self._typed(error) from error
        finally:
            self._compacting = False

    def reopen(self) -> None:
        """Start afresh after ENOSPC: drop every handle, then recover from the log.

        Call it while nobody else uses the store.

        Raises:
            StorageFullError: Still no room; call again later.
        """
        self._is_value_log_full = False  # what it refused left no trace
        if not self._is_broken:
            return
        failure = self._close_handle()
        if _CORRUPTION in failure:
            self.condemn(failure)
            error = StorageError(f"the store is damaged: {failure}")
            self._fatal(error)
            raise error
        try:
            self._db = self._open()
            self.batches.take_stock()
        except Exception as error:
            raise self._typed(error) from error
        self._is_broken = False

    def condemn(self, reason: str) -> None:
        """Have the next opening set this store aside; the process is to end."""
        with suppress(OSError):
            condemn(self._directory, reason)

    def interrupt(self) -> None:
        """Make a running `reclaim` end soon; only before `close`, since RocksDB never resumes."""
        self._interrupted = self._compacting
        if self._interrupted:
            self._handle().cancel_all_background(False)

    def close(self) -> None:
        """Release the directory; syncs nothing.

        Raises:
            StorageError: What was not synced may be gone. Damage is no error: the next opening sets
                the store aside.
        """
        self.batches.close()
        failure = self._close_handle()
        if _CORRUPTION in failure:  # a table that was being rewritten, say
            self.condemn(failure)
        elif failure and not (self.is_broken or self._interrupted or _is_full(failure)):
            raise StorageError(f"closing the store failed: {failure}")

    def _close_handle(self) -> str:
        """Let the handle go, with all that refers to it; return what RocksDB had against it."""
        with self._readers_changed:
            self._readers_changed.wait_for(lambda: self._readers == 0)
            db, self._db = self._db, None  # whoever comes from now on finds it closed
        failure = _closed(db) if db is not None else ""
        # After a failed close only the end of the last reference releases the directory's lock.
        del db
        gc.collect()
        return failure

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
    def _iterator(self, end: bytes) -> Iterator[Any]:
        """Lend an iterator that ends before `end`; short-lived, since it pins files.

        It verifies checksums: a flipped bit in a key would hide what lies under it.
        """
        read_options = ReadOptions()
        read_options.set_iterate_upper_bound(end)
        with self._readers_changed:
            self._readers += 1
        try:
            iterator = self._handle().iter(read_options)
            yield iterator
            del iterator
        except Exception as error:
            _check_damage(error)
            raise
        finally:
            with self._readers_changed:
                self._readers -= 1
                self._readers_changed.notify_all()

    def _write(self, mutation: Mutation) -> None:
        try:
            self._handle().write(mutation._batch, self._write_options)  # noqa: SLF001
        except Exception as error:
            raise self._typed(error) from error

    def _typed(self, error: Exception) -> Exception:
        """Tell the kinds of errors apart; RocksDB's have only their text."""
        if isinstance(error, OSError) and is_full(error):
            self._is_value_log_full = True  # without a trace of what did not fit
            return _full(str(error))
        if "Write stall" in str(error):
            return ThrottledError(
                "the node's disk cannot keep up with its memtables", field="memtables"
            )
        if self._is_broken or _is_full(error):  # the first error is followed by vaguer ones
            self._is_broken = True
            return _full(str(error))
        if _CORRUPTION in str(error) and self._db is not None:
            # No table could be written again, however often this node started.
            self.condemn(str(error))
        failure = StorageError(f"the store failed: {error}")
        self._fatal(failure)
        return failure


def _closed(db: Any) -> str:
    """Close a handle; return why that failed, or nothing."""
    try:
        db.close()
    except Exception as error:  # noqa: BLE001 - itself it would keep the handle
        return str(error)
    return ""


def _is_damage(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, DamagedTableError) or _CORRUPTION in text or _FILE_IS_MISSING in text


def _check_damage(error: Exception) -> None:
    if _CORRUPTION in str(error) and not isinstance(error, CorruptMessageError):
        raise DamagedTableError(f"a table of the store is damaged: {error}") from error


def _is_full(error: Exception | str) -> bool:
    """Whether RocksDB found no room; a sync of the value log that did not is no full disk."""
    return "No space left on device" in str(error) and not isinstance(error, StorageError)


def _full(reason: str) -> StorageFullError:
    return StorageFullError(f"the node's disk is full: {reason}", field="free_bytes", value=0)

"""One partition's log: append, read, truncate.

Idea: what every append and fetch asks (log start, log end, epochs, idempotence windows) is kept in
memory and rebuilt from the index when the log is opened; the store holds batches, index and state
of all partitions side by side, and each change is one atomic mutation.

Invariants: offsets grow without overlap; a batch, its index entry and the state it changes are
written together; memory changes only after the store has accepted the mutation, so a refused append
leaves no trace. What changes the log is synchronous, hence one step; it is unsynced:
`Appended.position` tells when it is durable.
"""

from collections.abc import Iterable

from msgspec import Struct

from odradek.node.storage.blocking import Blocking
from odradek.node.storage.epochs import LeaderEpochs
from odradek.node.storage.index import IndexEntry
from odradek.node.storage.keys import (
    Kind,
    Table,
    index_key,
    offset_range,
    pack_offset,
    state_key,
    unpack_offset,
)
from odradek.node.storage.log_reader import LogReader, TimestampOffset
from odradek.node.storage.producer_snapshots import ProducerSnapshots
from odradek.node.storage.store import Mutation, Store
from odradek.node.storage.tail_cache import TailCache
from odradek.node.storage.writer import Writer
from odradek.protocol.errors import InvalidRecordError, OffsetOutOfRangeError
from odradek.protocol.record_batch import BatchHeader, stamp_log_append_time, stamped, verify
from odradek.protocol.types import FIRST_OFFSET, LeaderEpoch, Offset, PartitionUid

_NO_TIMESTAMP = -1


class Appended(Struct, frozen=True, gc=False):
    """Where a batch lies.

    Attributes:
        base_offset: Of its first record; None for a duplicate too old to know.
        last_offset: Of its last record, inclusive; None as above.
        position: Hand it to `GroupCommit.when_durable`.
        append_time_ms: The broker's time that it got then, with LogAppendTime; else -1.
        is_duplicate: The log held it already; nothing was appended.
    """

    base_offset: Offset | None
    last_offset: Offset | None
    position: int
    append_time_ms: int = _NO_TIMESTAMP
    is_duplicate: bool = False


class PartitionLog:
    """The batches of one partition replica.

    Args:
        uid: Whose.
        store: Read directly.
        writer: Written through.
        cache: The node's; holds this log's newest batches.
        blocking: For cold reads.
        now_ms: The monotonic clock; producers found in the log live a day from now.
    """

    __slots__ = (
        "_blocking",
        "_cache",
        "_epochs",
        "_max_timestamp",
        "_producers",
        "_reader",
        "_snapshots",
        "_start_bytes",
        "_store",
        "_writer",
        "end_bytes",
        "high_watermark_checkpoint",
        "last_position",
        "log_end_offset",
        "log_start_offset",
        "uid",
    )

    def __init__(
        self,
        uid: PartitionUid,
        *,
        store: Store,
        writer: Writer,
        cache: TailCache,
        blocking: Blocking,
        now_ms: int,
    ) -> None:
        self.uid = uid
        self._store = store
        self._writer = writer
        self._cache = cache
        self._blocking = blocking
        self._reader = LogReader(store, uid)
        self._snapshots = ProducerSnapshots(store, self._reader, uid)
        self.last_position = 0
        """Position of the last change; a duplicate's ack waits for it."""
        self.load(now_ms)

    def load(self, now_ms: int) -> None:
        """Read the log's state from the store: a few seeks, whatever the log's size."""
        self._cache.discard(self.uid)
        self.log_start_offset = self._load_offset(b"start")
        self.high_watermark_checkpoint = self._load_offset(b"high_watermark")
        self._epochs = LeaderEpochs.unpack(self._store.get(self._state(b"epochs")) or b"")
        first, last = self._reader.first_entry(), self._reader.last_entry()
        if first is None or last is None:
            self.log_end_offset = self.log_start_offset
            self._max_timestamp = _NO_TIMESTAMP
            self._start_bytes = self.end_bytes = 0  # from the log's creation on
        else:
            self.log_end_offset = last.header.next_offset
            self._max_timestamp = last.max_timestamp_so_far
            self._start_bytes, self.end_bytes = first.bytes_before, last.bytes_through
        assert self.log_start_offset <= self.log_end_offset
        self._producers = self._snapshots.restore(self.log_end_offset, now_ms)

    @property
    def size_bytes(self) -> int:
        """Bytes of the batches in the log."""
        return self.end_bytes - self._start_bytes

    async def bytes_from(self, offset: Offset) -> int:
        """Return how many bytes of batches begin at or after an offset; a seek."""
        before = await self._blocking.run(self._reader.last_entry, offset)
        return self.end_bytes - (before.bytes_through if before else self._start_bytes)

    @property
    def leader_epochs(self) -> LeaderEpochs:
        """Which epochs wrote the log; read only."""
        return self._epochs

    def holds(self, header: BatchHeader) -> bool:
        """Tell whether a producer's batch is a repeat; raises as `append` does."""
        return self._producers.check(header) is not None

    def append(
        self,
        batch: bytes | bytearray | memoryview,
        header: BatchHeader,
        leader_epoch: LeaderEpoch,
        now_ms: int,
        *,
        append_time_ms: int = _NO_TIMESTAMP,
    ) -> Appended:
        """Append a producer's batch as the leader, unsynced.

        Args:
            batch: One batch that passed `validate`.
            header: What `validate` returned.
            leader_epoch: Under which this replica leads.
            now_ms: The monotonic clock.
            append_time_ms: With LogAppendTime, the broker's time, milliseconds since the epoch.

        Raises:
            InvalidProducerEpochError, OutOfOrderSequenceNumberError: See `ProducerStates.check`.
            StorageFullError: The disk's reserve is reached.
            ThrottledError: Nothing was written; wait for room, then try again.
        """
        duplicate = self._producers.check(header)
        if duplicate is not None:
            original = duplicate.original
            if original is None:
                return Appended(None, None, self.last_position, is_duplicate=True)
            offsets, time_ms = (original.base_offset, original.last_offset), original.append_time_ms
            return Appended(*offsets, self.last_position, time_ms, is_duplicate=True)
        if append_time_ms != _NO_TIMESTAMP:
            batch = bytearray(batch)
            stamp_log_append_time(batch, append_time_ms)
            header = BatchHeader.parse(batch)
        base_offset = self.log_end_offset
        header = header.placed(base_offset, leader_epoch)
        position = self._store_batch(header, stamped(batch, base_offset, leader_epoch), now_ms)
        return Appended(base_offset, header.last_offset, position, append_time_ms)

    def append_replicated(
        self, batches: Iterable[bytes | bytearray | memoryview], now_ms: int
    ) -> int:
        """Append batches as a leader has stamped them, unsynced.

        Returns:
            The position of the last one.

        Raises:
            InvalidRecordError: An offset or leader epoch falls behind this log's end.
            CorruptMessageError: A batch is damaged.
            StorageFullError, ThrottledError: As in `append`; the batches before are appended.
        """
        for batch in batches:
            header = verify(batch)
            behind = header.base_offset < self.log_end_offset
            if behind or header.leader_epoch < self._epochs.latest:
                raise InvalidRecordError(
                    f"batch at offset {header.base_offset} of epoch {header.leader_epoch} does not"
                    f" follow offset {self.log_end_offset}, epoch {self._epochs.latest}",
                    field="base_offset" if behind else "leader_epoch",
                    value=header.base_offset if behind else header.leader_epoch,
                    limit=self.log_end_offset if behind else self._epochs.latest,
                )
            self._store_batch(header, bytes(batch), now_ms)
        return self.last_position

    def read_cached(
        self, offset: Offset, bytes_max: int, end_offset: Offset | None = None
    ) -> list[bytes] | None:
        """Answer `read` without the disk; None when that cannot be."""
        end = self._checked_end(offset, end_offset)
        if offset >= end:
            return []
        return self._cache.read(self.uid, offset, end, bytes_max)

    async def read(
        self, offset: Offset, bytes_max: int, end_offset: Offset | None = None
    ) -> list[bytes]:
        """Return whole batches from the one that holds `offset` on.

        Args:
            offset: From the log start to the log end, where nothing is returned.
            bytes_max: Enough; the first batch is returned however large.
            end_offset: Batches that reach beyond it are left out; None for the log end.

        Raises:
            OffsetOutOfRangeError: Below the log start or beyond the log end.
            DamagedBatchError, DamagedTableError: Bits have rotted on disk.
        """
        cached = self.read_cached(offset, bytes_max, end_offset)
        if cached is not None:
            return cached
        end = self._checked_end(offset, end_offset)
        return await self._blocking.run(self._reader.read, offset, end, bytes_max)

    async def offset_for_timestamp(self, timestamp_ms: int) -> TimestampOffset | None:
        """Return the first record, by offset, with at least this timestamp; raises as `read`."""
        if timestamp_ms > self._max_timestamp:
            return None
        return await self._blocking.run(
            self._reader.find_timestamp, timestamp_ms, self.log_start_offset, self.log_end_offset
        )

    async def max_timestamp(self) -> TimestampOffset | None:
        """Return the first record with the largest timestamp; raises as `read`."""
        return await self._blocking.run(
            self._reader.find_max_timestamp, self.log_start_offset, self.log_end_offset
        )

    def truncate_to(self, offset: Offset, now_ms: int) -> int:
        """Remove every batch that reaches beyond an offset; its whole when the offset cuts it.

        Returns:
            The position to wait for before anything is told about the new end.
        """
        assert offset >= FIRST_OFFSET
        if offset >= self.log_end_offset:
            return self.last_position
        entry = self._reader.last_entry(offset)
        end = offset
        if entry is not None:
            header = entry.header
            end = header.base_offset if header.next_offset > offset else header.next_offset
        epochs = LeaderEpochs.unpack(self._epochs.pack())
        epochs.truncate_to(end)
        mutation = Mutation()
        mutation.delete_batches(self.uid, end)
        mutation.delete_range(*offset_range(Kind.INDEX, self.uid, end))
        mutation.put(self._state(b"epochs"), epochs.pack())
        self._snapshots.truncate(mutation, end)
        if self.log_start_offset > end:
            mutation.put(self._state(b"start"), pack_offset(end))
        if self.high_watermark_checkpoint > end:
            mutation.put(self._state(b"high_watermark"), pack_offset(end))
        self.last_position = self._writer.apply(mutation)
        self.load(now_ms)
        return self.last_position

    def start_afresh(self, offset: Offset, now_ms: int) -> int:
        """Remove everything: the log begins and ends at an offset beyond its end.

        Returns:
            The position to wait for before anything is told about the new end.
        """
        assert offset > self.log_end_offset
        mutation = Mutation()
        mutation.release_batches(self.uid, offset)
        mutation.delete_range(*offset_range(Kind.INDEX, self.uid))
        mutation.put(self._state(b"epochs"), b"")
        mutation.put(self._state(b"start"), pack_offset(offset))
        self._snapshots.truncate(mutation, FIRST_OFFSET)
        self.last_position = self._writer.apply(mutation)
        self.load(now_ms)
        return self.last_position

    def advance_log_start(self, offset: Offset, now_ms: int) -> int:
        """Remove the batches wholly below an offset; it becomes the log start.

        Returns:
            The position of the change.

        Raises:
            OffsetOutOfRangeError: Beyond the log end.
        """
        if offset > self.log_end_offset:
            raise self._out_of_range(offset)
        if offset <= self.log_start_offset:
            return self.last_position
        self.snapshot_producers(now_ms)  # no opening replays what is removed
        entry = self._reader.last_entry(Offset(offset + 1))
        keep_from = offset
        if entry is not None and entry.header.next_offset > offset:
            keep_from = entry.header.base_offset
        epochs = LeaderEpochs.unpack(self._epochs.pack())
        epochs.advance_to(offset)
        mutation = Mutation()
        mutation.release_batches(self.uid, keep_from)
        mutation.delete_range(*offset_range(Kind.INDEX, self.uid, FIRST_OFFSET, keep_from))
        mutation.put(self._state(b"start"), pack_offset(offset))
        mutation.put(self._state(b"epochs"), epochs.pack())
        self.last_position = self._writer.apply(mutation)
        self.log_start_offset = offset
        self._epochs = epochs
        first = self._reader.first_entry()
        self._start_bytes = first.bytes_before if first else self.end_bytes
        return self.last_position

    def checkpoint_high_watermark(self, high_watermark: Offset) -> None:
        """Note the high watermark, so that a restart knows a lower bound of it."""
        mutation = Mutation()
        mutation.put(self._state(b"high_watermark"), pack_offset(high_watermark))
        self._writer.apply(mutation)
        self.high_watermark_checkpoint = high_watermark

    def snapshot_producers(self, now_ms: int) -> None:
        """Note the idempotence windows now, so that the next opening replays nothing."""
        if self._snapshots.is_current(self.log_end_offset):
            return
        self._producers.expire(now_ms)
        mutation = Mutation()
        self._snapshots.add(mutation, self._producers, self.log_end_offset)
        self._writer.apply(mutation)
        self._snapshots.added(self.log_end_offset, now_ms)

    def _store_batch(self, header: BatchHeader, batch: bytes, now_ms: int) -> int:
        self._writer.admit(len(batch))
        max_timestamp = max(self._max_timestamp, header.max_timestamp)
        entry = IndexEntry(header, max_timestamp, self.end_bytes)
        mutation = Mutation()
        mutation.put(index_key(self.uid, header.base_offset), entry.pack())
        mutation.put_batch(self.uid, header.base_offset, batch)
        epochs = self._epochs
        if header.leader_epoch != epochs.latest:
            epochs = LeaderEpochs.unpack(epochs.pack())
            epochs.assign(header.leader_epoch, header.base_offset)
            mutation.put(self._state(b"epochs"), epochs.pack())
        snapshot_due = self._snapshots.is_due(len(batch), now_ms)
        if snapshot_due:
            self._producers.expire(now_ms)
            self._snapshots.add(mutation, self._producers, header.base_offset)
        self.last_position = self._writer.apply(mutation)
        # The store has it: from here on nothing fails.
        if snapshot_due:
            self._snapshots.added(header.base_offset, now_ms)
        self._epochs = epochs
        self._max_timestamp = max_timestamp
        self.end_bytes = entry.bytes_through
        self.log_end_offset = header.next_offset
        self._producers.appended(header, now_ms)
        self._cache.append(self.uid, header.base_offset, header.next_offset, batch)
        return self.last_position

    def _checked_end(self, offset: Offset, end_offset: Offset | None) -> Offset:
        if not self.log_start_offset <= offset <= self.log_end_offset:
            raise self._out_of_range(offset)
        return self.log_end_offset if end_offset is None else min(end_offset, self.log_end_offset)

    def _out_of_range(self, offset: Offset) -> OffsetOutOfRangeError:
        return OffsetOutOfRangeError(
            f"the log holds offsets {self.log_start_offset} to {self.log_end_offset} (exclusive),"
            f" not {offset}",
            field="offset",
            value=offset,
            limit=f"{self.log_start_offset}..{self.log_end_offset}",
        )

    def _state(self, key: bytes) -> bytes:
        return state_key(self.uid, Table.LOG, key)

    def _load_offset(self, key: bytes) -> Offset:
        return unpack_offset(self._store.get(self._state(key)) or b"")

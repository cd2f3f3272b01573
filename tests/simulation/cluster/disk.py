"""A node's disk: logs whose end may vanish.

Every change is one operation in the order of the store's write-ahead log, with a way back. A sync
makes a prefix permanent; a power cut takes a suffix of what was not synced, whole operations, since
the last one is torn and so void; of what is left, bytes that lie in the value log may be torn
(`values`). A kill takes nothing: the page cache survives the process. What is derived from the
batches (epochs, idempotence windows) is rebuilt by the production classes when the disk is opened,
from headers and snapshots alone, as the node does.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from random import Random

from odradek.node.storage.epochs import LeaderEpochs
from odradek.node.storage.index import IndexEntry
from odradek.node.storage.producer_snapshots import ProducerSnapshots
from odradek.node.storage.segments import LogPoint
from odradek.node.storage.value_recovery import LivePlace
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import FIRST_OFFSET, LeaderEpoch, Offset, PartitionUid
from tests.simulation.cluster.values import SimulatedValues, Written

Batch = BatchHeader
"""Stands for a whole batch: its `crc` is the number of its content, unlike any other's, and
negative where bytes are torn."""


class _Rows(dict[bytes, bytes]):
    """A log's small values in the store: its snapshots of idempotence windows."""

    def scan(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        return [(key, value) for key, value in sorted(self.items()) if begin <= key < end]

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)


class SimulatedLog:
    """One partition's log; what `PartitionLog` is to a node."""

    def __init__(self, uid: PartitionUid, disk: "SimulatedDisk") -> None:
        self.uid = uid
        self._disk = disk
        self.batches: list[Batch] = []
        self.written: list[Written] = []  # of each batch
        self.high_watermark_checkpoint = FIRST_OFFSET
        self._rows = _Rows()
        self._snapshots = ProducerSnapshots(self._rows, self, uid)
        self.restart(disk.opened_ms)

    def restart(self, now_ms: int) -> None:
        """Derive everything from what is on disk, as after a start."""
        self.leader_epochs = LeaderEpochs()
        for batch in self.batches:
            self.leader_epochs.assign(batch.leader_epoch, batch.base_offset)
        self.producers = self._snapshots.restore(self.log_end_offset, now_ms)

    def entries(self, begin: Offset) -> Iterator[IndexEntry]:
        """Yield what the index says of the batches from an offset on."""
        return (IndexEntry(batch, 0, 0) for batch in self._from(begin))

    @property
    def log_end_offset(self) -> Offset:
        """The offset after the last batch."""
        return self.batches[-1].next_offset if self.batches else FIRST_OFFSET

    def append(self, batch: Batch, now_ms: int) -> int:
        """Append a stamped batch; return the position to wait for."""
        assert batch.base_offset == self.log_end_offset
        self.leader_epochs.assign(batch.leader_epoch, batch.base_offset)
        undo: Callable[[], object] = self._forget_last
        if self._snapshots.is_due(batch.size_bytes, now_ms) or self._disk.chance.random() < 0.02:
            undo = partial(self._forget_last, dict(self._rows))
            self.producers.expire(now_ms)
            self._snapshots.add(self._rows, self.producers, batch.base_offset)
            self._snapshots.added(batch.base_offset, now_ms)
        self.producers.appended(batch, now_ms)
        self.batches.append(batch)
        place = self._disk.values.write(batch)
        position = self._disk.did(undo)
        self.written.append(Written(position, place))
        return position

    def _forget_last(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.batches.pop()
        self.written.pop()
        if rows is not None:
            self._restore(rows)

    def _restore(self, rows: dict[bytes, bytes]) -> None:
        self._rows.clear()
        self._rows.update(rows)

    def is_durable(self, end: Offset) -> bool:
        """Whether all below an offset is on disk."""
        last = len(self.batches) - 1
        while last >= 0 and self.batches[last].base_offset >= end:
            last -= 1
        return last < 0 or self.written[last].position <= self._disk.durable

    def stamp(self, batch: Batch, epoch: LeaderEpoch) -> Batch:
        """Return a producer's batch as the leader appends it."""
        return batch._replace(base_offset=self.log_end_offset, leader_epoch=epoch)

    def truncate_to(self, offset: Offset, now_ms: int) -> int:
        """Remove every batch that reaches beyond an offset."""
        kept = [batch for batch in self.batches if batch.next_offset <= offset]
        removed = self.batches[len(kept) :]
        written = self.written[len(kept) :]
        if not removed:
            return self._disk.appended
        checkpoint, rows = self.high_watermark_checkpoint, dict(self._rows)
        del self.batches[len(kept) :], self.written[len(kept) :]
        self.high_watermark_checkpoint = min(checkpoint, self.log_end_offset)
        self._snapshots.truncate(self._rows, self.log_end_offset)
        self.restart(now_ms)

        def undo() -> None:
            self.batches.extend(removed)
            self.written.extend(written)
            self.high_watermark_checkpoint = checkpoint
            self._restore(rows)

        return self._disk.did(undo)

    def rot(self, count: int) -> None:
        """Lose all but so many batches."""
        del self.batches[count:], self.written[count:]
        self.high_watermark_checkpoint = min(self.high_watermark_checkpoint, self.log_end_offset)
        self._snapshots.truncate(self._rows, self.log_end_offset)

    def unsynced(self) -> Iterator[int]:
        """Yield the indexes of the batches that are not durable, the newest first."""
        for index in reversed(range(len(self.batches))):
            if self.written[index].position <= self._disk.durable:
                return
            yield index

    def tear(self) -> None:
        """Make another thing of those batches whose bytes are not what was written."""
        for index in self.unsynced():
            if self._disk.values.is_torn(self.written[index].place):
                batch = self.batches[index]
                self.batches[index] = batch._replace(crc=-batch.crc)

    def live_places(self, begin: int) -> Iterator[LivePlace]:
        """Yield what lies in the value log from a segment on, the newest first."""
        for batch, (_, place) in zip(reversed(self.batches), reversed(self.written), strict=True):
            if place is not None:
                if place.segment < begin:
                    return
                yield self.uid, batch.base_offset, place

    def checkpoint(self, high_watermark: Offset) -> None:
        """Note the high watermark."""
        before = self.high_watermark_checkpoint
        self.high_watermark_checkpoint = high_watermark

        def undo() -> None:
            self.high_watermark_checkpoint = before

        self._disk.did(undo)

    def read(self, offset: Offset, count_max: int, end: Offset) -> tuple[Batch, ...]:
        """Return whole batches from the one at `offset` on, at most up to an end."""
        found: list[Batch] = []
        for batch in self._from(offset):
            if batch.next_offset > end or len(found) == count_max:
                break
            found.append(batch)
        return tuple(found)

    def _from(self, offset: Offset) -> Iterable[Batch]:
        at = len(self.batches)
        while at and self.batches[at - 1].next_offset > offset:
            at -= 1
        return self.batches[at:]


class SimulatedDisk:
    """All of a node's logs, written through one write-ahead log."""

    def __init__(self, directory: int, chance: Random) -> None:
        self.directory = directory
        self.chance = chance
        self.values = SimulatedValues(chance)
        self.opened_ms = 0
        self.is_replacement = False
        self.logs: dict[PartitionUid, SimulatedLog] = {}
        self.appended = 0
        self.durable = 0
        self.lost_data = False
        self.lost_pages = False
        self.metadata_version = 0  # all acknowledged under earlier ones is permanent
        # Of what is not durable, oldest first: how to take it back, and the value log's end.
        self._undo: list[tuple[Callable[[], object], LogPoint]] = []
        self._synced_end = self.values.end

    @property
    def has_lost(self) -> bool:
        """Whether something is missing that the controller has not been told of."""
        return self.lost_data or self.lost_pages or self.is_replacement

    def is_intact(self, *, pages_too: bool) -> bool:
        """Whether nothing is missing that was promised, with `pages_too` in the page cache."""
        return not (self.lost_data or self.is_replacement or (pages_too and self.lost_pages))

    def log(self, uid: PartitionUid) -> SimulatedLog:
        """Return a partition's log; one that never was is empty."""
        if uid not in self.logs:
            self.logs[uid] = SimulatedLog(uid, self)
        return self.logs[uid]

    def drop(self, uid: PartitionUid) -> None:
        """Remove all of a partition; should it come back, it begins empty."""
        log = self.logs.pop(uid, None)
        if log is not None:
            self.did(partial(self.logs.__setitem__, uid, log))

    def sync_s(self, chance: Random) -> float:
        """Return how long the next sync takes: some disks are slow, all are at times."""
        if chance.random() < (0.02, 0.3)[self.directory % 5 == 0]:
            return chance.choice([0.05, 0.3])
        return 0.0003 + chance.random() * 0.001

    def did(self, undo: Callable[[], object]) -> int:
        """Count an operation."""
        self._undo.append((undo, self.values.end))
        self.appended += 1
        return self.appended

    def synced(self, position: int, metadata_version: int = 0) -> None:
        """Everything up to a position is permanent, which its node had reached with a version."""
        if not self.lost_pages:
            self.metadata_version = max(metadata_version, self.metadata_version)
        if position > self.durable:
            count = position - self.durable
            self._synced_end = self._undo[count - 1][1]
            self.values.on_synced(self._synced_end)
            del self._undo[:count]
            self.durable = position

    def open(self, now_ms: int) -> int:
        """Begin with what is there, and sync it; return how many logs were cut at a torn batch."""
        self.opened_ms = now_ms
        for log in self.logs.values():
            log.restart(now_ms)
        begin = self.values.marked.segment
        torn = self.values.recover(
            chain.from_iterable(log.live_places(begin) for log in self.logs.values())
        )
        for uid, offset in torn.items():
            self.logs[uid].truncate_to(offset, now_ms)
        self._all_is_durable()
        return len(torn)

    def on_power_cut(self, chance: Random) -> None:
        """The machine died: a suffix of what was not synced is gone, and of the rest some bytes."""
        for _ in range(chance.randint(0, len(self._undo))):
            self._undo.pop()[0]()
        logs = self.logs.values()
        unsynced = sorted(log.written[index] for log in logs for index in log.unsynced())
        self.values.on_power_cut([each.place for each in unsynced if each.place], self._synced_end)
        for log in logs:
            log.tear()
        self._all_is_durable()
        self.lost_pages = True

    def on_rot(self, chance: Random) -> None:
        """What was synced is gone as well, which the durable mark tells at the next start."""
        for log in self.logs.values():
            if log.batches and chance.random() < 0.7:
                log.rot(chance.randrange(len(log.batches)))
        self._all_is_durable()
        self.lost_data = True

    def _all_is_durable(self) -> None:
        self._undo.clear()
        self.appended = self.durable = self.appended + 1
        self._synced_end = self.values.end

"""A node's disk: logs whose end may vanish.

Every change is one operation in the order of the store's write-ahead log, with a way back. A sync
makes a prefix permanent; a power cut takes a suffix of what was not synced, whole operations, since
the last one is torn and so void. A kill takes nothing: the page cache survives the process.
What is derived from the batches (epochs, idempotence windows) is rebuilt after each start by the
production classes, from headers alone, as the node does.
"""

from collections.abc import Callable, Iterable
from random import Random

from odradek.node.storage.epochs import LeaderEpochs
from odradek.node.storage.producers import ProducerStates
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import FIRST_OFFSET, LeaderEpoch, Offset, PartitionUid

Batch = BatchHeader
"""Stands for a whole batch: its `crc` is the number of its content, unlike any other's."""


class SimulatedLog:
    """One partition's log; what `PartitionLog` is to a node."""

    def __init__(self, uid: PartitionUid, disk: "SimulatedDisk") -> None:
        self.uid = uid
        self._disk = disk
        self.batches: list[Batch] = []
        self._positions: list[int] = []  # of each batch
        self.high_watermark_checkpoint = FIRST_OFFSET
        self.restart()

    def restart(self) -> None:
        """Derive everything from the batches, as after a start."""
        self.leader_epochs = LeaderEpochs()
        self.producers = ProducerStates()
        for batch in self.batches:
            self.leader_epochs.assign(batch.leader_epoch, batch.base_offset)
            self.producers.appended(batch, 0)

    @property
    def log_end_offset(self) -> Offset:
        """The offset after the last batch."""
        return self.batches[-1].next_offset if self.batches else FIRST_OFFSET

    def append(self, batch: Batch, now_ms: int) -> int:
        """Append a stamped batch; return the position to wait for."""
        assert batch.base_offset == self.log_end_offset
        self.leader_epochs.assign(batch.leader_epoch, batch.base_offset)
        self.producers.appended(batch, now_ms)
        self.batches.append(batch)
        self._positions.append(self._disk.did(self._forget_last))
        return self._positions[-1]

    def _forget_last(self) -> None:
        self.batches.pop()
        self._positions.pop()

    def is_durable(self, end: Offset) -> bool:
        """Whether all below an offset is on disk."""
        last = len(self.batches) - 1
        while last >= 0 and self.batches[last].base_offset >= end:
            last -= 1
        return last < 0 or self._positions[last] <= self._disk.durable

    def stamp(self, batch: Batch, epoch: LeaderEpoch) -> Batch:
        """Return a producer's batch as the leader appends it."""
        return batch._replace(base_offset=self.log_end_offset, leader_epoch=epoch)

    def truncate_to(self, offset: Offset) -> int:
        """Remove every batch that reaches beyond an offset."""
        kept = [batch for batch in self.batches if batch.next_offset <= offset]
        removed = self.batches[len(kept) :]
        positions = self._positions[len(kept) :]
        if not removed:
            return self._disk.appended
        checkpoint = self.high_watermark_checkpoint
        del self.batches[len(kept) :], self._positions[len(kept) :]
        self.high_watermark_checkpoint = min(checkpoint, self.log_end_offset)
        self.restart()

        def undo() -> None:
            self.batches.extend(removed)
            self._positions.extend(positions)
            self.high_watermark_checkpoint = checkpoint

        return self._disk.did(undo)

    def rot(self, count: int) -> None:
        """Lose all but so many batches."""
        del self.batches[count:], self._positions[count:]
        self.high_watermark_checkpoint = min(self.high_watermark_checkpoint, self.log_end_offset)

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

    def __init__(self, directory: int) -> None:
        self.directory = directory
        self.is_replacement = False
        self.logs: dict[PartitionUid, SimulatedLog] = {}
        self.appended = 0
        self.durable = 0
        self.lost_data = False
        self.lost_pages = False
        self.metadata_version = 0  # all acknowledged under earlier ones is permanent
        self._undo: list[Callable[[], object]] = []  # of what is not durable, oldest first

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

    def sync_s(self, chance: Random) -> float:
        """Return how long the next sync takes: some disks are slow, all are at times."""
        if chance.random() < (0.02, 0.3)[self.directory % 5 == 0]:
            return chance.choice([0.05, 0.3])
        return 0.0003 + chance.random() * 0.001

    def did(self, undo: Callable[[], object]) -> int:
        """Count an operation."""
        self._undo.append(undo)
        self.appended += 1
        return self.appended

    def synced(self, position: int, metadata_version: int = 0) -> None:
        """Everything up to a position is permanent, which its node had reached with a version."""
        if not self.lost_pages:
            self.metadata_version = max(metadata_version, self.metadata_version)
        if position > self.durable:
            del self._undo[: position - self.durable]
            self.durable = position

    def on_kill(self) -> None:
        """The process died."""
        for log in self.logs.values():
            log.restart()

    def on_power_cut(self, chance: Random) -> None:
        """The machine died: a suffix of what was not synced is gone."""
        for _ in range(chance.randint(0, len(self._undo))):
            self._undo.pop()()
        self._undo.clear()
        self.appended = self.durable = self.appended + 1
        self.lost_pages = True
        self.on_kill()

    def on_rot(self, chance: Random) -> None:
        """What was synced is gone as well, which the durable mark tells at the next start."""
        for log in self.logs.values():
            if log.batches and chance.random() < 0.7:
                log.rot(chance.randrange(len(log.batches)))
        self._undo.clear()
        self.appended = self.durable = self.appended + 1
        self.lost_data = True
        self.on_kill()

"""A node's storage at work until it kills itself.

`python -m tests.powerloss.storage_program ROOT SEED N`. It appends, truncates, moves log starts
and writes small state in four partitions at once, and says what is durable as a node would
acknowledge it. The fourth argument plants a mistake: `early` says it before the sync, `unsynced`
makes every sync of the store do nothing.
"""

import asyncio
import random
import sys
from functools import partial
from pathlib import Path

from odradek.node.storage import PartitionLog, Storage, StorageOptions, StoreOptions
from odradek.node.storage import storage as storage_module
from odradek.node.storage.keys import Table
from odradek.node.storage.store import Store
from odradek.protocol.types import LeaderEpoch, Offset, PartitionUid
from tests.node.storage.batches import NOW_MS, append, batch, opened
from tests.powerloss.promises import Promises

PARTITIONS = 4
FIRST_DROPPED_UID = 100
# Small enough for every kind of file to be written, sealed, rewritten and removed within a second.
OPTIONS = StorageOptions(
    reserve_bytes=1 << 20,
    store=StoreOptions(memtable_bytes=256 << 10, value_bytes_min=1 << 10, segment_bytes=128 << 10),
)


def value_at(uid: int, epoch: int, base_offset: int, size_bytes: int) -> bytes:
    """Return what each record of a batch holds: no two batches agree."""
    word = f"{uid}/{epoch}/{base_offset};".encode()
    return (word * (size_bytes // len(word) + 1))[: max(size_bytes, len(word))]


class Worker:
    """What happens to one partition, one step after the other."""

    def __init__(
        self, storage: Storage, uid: PartitionUid, promises: Promises, seed: int, *, early: bool
    ) -> None:
        self._storage = storage
        self._uid = uid
        self._promises = promises
        self._chance = random.Random(seed * PARTITIONS + uid)
        self._early = early
        self._log: PartitionLog = storage.log(uid)
        self._epoch = LeaderEpoch(self._log.leader_epochs.latest + 1)
        self._notes = storage.table(Table.REPLICA)
        self._next_dropped_uid = FIRST_DROPPED_UID + int(uid) + PARTITIONS * seed * 1000
        self._noted = int(self._notes.get(uid, b"note") or b"0")

    async def run(self) -> None:
        """Go on until the process is killed."""
        steps = (self._append, self._truncate, self._advance, self._note, self._drop)
        while True:
            [step] = self._chance.choices(steps, weights=(79, 3, 6, 9, 3))
            await step()

    async def _durable(self, position: int) -> None:
        if not self._early:
            await self._storage.group_commit.when_durable(position)
        else:
            await asyncio.sleep(0)

    async def _append(self) -> None:
        base = self._log.log_end_offset
        count = self._chance.randint(1, 3)
        value = value_at(self._uid, self._epoch, base, self._chance.choice((40, 700, 6000, 30_000)))
        data = batch(
            count, value=value, producer_id=self._uid, producer_epoch=0, base_sequence=base
        )
        appended = await self._storage.patiently(lambda: append(self._log, data, self._epoch))
        await self._durable(appended.position)
        self._promises.make("appended", self._uid, base, base + count, self._epoch)

    async def _truncate(self) -> None:
        start, end = self._log.log_start_offset, self._log.log_end_offset
        to = Offset(self._chance.randint(max(start, end - 6), end))
        self._promises.make("truncating", self._uid, to)
        position = await self._storage.patiently(lambda: self._log.truncate_to(to, NOW_MS))
        await self._durable(position)
        self._promises.make("truncated", self._uid, self._log.log_end_offset, self._epoch)
        self._epoch = LeaderEpoch(self._epoch + 1)

    async def _advance(self) -> None:
        start, end = self._log.log_start_offset, self._log.log_end_offset
        to = Offset(self._chance.randint(start, max(start, end - 10)))
        self._promises.make("advancing", self._uid, to)
        position = await self._storage.patiently(lambda: self._log.advance_log_start(to, NOW_MS))
        await self._durable(position)
        self._promises.make("advanced", self._uid, to)

    async def _drop(self) -> None:
        """Make a partition, write to it, and remove it."""
        uid = PartitionUid(self._next_dropped_uid)
        self._next_dropped_uid += PARTITIONS
        log = self._storage.log(uid)
        for _ in range(3):
            data = batch(1, value=value_at(uid, 0, log.log_end_offset, 30_000))
            appended = await self._storage.patiently(partial(append, log, data, LeaderEpoch(0)))
            await self._durable(appended.position)
        position = await self._storage.patiently(lambda: self._storage.drop(uid))
        await self._durable(position)
        self._promises.make("dropped", self._uid, uid)

    async def _note(self) -> None:
        number = self._noted = self._noted + 1
        put = {b"note": str(number).encode()}
        position = await self._storage.patiently(lambda: self._notes.write(self._uid, put))
        await self._durable(position)
        self._promises.make("noted", self._uid, number)


async def main() -> None:
    """Open the storage and work until killed."""
    root, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    mistake = sys.argv[4] if len(sys.argv) > 4 else ""
    if mistake == "unsynced":
        Store.sync = lambda store: None  # type: ignore[method-assign, assignment]
    storage_module._TICK_S = 0.01  # what happens in a minute happens in a second
    storage_module._MARK_INTERVAL_S = 0.03
    async with opened(root / "data", OPTIONS) as storage, asyncio.TaskGroup() as tasks:
        promises = Promises(root, count)
        for uid in range(PARTITIONS):
            early = mistake == "early"
            worker = Worker(storage, PartitionUid(uid), promises, seed, early=early)
            tasks.create_task(worker.run())


if __name__ == "__main__":
    asyncio.run(main())

"""A process that appends until it is killed: `python -m tests.node.storage.crash_child DIRECTORY`.

Prints `acknowledged UID END` for every append that is durable, and never stops by itself.
"""

import asyncio
import os
import sys
from pathlib import Path

from odradek.node.storage import StorageOptions, StoreOptions
from odradek.protocol.types import PartitionUid
from tests.node.storage.batches import append_patiently, batch, opened

PARTITIONS = 4


async def main() -> None:
    options = StorageOptions(reserve_bytes=1 << 20, store=StoreOptions(memtable_bytes=2 << 20))
    async with opened(Path(sys.argv[1]), options) as storage:
        value = os.urandom(20_000)

        async def produce(uid: PartitionUid) -> None:
            log = storage.log(uid)
            sequence: int = log.log_end_offset
            while True:
                data = batch(
                    2, value=value, producer_id=uid, producer_epoch=0, base_sequence=sequence
                )
                position = await append_patiently(storage, uid, data)
                sequence += 2
                end = log.log_end_offset
                await storage.group_commit.when_durable(position)
                os.write(1, f"acknowledged {uid} {end}\n".encode())

        async with asyncio.TaskGroup() as tasks:
            for uid in range(PARTITIONS):
                tasks.create_task(produce(PartitionUid(uid)))


if __name__ == "__main__":
    asyncio.run(main())

"""A consumer as a process of its own: `member.py BOOTSTRAP GROUP TOPIC`.

Processing a record is writing `partition offset value` as a line to standard output, which survives
the process. SIGTERM makes it leave its group.
"""

import asyncio
import os
import signal
import sys

from odradek.client import Client, serdes


async def consume(bootstrap: str, group: str, topic: str) -> None:
    async with (
        Client(bootstrap) as client,
        client.consumer(topic, group=group, key=serdes.raw, value=serdes.string) as consumer,
    ):
        os.write(1, b"joined\n")
        async for record in consumer:
            os.write(1, f"{record.partition} {record.offset} {record.value}\n".encode())


async def main() -> None:
    consuming = asyncio.ensure_future(consume(*sys.argv[1:4]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consuming.cancel)
    await asyncio.wait({consuming})
    if not consuming.cancelled():
        consuming.result()


if __name__ == "__main__":
    asyncio.run(main())

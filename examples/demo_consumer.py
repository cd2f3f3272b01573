"""One consumer of the demo, a process of its own: `demo_consumer.py BOOTSTRAP GROUP NAME`.

"Processing" a point is writing one line to standard output, unbuffered: once written it survives
the process, so what a killed consumer processed is known exactly.
"""

import asyncio
import os
import signal
import sys
import time

import msgspec
from demo_fleet import TOPIC, Point

from odradek.client import Client, serdes


async def consume(bootstrap: str, group: str, name: str) -> None:
    """Report every point until SIGTERM, then leave the group."""
    async with (
        Client(bootstrap, client_id=name) as client,
        client.consumer(
            TOPIC, group=group, key=serdes.string, value=serdes.json_of(Point)
        ) as consumer,
    ):
        async for record in consumer:
            point = msgspec.json.encode(record.value)
            os.write(1, b"%d %d %s\n" % (time.monotonic_ns(), record.partition, point))


async def main() -> None:
    """Consume until SIGTERM."""
    consuming = asyncio.ensure_future(consume(*sys.argv[1:4]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consuming.cancel)
    await asyncio.wait({consuming})
    if not consuming.cancelled():
        consuming.result()


if __name__ == "__main__":
    asyncio.run(main())

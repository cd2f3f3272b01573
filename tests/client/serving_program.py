"""Stands for a controller or node: `--listen HOST:PORT` serves, `--fail TEXT` does not."""

import asyncio
import signal
import sys

from odradek.rpc.server import Server


async def main() -> None:
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    if "--fail" in options:
        sys.exit(options["--fail"])
    server = Server(options["--listen"])
    await server.start()
    if "--never-ready" not in options:
        await server.health.set(serving=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    sys.stdout.write("stopped cleanly\n")
    await server.drain(0)


asyncio.run(main())

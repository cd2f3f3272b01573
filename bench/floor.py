"""The same messages and syncs through gRPC's core with no broker: how fast the machine is today.

A server appends what comes over one gRPC stream to a file, syncs it in a thread, has followers do
the same, then answers, and pushes it down a second stream (floor_server.py). The client sends what
has gathered as soon as it has the last answer. Nothing is checked, indexed, numbered, retried.
Odradek's own transport takes less than gRPC's core, so that it could be faster than this.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc

from bench.floor_server import FETCH, PRODUCE
from bench.pacing import RATE, VALUE_BYTES, age_s, paced

_STARTS_WITHIN_S: Final = 10.0


async def ages_s(servers: int, run_s: float) -> list[float]:
    """Return how old records were, in seconds, when they had come all the way.

    Args:
        servers: One leads, the others follow.
        run_s: For how long records are sent.
    """
    with TemporaryDirectory(prefix="odradek-floor-") as directory:
        async with AsyncExitStack() as running:
            ports: list[str] = []
            for number in range(servers):
                followers = ports if number == servers - 1 else []
                server = _server(Path(directory, f"{number}"), followers)
                ports.append(await running.enter_async_context(server))
            async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[-1]}") as channel:
                return await _send_and_receive(channel, int(RATE * run_s))


@asynccontextmanager
async def _server(file: Path, followers: list[str]) -> AsyncIterator[str]:
    """Run a server; yields its port."""
    command = (sys.executable, "-m", "bench.floor_server", str(file), *followers)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_STARTS_WITHIN_S):
            port = (await process.stdout.readline()).decode().strip()
        yield port
    finally:
        process.stdin.close()  # it ends with its input, also when this process dies
        await process.wait()


async def _send_and_receive(channel: grpc.aio.Channel, count: int) -> list[float]:
    produce: Any = channel.stream_stream(PRODUCE)()
    fetch: Any = channel.stream_stream(FETCH)()
    await fetch.write(b"subscribe")
    await fetch.read()
    gathered: list[bytes] = []
    is_due = asyncio.Event()

    async def send() -> None:
        while True:
            await is_due.wait()
            is_due.clear()
            while gathered:
                message = b"".join(gathered)
                gathered.clear()
                await produce.write(message)
                await produce.read()

    async def receive() -> list[float]:
        ages: list[float] = []
        while len(ages) < count:
            message: bytes = await fetch.read()
            values = memoryview(message)
            ages += [age_s(values[at:]) for at in range(0, len(message), VALUE_BYTES)]
        return ages

    sending, receiving = asyncio.create_task(send()), asyncio.create_task(receive())
    try:
        async for value in paced(count):
            gathered.append(value)
            is_due.set()
        return await receiving
    finally:
        sending.cancel()
        receiving.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)
        produce.cancel()
        fetch.cancel()

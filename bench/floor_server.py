"""A server of floor.py: `python -m bench.floor_server FILE [FOLLOWER'S PORT ...]`.

It prints its port, and ends with its standard input.
"""

import asyncio
import os
import struct
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

# Its event engine (the default since 1.75.1, grpc#43092) costs a thread hop more per message.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

import grpc
import uvloop

PRODUCE: Final = "/floor/Produce"
FETCH: Final = "/floor/Fetch"
_REPLICATE: Final = "/floor/Replicate"

_FILE_BYTES: Final = 64 << 20
_NUMBER: Final = struct.Struct(">q")

Done = Callable[[], None]


class _Disk:
    """A file, and a thread that syncs it: one sync for all that was appended before it began."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self._file, 0, _FILE_BYTES)
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Done] = []
        self._is_syncing = False
        self._syncs: SimpleQueue[list[Done]] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def append(self, data: bytes, done: Done) -> None:
        os.write(self._file, data)
        self._waiting.append(done)
        self._sync()

    def _sync(self) -> None:
        if self._waiting and not self._is_syncing:
            self._is_syncing = True
            waiting, self._waiting = self._waiting, []
            self._syncs.put(waiting)

    def _run(self) -> None:
        while True:
            waiting = self._syncs.get()
            os.fdatasync(self._file)
            self._loop.call_soon_threadsafe(self._on_synced, waiting)

    def _on_synced(self, waiting: list[Done]) -> None:
        self._is_syncing = False
        self._sync()
        for done in waiting:
            done()


class _Outbox:
    """What is to be written to one stream."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write
        self._messages: list[bytes] = []
        self._is_due = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._is_due.set()

    def close(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            messages, self._messages = self._messages, []
            for message in messages:
                await self._write(message)


class _Server:
    def __init__(self, disk: _Disk) -> None:
        self._disk = disk
        self._followers: list[_Outbox] = []
        self._consumers: list[_Outbox] = []
        self._missing: dict[int, int] = {}
        self._on_stored: dict[int, Done] = {}
        self._number = 0

    async def produce(self, _: Any, context: Any) -> None:
        answers = _Outbox(context.write)
        while (message := await context.read()) is not grpc.aio.EOF:
            self._number += 1
            number = self._number

            self._missing[number] = 1 + len(self._followers)
            self._on_stored[number] = partial(self._stored, message, answers)
            for follower in self._followers:
                follower.put(_NUMBER.pack(number) + message)
            self._disk.append(message, partial(self._count, number))
        answers.close()

    def _stored(self, message: bytes, answers: _Outbox) -> None:
        for consumer in self._consumers:
            consumer.put(message)
        answers.put(b"stored")

    async def fetch(self, _: Any, context: Any) -> None:
        await context.read()
        await context.write(b"subscribed")
        self._consumers.append(_Outbox(context.write))
        await context.read()
        self._consumers.pop().close()

    async def replicate(self, _: Any, context: Any) -> None:
        answers = _Outbox(context.write)
        while (message := await context.read()) is not grpc.aio.EOF:
            self._disk.append(message, partial(answers.put, message[: _NUMBER.size]))
        answers.close()

    async def push_to(self, address: str) -> None:
        """Have a follower store what is produced from now on."""
        call: Any = grpc.aio.insecure_channel(address).stream_stream(_REPLICATE)()
        self._followers.append(_Outbox(call.write))
        while (answer := await call.read()) is not grpc.aio.EOF:
            self._count(_NUMBER.unpack(answer)[0])

    def _count(self, number: int) -> None:
        self._missing[number] -= 1
        if not self._missing[number]:
            del self._missing[number]
            self._on_stored.pop(number)()


async def _serve(path: str, followers: list[str]) -> None:
    server, floor, ended = grpc.aio.server(), _Server(_Disk(path)), asyncio.Event()
    methods = {PRODUCE: floor.produce, FETCH: floor.fetch, _REPLICATE: floor.replicate}
    for name, method in methods.items():
        _, service, last = name.split("/")
        handler: Any = grpc.stream_stream_rpc_method_handler(method)
        generic = grpc.method_handlers_generic_handler(service, {last: handler})
        server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pushing = [asyncio.create_task(floor.push_to(f"127.0.0.1:{each}")) for each in followers]
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    print(port, flush=True)
    await ended.wait()
    for each in pushing:
        each.cancel()
    os._exit(0)  # gRPC's threads have nothing to finish


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], sys.argv[2:]))

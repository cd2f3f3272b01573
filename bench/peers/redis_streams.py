"""Redis streams through redis-py with hiredis: six streams, pipelined XADD, XREAD of all six.

The blocking client is the faster of redis-py's two; the asyncio one serves the latency workload,
where sending and receiving happen at the same time.
"""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import ClassVar

import redis
import redis.asyncio

from bench.peers.server import HOST, INSTALLED, find, held_port, running
from bench.peers.system import Durability
from bench.stage import PARTITIONS

_APPENDFSYNC = {Durability.CACHE: "everysec", Durability.COMMIT: "always"}
_PIPELINE_RECORDS = 1_000
_READ_RECORDS = 1_000  # of each stream
_FIELD = b"v"


def _server() -> str:
    return find("redis-server", INSTALLED / "usr/bin", how="apt-get install redis-server")


class System:
    """A single server with an append-only file."""

    name = "Redis streams"
    settings: ClassVar = {
        durability: f"6 streams, appendonly, appendfsync {fsync}, no snapshots, no rewriting;"
        f" pipelines of {_PIPELINE_RECORDS:,} XADD, XREAD COUNT {_READ_RECORDS:,}; in memory"
        for durability, fsync in _APPENDFSYNC.items()
    }

    def version(self) -> str:
        """Return the versions of server and client."""
        asked = subprocess.run(
            [_server(), "--version"],
            capture_output=True,
            text=True,
            check=True,
            env={"LD_LIBRARY_PATH": _libraries()},
        )
        server = asked.stdout.split("v=")[1].split()[0]
        return f"redis-server {server}, redis-py {version('redis')}, hiredis {version('hiredis')}"

    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator["_Broker"]:
        """Run a server."""
        flags = {
            "bind": HOST,
            "dir": str(directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": _APPENDFSYNC[durability],
            "auto-aof-rewrite-percentage": "0",
        }
        with held_port() as port:
            server = running(
                "redis",
                _server(),
                *("--port", str(port)),
                *(word for flag, value in flags.items() for word in (f"--{flag}", value)),
                port=port,
                directory=directory,
                environment={"LD_LIBRARY_PATH": _libraries()},
            )
            async with server:
                yield _Broker(port)


def _libraries() -> str:
    return str(INSTALLED / "usr/lib/x86_64-linux-gnu")


@dataclass(frozen=True, slots=True)
class _Broker:
    port: int

    @asynccontextmanager
    async def stream(self) -> AsyncIterator["_Stream"]:
        name = uuid.uuid4().hex
        keys = [f"{name}-{index}".encode() for index in range(PARTITIONS)]
        with redis.Redis(host=HOST, port=self.port) as client:
            yield _Stream(client, self.port, keys)
            client.delete(*keys)


@dataclass(frozen=True, slots=True)
class _Stream:
    client: redis.Redis
    port: int
    keys: list[bytes]

    async def produce_many(self, values: Sequence[bytes]) -> None:
        """There is no command for many records: a pipeline is the client's way to batch."""
        await self.produce_one_by_one(values)

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        keys = cycle(self.keys)
        for start in range(0, len(values), _PIPELINE_RECORDS):
            for value in values[start : start + _PIPELINE_RECORDS]:
                pipeline.xadd(next(keys), {_FIELD: value})
            pipeline.execute()

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        """What comes while a pipeline is under way goes with the next."""
        waiting: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=_PIPELINE_RECORDS)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send(waiting))
            async for value in values:
                await waiting.put(value)
            await waiting.put(None)

    async def _send(self, waiting: asyncio.Queue[bytes | None]) -> None:
        keys = cycle(self.keys)
        async with redis.asyncio.Redis(host=HOST, port=self.port) as client:
            while (value := await waiting.get()) is not None:
                pipeline = client.pipeline(transaction=False)
                pipeline.xadd(next(keys), {_FIELD: value})
                while not waiting.empty() and (value := waiting.get_nowait()) is not None:
                    pipeline.xadd(next(keys), {_FIELD: value})
                await pipeline.execute()
                if value is None:
                    break

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        positions: dict[bytes, bytes] = dict.fromkeys(self.keys, b"0")
        client = redis.asyncio.Redis(host=HOST, port=self.port)
        async with aclosing(client):
            while count:
                found = await client.xread(positions, count=_READ_RECORDS, block=1_000)
                for key, entries in found:
                    for _, fields in entries:
                        see(fields[_FIELD])
                    positions[key] = entries[-1][0]
                    count -= len(entries)

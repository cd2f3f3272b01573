"""RabbitMQ streams through rstream: six streams, batches of records, confirmed by callback.

RabbitMQ never fsyncs a stream: it has no figure under fsync.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import ClassVar

from rstream import (
    ConfirmationStatus,
    Consumer,
    ConsumerOffsetSpecification,
    MessageContext,
    OffsetType,
    Producer,
)

from bench.peers.server import HOST, INSTALLED, ServerAbsentError, held_port, running
from bench.peers.system import Durability
from bench.stage import PARTITIONS

_BATCH_BYTES = 1_000_000  # the server accepts frames of 1 MiB
_UNCONFIRMED_MAX = 50_000
_LOGIN = {"username": "guest", "password": "guest"}


def _scripts() -> Path:
    # Not the wrapper in /usr/sbin: it insists on the user rabbitmq and on /var/lib.
    for root in (INSTALLED, Path("/")):
        if (scripts := root / "usr/lib/rabbitmq/bin").exists():
            return scripts
    raise ServerAbsentError("rabbitmq-server is not installed: apt-get install rabbitmq-server")


class System:
    """A single node with the stream plugin."""

    name = "RabbitMQ streams"
    settings: ClassVar = {
        Durability.CACHE: f"6 streams; send_batch of {_BATCH_BYTES // 1000} kB, send; no decoder;"
        " latency by send_batch of one (send waits up to 0.5 s)"
    }

    def version(self) -> str:
        """Return the versions of server and client."""
        home = (_scripts() / "rabbitmq-server").resolve().parents[1].name
        return f"{home.replace('_server-', '-server ')}, rstream {version('rstream')}"

    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator["_Broker"]:
        """Run Erlang's port mapper and a server."""
        assert durability is Durability.CACHE, "there is no other"
        erlang = _scripts().parents[1] / "erlang/bin"
        config, plugins = directory / "rabbitmq.conf", directory / "enabled_plugins"
        plugins.write_text("[rabbitmq_stream].")
        with held_port() as port, held_port() as mapper_port, held_port() as distribution_port:
            config.write_text(
                "listeners.tcp = none\n"
                f"stream.listeners.tcp.1 = {HOST}:{port}\n"
                f"stream.advertised_host = {HOST}\n"
                f"stream.advertised_port = {port}\n"
            )
            environment = {
                "PATH": f"{erlang}:{os.environ['PATH']}",
                "HOME": str(directory),  # the cookie
                "ERL_EPMD_ADDRESS": HOST,
                "ERL_EPMD_PORT": str(mapper_port),
                "RABBITMQ_NODENAME": "rabbit@localhost",
                "RABBITMQ_DIST_PORT": str(distribution_port),
                "RABBITMQ_CONFIG_FILE": str(config),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
                "RABBITMQ_MNESIA_BASE": str(directory / "data"),
                "RABBITMQ_LOG_BASE": str(directory),
                "RABBITMQ_LOGS": "-",
                "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the server: same pid
            }
            async with AsyncExitStack() as processes:
                for name, program, listens in (
                    ("epmd", erlang / "epmd", mapper_port),
                    ("rabbitmq", _scripts() / "rabbitmq-server", port),
                ):
                    process = running(
                        name,
                        str(program),
                        port=listens,
                        directory=directory,
                        environment=environment,
                    )
                    await processes.enter_async_context(process)
                yield _Broker(port)


@dataclass(frozen=True, slots=True)
class _Broker:
    port: int

    @asynccontextmanager
    async def stream(self) -> AsyncIterator["_Stream"]:
        name = uuid.uuid4().hex
        names = [f"{name}-{index}" for index in range(PARTITIONS)]
        async with Producer(HOST, self.port, **_LOGIN) as producer:
            for each in names:
                await producer.create_stream(each)
            yield _Stream(producer, self.port, names)
            for each in names:
                await producer.delete_stream(each)


@dataclass(slots=True)
class _Confirms:
    """How many records the server has not confirmed yet.

    Attributes:
        left: Their number.
        fell: Set at each confirmation.
    """

    left: int = 0
    fell: asyncio.Event = field(default_factory=asyncio.Event)

    def on_confirm(self, status: ConfirmationStatus) -> None:
        assert status.is_confirmed, f"refused with code {status.response_code}"
        self.left -= 1
        self.fell.set()

    async def at_most(self, limit: int) -> None:
        while self.left > limit:
            self.fell.clear()
            await self.fell.wait()


@dataclass(frozen=True, slots=True)
class _Stream:
    producer: Producer
    port: int
    names: list[str]

    async def produce_many(self, values: Sequence[bytes]) -> None:
        confirms = _Confirms()
        step = max(1, _BATCH_BYTES // len(values[0]))
        for start, name in zip(range(0, len(values), step), cycle(self.names), strict=False):
            batch = values[start : start + step]
            await confirms.at_most(_UNCONFIRMED_MAX)
            confirms.left += len(batch)
            await self.producer.send_batch(name, batch, on_publish_confirm=confirms.on_confirm)
        await confirms.at_most(0)

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        confirms = _Confirms(left=len(values))
        send, on_confirm = self.producer.send, confirms.on_confirm
        for value, name in zip(values, cycle(self.names), strict=False):
            await send(name, value, on_publish_confirm=on_confirm)
        await confirms.at_most(0)

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        confirms = _Confirms()
        names = cycle(self.names)
        async for value in values:
            confirms.left += 1
            await self.producer.send_batch(
                next(names), [value], on_publish_confirm=confirms.on_confirm
            )
        await confirms.at_most(0)

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        done = asyncio.Event()
        left = count

        def handle(value: bytes, _context: MessageContext) -> None:
            nonlocal left
            see(value)
            left -= 1
            if not left:
                done.set()

        async with Consumer(HOST, self.port, **_LOGIN) as consumer:
            for name in self.names:
                await consumer.subscribe(
                    name,
                    handle,
                    decoder=None,
                    offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None),
                )
            await done.wait()

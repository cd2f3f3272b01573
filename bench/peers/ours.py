"""Odradek in its own comparison: the benchmark's stage behind the peers' protocol."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from bench.peers.system import Durability
from bench.stage import PARTITIONS, Stage, stage
from odradek.client import Client, Producer, serdes

_FLUSH = {Durability.CACHE: "os", Durability.COMMIT: "commit"}


@dataclass(frozen=True, slots=True)
class System:
    """One controller; partitions have a replica on each node."""

    nodes: int = 1
    name: ClassVar = "Odradek"

    @property
    def settings(self) -> Mapping[Durability, str]:
        """Partitions, and how they are written to."""
        return {
            durability: f"6 partitions, {self.nodes} replicas, flush={flush}; send_many, enqueue;"
            " latency with linger 0"
            for durability, flush in _FLUSH.items()
        }

    def version(self) -> str:
        """Return the version."""
        return f"odradek {version('odradek')}"

    @asynccontextmanager
    async def serve(self, durability: Durability, _directory: Path) -> AsyncIterator["_Broker"]:
        """Run a fresh cluster; it makes a directory of its own beside the one given."""
        async with stage(1.0, nodes=self.nodes) as fresh:
            yield _Broker(fresh, _FLUSH[durability])


@dataclass(frozen=True, slots=True)
class _Broker:
    stage: Stage
    flush: str

    @asynccontextmanager
    async def stream(self) -> AsyncIterator["_Stream"]:
        async with (
            self.stage.client() as client,
            self.stage.topic(client, flush=self.flush) as topic,
            AsyncExitStack() as producers,
        ):
            producer = client.producer(key=serdes.raw, value=serdes.raw)
            yield _Stream(client, topic, await producers.enter_async_context(producer))


@dataclass(frozen=True, slots=True)
class _Stream:
    client: Client
    topic: str
    producer: Producer[bytes, bytes]

    async def produce_many(self, values: Sequence[bytes]) -> None:
        await self.producer.send_many(self.topic, values)

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        topic, enqueue = self.topic, self.producer.enqueue
        for value in values:
            await enqueue(topic, value)
        await self.producer.flush()

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        at_once = self.client.producer(key=serdes.raw, value=serdes.raw, linger_s=0.0)
        async with at_once as producer:
            async for value in values:
                await producer.enqueue(self.topic, value)
            await producer.flush()

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        async with self.client.consumer(key=serdes.raw, value=serdes.raw) as consumer:
            consumer.assign((self.topic, index) for index in range(PARTITIONS))
            async for record in consumer:
                see(record.value)
                count -= 1
                if not count:
                    break

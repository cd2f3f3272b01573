"""A broker in memory that notes in which order it was used."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.peers.system import Durability


class MemoryStream:
    def __init__(self, broker: str = "") -> None:
        self.broker = broker
        self.values: list[bytes] = []
        self.calls = 0
        self._came = asyncio.Event()

    async def produce_many(self, values: Sequence[bytes]) -> None:
        self.calls += 1
        self.values.extend(values)
        self._came.set()

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        await self.produce_many(values)

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        async for value in values:
            await self.produce_many([value])

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        for offset in range(count):
            while len(self.values) == offset:
                self._came.clear()
                await self._came.wait()
            see(self.values[offset])


class MemoryBroker:
    def __init__(self, name: str) -> None:
        self._name = name

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[MemoryStream]:
        yield MemoryStream(self._name)


class MemorySystem:
    def __init__(
        self,
        name: str,
        settings: Mapping[Durability, str],
        served: list[tuple[str, Durability, Path]],
    ) -> None:
        self.name = name
        self.settings = settings
        self._served = served

    def version(self) -> str:
        return "1.0"

    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator[MemoryBroker]:
        self._served.append((self.name, durability, directory))
        yield MemoryBroker(self.name)


class BrokenSystem(MemorySystem):
    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator[MemoryBroker]:
        raise OSError(f"no room for {durability.value} in {directory}")
        yield

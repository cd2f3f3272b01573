"""A producer on a cluster in memory, for the length of a block."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from odradek.client import Client, Producer
from tests.client.fake_node import FakeCluster

DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def producing(cluster: FakeCluster, **options: Any) -> AsyncIterator[Producer[Any, Any]]:
    async with (
        asyncio.timeout(DEADLINE_S),
        Client(cluster.bootstrap) as client,
        client.producer(**options) as producer,
    ):
        yield producer


def numbers(values: Iterable[Any]) -> list[int]:
    return [int(value) for value in values]

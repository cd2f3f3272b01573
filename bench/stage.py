"""Where workloads run: controllers and nodes as processes, the SDK in this one."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster, LocalProcess

PARTITIONS = 6
MEGABYTE = 1_000_000
_IN_SYNC_TIMEOUT_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Stage:
    """A running cluster; topics have a replica on each of its nodes.

    Attributes:
        cluster: Its processes.
        scale: Fraction of each workload to run: 1.0 in full.
    """

    cluster: LocalCluster
    scale: float

    @property
    def replication(self) -> int:
        """How many replicas partitions have."""
        return len(self.cluster.nodes)

    @property
    def node(self) -> LocalProcess:
        """The first node."""
        return self.cluster.nodes[1]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client of its own for a workload."""
        async with Client(self.cluster.bootstrap, client_id="bench") as client:
            yield client

    @asynccontextmanager
    async def topic(
        self, client: Client, *, flush: str = "commit", partitions: int = PARTITIONS
    ) -> AsyncIterator[str]:
        """A topic of its own for a workload; its data is deleted afterwards."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        await client.admin.create_topic(
            name, partitions=partitions, replication=self.replication, config={"flush": flush}
        )
        try:
            yield name
        finally:
            await client.admin.delete_topic(name)

    async def in_sync(self, client: Client, topic: str) -> None:
        """Wait until every partition is led and has all its replicas in sync.

        Raises:
            TimeoutError: That takes more than a minute.
        """
        async with asyncio.timeout(_IN_SYNC_TIMEOUT_S):
            while True:
                partitions = (await client.admin.describe_topic(topic)).partitions
                if all(
                    each.leader is not None and len(each.isr) == self.replication
                    for each in partitions
                ):
                    return
                await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def stage(scale: float, *, nodes: int = 1, controllers: int = 1) -> AsyncIterator[Stage]:
    """Start a fresh cluster."""
    async with LocalCluster(nodes=nodes, controllers=controllers) as cluster:
        yield Stage(cluster, scale)

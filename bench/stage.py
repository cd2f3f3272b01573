"""Where workloads run: one controller and one node as processes, the SDK in this one."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster, LocalProcess

PARTITIONS = 6
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Stage:
    """A running cluster of one node.

    Attributes:
        cluster: Its processes.
        scale: Fraction of each workload to run: 1.0 in full.
    """

    cluster: LocalCluster
    scale: float

    @property
    def node(self) -> LocalProcess:
        """The only node."""
        return self.cluster.nodes[1]

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client of its own for a workload."""
        async with Client(self.cluster.bootstrap, client_id="bench") as client:
            yield client

    @asynccontextmanager
    async def topic(self, client: Client, *, flush: str = "commit") -> AsyncIterator[str]:
        """A topic of its own for a workload; its data is deleted afterwards."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        await client.admin.create_topic(name, partitions=PARTITIONS, config={"flush": flush})
        try:
            yield name
        finally:
            await client.admin.delete_topic(name)


@asynccontextmanager
async def stage(scale: float) -> AsyncIterator[Stage]:
    """Start a fresh cluster."""
    async with LocalCluster(nodes=1, controllers=1) as cluster:
        yield Stage(cluster, scale)

"""A cluster in memory with everything a consumer talks to, and a client of it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from odradek.client import serdes
from odradek.client.client import Client
from odradek.client.consumer import Consumer
from odradek.client.record import Record
from odradek.v1 import metadata_pb2
from tests.client.fake_fetch import FakeFetch, FakeLogs
from tests.client.fake_groups import FakeGroups, FakeGroupService
from tests.client.fake_node import FakeCluster, FakeNode, FakePartition, FakeTopic

TIMEOUT_S = 20.0


class World:
    """What a test sees of the cluster."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.logs = FakeLogs(self.cluster)
        self.groups = FakeGroups(self.cluster)
        self.fetch: dict[int, FakeFetch] = {}
        self.group_services: dict[int, FakeGroupService] = {}
        self.client: Client

    async def start_node(self) -> FakeNode:
        node = FakeNode(self.cluster, len(self.cluster.nodes) + 1)
        self.fetch[node.node_id] = FakeFetch(node, self.logs)
        self.group_services[node.node_id] = FakeGroupService(node, self.groups)
        await node.start()
        self.cluster.nodes[node.node_id] = node
        return node

    async def topic(self, name: str = "t", *, partitions: int = 1, records: int = 0) -> FakeTopic:
        """A topic the client knows of; values are offsets, in batches of ten."""
        topic = self.cluster.create_topic(name, partitions=partitions)
        for index in range(partitions):
            self.fill(topic, index, records)
        await self.known()
        return topic

    async def known(self) -> None:
        """Wait until the client knows of every change."""
        await self.client._scope.metadata.at_least(self.cluster.version, timeout_s=TIMEOUT_S)

    def add_partition(self, topic: FakeTopic) -> None:
        topic.partitions.append(FakePartition(len(topic.partitions), 10_000, 1))
        self.cluster.publish(metadata_pb2.MetadataUpdate(topics=[topic.metadata()]))

    def fill(self, topic: FakeTopic, partition: int, count: int) -> None:
        first = topic.partitions[partition].end
        for start in range(first, first + count, 10):
            stop = min(start + 10, first + count)
            self.logs.append(topic, partition, (b"%d" % number for number in range(start, stop)))

    def consumer(
        self, *topics: str, key: Any = serdes.raw, value: Any = serdes.raw, **settings: Any
    ) -> Consumer[Any, Any]:
        settings.setdefault("commit_interval_s", 0.05)
        return self.client.consumer(*topics, key=key, value=value, **settings)


@asynccontextmanager
async def world(*, nodes: int = 1) -> AsyncIterator[World]:
    made = World()
    for _ in range(nodes):
        await made.start_node()
    try:
        async with Client(made.cluster.bootstrap, request_timeout_s=2.0) as client:
            made.client = client
            yield made
    finally:
        await made.cluster.stop()


async def read(consumer: Consumer[Any, Any], count: int) -> list[Record[Any, Any]]:
    """Read so many records by `anext`: all but the last count as processed."""
    async with asyncio.timeout(TIMEOUT_S):
        return [await anext(consumer) for _ in range(count)]


def offsets(records: Iterable[Record[Any, Any]]) -> list[int]:
    return [record.offset for record in records]


def values(records: Iterable[Record[Any, Any]]) -> list[bytes]:
    return [record.value for record in records]

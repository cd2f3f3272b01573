"""A node in this process, and what a client says to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from odradek.node.config import NodeConfig, load_config
from odradek.node.node import Node
from odradek.node.storage import Storage, StorageOptions, StoreOptions
from odradek.protocol import hot
from odradek.protocol.record_batch import BatchBuilder
from odradek.protocol.types import (
    LeaderEpoch,
    PartitionIndex,
    ProducerEpoch,
    ProducerId,
    TopicId,
    TopicName,
)
from odradek.rpc.channels import open_channel
from odradek.v1 import (
    admin_pb2_grpc,
    broker_pb2,
    broker_pb2_grpc,
    metadata_pb2,
    metadata_pb2_grpc,
)
from tests.node.fake_controller import FakeController

SMALL = StorageOptions(reserve_bytes=1 << 20, store=StoreOptions(memtable_bytes=4 << 20))
WAIT_S = 10.0


def monotonic_ms() -> int:
    """The clock of a node's storage."""
    return time.monotonic_ns() // 1_000_000


def batch(
    count: int = 1,
    *,
    value: bytes = b"value",
    timestamp_ms: int | None = None,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """Build a batch of equal records."""
    now_ms = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
    builder = BatchBuilder(32 << 20)
    for _ in range(count):
        builder.append(b"key", value, now_ms, [])
    return bytes(
        builder.close(ProducerId(producer_id), ProducerEpoch(producer_epoch), base_sequence)
    )


class ProduceClient:
    """One produce stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.stream_stream("/odradek.v1.BrokerService/Produce")
        self.call: Any = method()
        self._correlation_id = 0

    async def send(
        self,
        topic: metadata_pb2.TopicMetadata,
        *records: bytes,
        partition: int = 0,
        acks: hot.Acks = hot.Acks.ALL,
        leader_epoch: int = -1,
        timeout_ms: int = 5000,
        transactional_id: str = "",
    ) -> int:
        """Send a request with one entry per batch; return its correlation id."""
        self._correlation_id += 1
        entries = [
            hot.ProducePartitionFrame(
                TopicId(topic.topic_id),
                TopicName(topic.name),
                PartitionIndex(partition),
                LeaderEpoch(leader_epoch),
                each,
            )
            for each in records
        ]
        frame = hot.ProduceFrame(self._correlation_id, acks, timeout_ms, transactional_id, entries)
        await self.call.write(hot.encode_produce_request(frame))
        return self._correlation_id

    async def answer(self) -> broker_pb2.ProduceResponse:
        """Return the next response."""
        async with asyncio.timeout(WAIT_S):
            data = await self.call.read()
        assert isinstance(data, bytes), "the stream has ended"
        return broker_pb2.ProduceResponse.FromString(data)

    async def produce(
        self, topic: metadata_pb2.TopicMetadata, *records: bytes, **options: Any
    ) -> broker_pb2.ProducePartitionResult:
        """Send one request and return the result of its first entry."""
        await self.send(topic, *records, **options)
        return (await self.answer()).partitions[0]


class FetchClient:
    """One fetch stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.stream_stream(
            "/odradek.v1.BrokerService/Fetch",
            request_serializer=broker_pb2.FetchRequest.SerializeToString,
        )
        self.call: Any = method()
        self._pushes: list[hot.FetchedPartitionFrame[memoryview]] = []

    async def open(self, *, total_credit_bytes: int = 64 << 20, **options: Any) -> None:
        """Open the stream."""
        opened = broker_pb2.FetchOpen(client_id="test", **options)
        await self.tell(open=opened, total_credit_bytes=total_credit_bytes)

    async def tell(self, **fields: Any) -> None:
        """Send a frame."""
        await self.call.write(broker_pb2.FetchRequest(**fields))

    @staticmethod
    def wanted(
        subscription_id: int,
        topic: metadata_pb2.TopicMetadata,
        offset: int = 0,
        *,
        partition: int = 0,
        credit_bytes: int = 1 << 20,
        leader_epoch: int = -1,
        last_fetched_epoch: int = -1,
    ) -> broker_pb2.FetchSubscribe:
        """Return what a subscription says."""
        return broker_pb2.FetchSubscribe(
            subscription_id=subscription_id,
            topic_id=topic.topic_id,
            topic=topic.name,
            partition=partition,
            current_leader_epoch=leader_epoch,
            offset=offset,
            last_fetched_epoch=last_fetched_epoch,
            credit_bytes=credit_bytes,
        )

    async def subscribe(
        self,
        subscription_id: int,
        topic: metadata_pb2.TopicMetadata,
        offset: int = 0,
        **options: int,
    ) -> None:
        """Begin to read a partition."""
        await self.tell(subscribe=[self.wanted(subscription_id, topic, offset, **options)])

    async def push(self) -> hot.FetchedPartitionFrame[memoryview]:
        """Return the next partition of the next push."""
        while not self._pushes:
            self._pushes = await self.message()
        return self._pushes.pop(0)

    async def message(self) -> list[hot.FetchedPartitionFrame[memoryview]]:
        """Return the next push whole."""
        async with asyncio.timeout(WAIT_S):
            data = await self.call.read()
        assert isinstance(data, bytes), "the stream has ended"
        return hot.decode_fetch_response(data).partitions

    async def records(self) -> hot.FetchedPartitionFrame[memoryview]:
        """Return the next push with records, or an end."""
        while True:
            push = await self.push()
            if len(push.records) or push.error or push.diverging_epoch:
                return push


@dataclass(slots=True)
class RunningNode:
    """A node and a client's channel to it."""

    node: Node
    address: str
    channel: grpc.aio.Channel
    metadata: Any
    admin: Any
    broker: Any
    storage: Storage
    stop: asyncio.Event
    task: asyncio.Task[None]

    async def knows(self, controller: FakeController) -> None:
        """Wait until the node has applied everything the controller has published."""
        await self.metadata.GetMetadata(
            metadata_pb2.GetMetadataRequest(min_version=controller.version), timeout=WAIT_S
        )


def node_config(data: Path, controller: FakeController, **settings: Any) -> NodeConfig:
    """Return the settings of a node on a port of the system's choice."""
    flags = {"id": 1, "data": data, "listen": "127.0.0.1:0", "shutdown_grace_s": 1.0}
    return load_config({**flags, "controllers": (controller.address,), **settings})


def _fatal(error: BaseException) -> None:
    raise AssertionError(f"fatal: {error}") from error


@asynccontextmanager
async def running_node(
    data: Path,
    controller: FakeController,
    *,
    options: StorageOptions = SMALL,
    fatal: Callable[[BaseException], None] = _fatal,
    **settings: Any,
) -> AsyncIterator[RunningNode]:
    """Run a node until the end of the block, then stop it in good order."""
    config = node_config(data, controller, **settings)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(
            Storage(data, options, fatal=fatal, now_ms=monotonic_ms)
        )
        node = Node(config, storage)
        task = asyncio.create_task(node.run(stop))
        ready = asyncio.create_task(node.ready.wait())
        async with asyncio.timeout(WAIT_S):
            await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await task  # raises
        address = f"127.0.0.1:{node.port}"
        channel = open_channel(address)
        try:
            yield RunningNode(
                node,
                address,
                channel,
                metadata_pb2_grpc.MetadataServiceStub(channel),
                admin_pb2_grpc.AdminServiceStub(channel),
                broker_pb2_grpc.BrokerServiceStub(channel),
                storage,
                stop,
                task,
            )
        finally:
            stop.set()
            await task
            await channel.close()

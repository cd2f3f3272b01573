"""A small cluster in this process: real gRPC on ports the system chose, logs in memory.

It follows the rules a client relies on (leader epochs, producer sequences, metadata deltas) and
does wrong on demand: a test scripts faults for the produce entries to come, holds answers back,
stops a node or moves a leader. `FakeNode.servicers` is where further services join.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    NotLeaderOrFollowerError,
    UnknownTopicIdError,
    error_to_proto,
)
from odradek.protocol.hot import ProduceFrame, ProducePartitionFrame, decode_produce_request
from odradek.rpc.server import Server
from odradek.v1 import (
    admin_pb2,
    broker_pb2,
    metadata_pb2,
    metadata_pb2_grpc,
)
from tests.client.fake_log import BATCH_BYTES_MAX, FakePartition, FakeTopic
from tests.client.fake_metadata import AdminServicer, MetadataServicer

__all__ = ["FakeCluster", "FakeNode", "FakePartition", "FakeTopic", "Fault"]

Watcher: TypeAlias = asyncio.Queue[metadata_pb2.MetadataUpdate | None]


@dataclass(eq=False)
class Fault:
    """What goes wrong with one produce entry.

    Attributes:
        error: Answered; None: no answer, the stream breaks.
        appended: Whether the batch is appended all the same.
    """

    error: BrokerError | None = None
    appended: bool = False


class FakeCluster:
    """Topics, nodes and who watches them."""

    def __init__(self) -> None:
        self.cluster_id = uuid.uuid4().hex
        self.version = 1
        self.topics: dict[str, FakeTopic] = {}
        self.nodes: dict[int, FakeNode] = {}
        self.granted: list[tuple[int, int]] = []
        self._uids = iter(range(1, 1 << 30))
        self._watchers: dict[Watcher, FakeNode] = {}

    @property
    def bootstrap(self) -> str:
        return ",".join(node.address for node in self.nodes.values())

    async def start_node(self) -> "FakeNode":
        node = FakeNode(self, len(self.nodes) + 1)
        await node.start()
        self.nodes[node.node_id] = node
        self.publish_node(node)
        return node

    def publish_node(self, node: "FakeNode") -> None:
        """Tell everybody where a node is, and how it fares."""
        self.publish(metadata_pb2.MetadataUpdate(nodes=[node.metadata()]))

    def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        leader: int = 1,
        config: dict[str, str] | None = None,
    ) -> FakeTopic:
        made = [FakePartition(index, next(self._uids), leader) for index in range(partitions)]
        topic = self.topics[name] = FakeTopic(name, made, config or {})
        self.publish(metadata_pb2.MetadataUpdate(topics=[topic.metadata()]))
        return topic

    def delete_topic(self, name: str) -> None:
        topic = self.topics.pop(name)
        self.publish(metadata_pb2.MetadataUpdate(removed_topic_ids=[topic.topic_id]))

    def move_leader(
        self, topic: FakeTopic, partition: int, leader: int, *, announce: bool = True
    ) -> None:
        """Elect another leader; unannounced, only produce answers tell."""
        topic.partitions[partition].leader_id = leader
        topic.partitions[partition].leader_epoch += 1
        if announce:
            self.publish(
                metadata_pb2.MetadataUpdate(
                    partitions=[
                        metadata_pb2.PartitionUpdate(
                            topic_id=topic.topic_id,
                            partition=topic.metadata().partitions[partition],
                        )
                    ]
                )
            )

    def add_partition(self, topic: FakeTopic, *, leader: int = 1) -> None:
        topic.partitions.append(FakePartition(len(topic.partitions), next(self._uids), leader))
        self.publish(metadata_pb2.MetadataUpdate(topics=[topic.metadata()]))

    def resend(self, name: str) -> None:
        """Publish a topic once more, for a node that was deaf."""
        self.publish(metadata_pb2.MetadataUpdate(topics=[self.topics[name].metadata()]))

    def publish(self, update: metadata_pb2.MetadataUpdate) -> None:
        self.version += 1
        update.version = self.version
        for watcher, node in self._watchers.items():
            if not node.deaf:
                watcher.put_nowait(update)

    def image(self) -> metadata_pb2.MetadataUpdate:
        return metadata_pb2.MetadataUpdate(
            version=self.version,
            snapshot=True,
            nodes=[node.metadata() for node in self.nodes.values()],
            topics=[topic.metadata() for topic in self.topics.values()],
        )

    def by_id(self, topic_id: bytes) -> FakeTopic:
        for topic in self.topics.values():
            if topic.topic_id == topic_id:
                return topic
        raise UnknownTopicIdError("no such topic id")

    @asynccontextmanager
    async def watching(self, node: "FakeNode") -> AsyncIterator[Watcher]:
        watcher: Watcher = asyncio.Queue()
        self._watchers[watcher] = node
        try:
            yield watcher
        finally:
            del self._watchers[watcher]

    def grant(self, held_id: int, held_epoch: int) -> tuple[int, int]:
        identity = (held_id, held_epoch + 1) if held_id >= 0 else (1000 + len(self.granted), 0)
        self.granted.append(identity)
        return identity

    def end_watches(self, of: "FakeNode") -> None:
        """End what is watched at a node, as one does that loses its controllers."""
        for watcher, node in self._watchers.items():
            if node is of:
                watcher.put_nowait(None)

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()


class FakeNode:
    """One node.

    Attributes:
        faults: For the produce entries to come, in order; None means none for that entry.
        judge: Asked before `faults`, with every entry; may return a fault.
        answering: Cleared: produce requests are appended, but their answers are held back.
        reading: Cleared: produce requests are not even looked at, and probes not answered.
        deaf: True: hears no news of the cluster.
        hears_controller: What it says of itself.
        fenced: What metadata says of it.
        requests: Every produce request seen.
        distort: Changes an answer before it leaves.
    """

    def __init__(self, cluster: FakeCluster, node_id: int) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.port = 0
        self.faults: deque[Fault | None] = deque()
        self.judge: Callable[[ProducePartitionFrame], Fault | None] = lambda _: None
        self.answering = asyncio.Event()
        self.answering.set()
        self.reading = asyncio.Event()
        self.reading.set()
        self.deaf = False
        self.hears_controller = True
        self.fenced = False
        self.requests: list[ProduceFrame] = []
        self.distort: Callable[[broker_pb2.ProduceResponse], None] = lambda _: None
        self._requested = asyncio.Condition()
        self.server = Server("127.0.0.1:0")
        self.servicers: list[Callable[[grpc.aio.Server], None]] = [self._serve]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def has_requests(self, count: int) -> None:
        """Return once so many produce requests have come."""
        async with self._requested:
            await self._requested.wait_for(lambda: len(self.requests) >= count)

    def metadata(self) -> metadata_pb2.NodeMetadata:
        return metadata_pb2.NodeMetadata(
            node_id=self.node_id, host="127.0.0.1", port=self.port, fenced=self.fenced
        )

    async def start(self) -> None:
        for join in self.servicers:
            join(self.server.grpc)
        self.port = await self.server.start()

    async def stop(self) -> None:
        """Die: every connection breaks."""
        await self.server.grpc.stop(0)

    def _serve(self, server: grpc.aio.Server) -> None:
        handlers = {
            "Produce": grpc.stream_stream_rpc_method_handler(self._produce),
            "InitProducerId": grpc.unary_unary_rpc_method_handler(
                self._init_producer_id,
                request_deserializer=broker_pb2.InitProducerIdRequest.FromString,
                response_serializer=broker_pb2.InitProducerIdResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("odradek.v1.BrokerService", handlers),)
        )
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(MetadataServicer(self), server)
        admin = AdminServicer(self)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(admin, name),
                request_deserializer=getattr(admin_pb2, f"{name}Request").FromString,
                response_serializer=getattr(admin_pb2, f"{name}Response").SerializeToString,
            )
            for name in ("CreateTopics", "DeleteTopics", "DescribeCluster")
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("odradek.v1.AdminService", handlers),)
        )

    # ------------------------------------------------------------------ produce

    async def _produce(self, _: Any, context: Any) -> None:
        writing = asyncio.Lock()
        breaks = False
        try:
            async with asyncio.TaskGroup() as group:
                while (data := await context.read()) is not grpc.aio.EOF:
                    await self.reading.wait()
                    frame = decode_produce_request(data)
                    self.requests.append(frame)
                    async with self._requested:
                        self._requested.notify_all()
                    results = [self._append(each) for each in frame.partitions]
                    group.create_task(self._answer(context, writing, frame, results))
        except* _StreamBrokenError:
            breaks = True
        if breaks:  # not above: what is raised there is raised in a group
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream breaks")

    async def _answer(
        self,
        context: Any,
        writing: asyncio.Lock,
        frame: ProduceFrame,
        results: list[broker_pb2.ProducePartitionResult],
    ) -> None:
        await self.answering.wait()
        response = broker_pb2.ProduceResponse(
            correlation_id=frame.correlation_id, partitions=results
        )
        self.distort(response)
        async with writing:
            await context.write(response.SerializeToString())

    def _append(self, entry: ProducePartitionFrame) -> broker_pb2.ProducePartitionResult:
        fault = self.judge(entry) or (self.faults.popleft() if self.faults else None)
        result = broker_pb2.ProducePartitionResult(
            topic_id=entry.topic_id,
            partition=entry.partition,
            base_offset=-1,
            log_append_time_ms=-1,
            leader_id=-1,
        )
        try:
            if fault is not None and not fault.appended:
                raise fault.error or _StreamBrokenError
            result.base_offset = self._append_to_log(entry)
            if fault is not None:
                raise fault.error or _StreamBrokenError
        except BrokerError as error:
            result.base_offset = -1
            result.error.CopyFrom(error_to_proto(error))
            if error.refreshes_metadata:
                self._hint(entry, result)
        return result

    def _append_to_log(self, entry: ProducePartitionFrame) -> int:
        topic = self.cluster.by_id(entry.topic_id)
        partition = topic.partitions[entry.partition]
        if partition.leader_id != self.node_id:
            raise NotLeaderOrFollowerError("not here")
        if 0 <= entry.leader_epoch < partition.leader_epoch:
            raise FencedLeaderEpochError("an old epoch")
        limit = int(topic.config.get("max.message.bytes", BATCH_BYTES_MAX))
        return partition.append(bytes(entry.records), limit)

    def _hint(
        self, entry: ProducePartitionFrame, result: broker_pb2.ProducePartitionResult
    ) -> None:
        try:
            partition = self.cluster.by_id(entry.topic_id).partitions[entry.partition]
        except UnknownTopicIdError:
            return
        result.leader_id = partition.leader_id
        result.leader_epoch = partition.leader_epoch

    async def _init_producer_id(
        self, request: broker_pb2.InitProducerIdRequest, _: Any
    ) -> broker_pb2.InitProducerIdResponse:
        granted = self.cluster.grant(request.producer_id, request.producer_epoch)
        return broker_pb2.InitProducerIdResponse(producer_id=granted[0], producer_epoch=granted[1])


class _StreamBrokenError(Exception):
    """Raised inside a stream to end it without an answer."""

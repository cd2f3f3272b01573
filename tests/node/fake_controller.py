"""A controller in memory: the real contract over real gRPC, decisions as the test wants them.

With several nodes it keeps the first rules of the real one: a node that registers or is fenced
leaves every ISR that has another member, and the first live member of the ISR leads.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from odradek.protocol.errors import (
    BrokerError,
    InvalidTopicError,
    InvalidUpdateVersionError,
    StaleBrokerEpochError,
    error_to_proto,
)
from odradek.protocol.names import check_topic_name
from odradek.rpc.server import Server
from odradek.v1 import admin_pb2, controller_pb2_grpc, metadata_pb2
from odradek.v1 import controller_pb2 as pb

CLUSTER_ID = "test-cluster"
NOBODY = -1


class FakeController(controller_pb2_grpc.ControllerServiceServicer):
    """Always active, keeps what it was told."""

    def __init__(self) -> None:
        self.address = ""
        self.version = 1
        self.epoch = 1
        self.incarnation = 0
        self.session_timeout_ms = 6000
        self.heartbeat_interval_ms = 100
        self.nodes: dict[int, metadata_pb2.NodeMetadata] = {}
        self.topics: dict[bytes, metadata_pb2.TopicMetadata] = {}
        self.registrations: list[pb.RegisterNodeRequest] = []
        self.heartbeats: list[pb.ControllerServiceHeartbeatRequest] = []
        self.submitted: list[pb.SubmitRequest] = []
        self.watched = 0
        """So many times a metadata stream has begun."""
        self.refusal: BrokerError | None = None
        """Raised by RegisterNode."""
        self.answers_heartbeats = True
        self.submit_refusal: BrokerError | None = None
        """Raised by Submit."""
        self.isr_refusal: BrokerError | None = None
        """The answer to every proposed ISR."""
        self.lose_answers = 0
        """So many answers to Submit are lost after the change was made."""
        self._answered: dict[tuple[int, int], pb.SubmitResponse] = {}
        self._watchers: set[asyncio.Queue[pb.WatchClusterResponse]] = set()
        self._changed = asyncio.Condition()
        self._uid = 0
        self._next_producer_id = 1000

    # What tests do

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something has happened here."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)

    def add_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        leader_id: int = 1,
        replicas: Sequence[int] = (1,),
        isr: Sequence[int] | None = None,
        config: dict[str, str] | None = None,
    ) -> metadata_pb2.TopicMetadata:
        """Create a topic and tell the nodes."""
        topic = metadata_pb2.TopicMetadata(
            name=name,
            topic_id=uuid.uuid4().bytes,
            internal=name.startswith("__"),
            config=config or {},
        )
        for index in range(partitions):
            self._uid += 1
            topic.partitions.add(
                partition=index,
                uid=self._uid,
                leader_id=leader_id,
                replicas=replicas,
                isr=replicas if isr is None else isr,
            )
        self.topics[topic.topic_id] = topic
        self.publish(metadata_pb2.MetadataUpdate(topics=[topic]))
        return topic

    def remove_topic(self, topic: metadata_pb2.TopicMetadata) -> None:
        """Delete a topic and tell the node."""
        del self.topics[topic.topic_id]
        self.publish(metadata_pb2.MetadataUpdate(removed_topic_ids=[topic.topic_id]))

    def elect(self, topic: metadata_pb2.TopicMetadata, index: int, leader_id: int) -> None:
        """Begin a new leader epoch of a partition."""
        partition = topic.partitions[index]
        partition.leader_id = leader_id
        partition.leader_epoch += 1
        self.changed(topic, index)

    def changed(self, topic: metadata_pb2.TopicMetadata, index: int) -> None:
        """Tell the nodes of a partition that the test has changed."""
        partition = topic.partitions[index]
        partition.partition_epoch += 1
        change = metadata_pb2.PartitionUpdate(topic_id=topic.topic_id, partition=partition)
        self.publish(metadata_pb2.MetadataUpdate(partitions=[change]))

    def fence(self, node_id: int) -> None:
        """Hold a node for dead."""
        self._set_fenced(self.nodes[node_id], fenced=True)

    def publish(self, update: metadata_pb2.MetadataUpdate) -> int:
        """Step to the next version; return it."""
        self.version += 1
        update.version = self.version
        for watcher in self._watchers:
            watcher.put_nowait(
                pb.WatchClusterResponse(controller_epoch=self.epoch, metadata=update)
            )
        return self.version

    # The contract

    async def RegisterNode(  # noqa: N802
        self, request: pb.RegisterNodeRequest, context: Any
    ) -> Any:
        if self.refusal is not None:
            raise self.refusal
        known = self.nodes.get(request.node_id)
        in_force = 0 if known is None else known.incarnation
        if request.previous_incarnation != in_force:
            raise StaleBrokerEpochError(limit=in_force)
        self.registrations.append(request)
        self.incarnation += 1
        node = metadata_pb2.NodeMetadata(
            node_id=request.node_id,
            host=request.host,
            port=request.port,
            fenced=True,
            incarnation=self.incarnation,
        )
        self.nodes[request.node_id] = node
        version = self.publish(metadata_pb2.MetadataUpdate(nodes=[node]))
        self._depose(request.node_id)
        await self._happened()
        return pb.RegisterNodeResponse(
            cluster_id=CLUSTER_ID,
            incarnation=node.incarnation,
            controller_epoch=self.epoch,
            version=version,
            heartbeat_interval_ms=self.heartbeat_interval_ms,
            session_timeout_ms=self.session_timeout_ms,
        )

    async def Heartbeat(  # type: ignore[override]  # noqa: N802
        self, request_iterator: Any, context: Any
    ) -> None:
        unanswered = 0
        while (request := await context.read()) is not grpc.aio.EOF:
            self.heartbeats.append(request)
            self._judge(request)
            await self._happened()
            unanswered += 1
            while (
                self.answers_heartbeats and unanswered
            ):  # late, but one each, as a controller does
                unanswered -= 1
                await context.write(self._standing(request))

    def _judge(self, request: pb.ControllerServiceHeartbeatRequest) -> None:
        node = self.nodes.get(request.node_id)
        if node is None or node.incarnation != request.incarnation:
            return
        if request.wants_shutdown and not node.fenced:
            self._set_fenced(node, fenced=True)
        elif node.fenced and not request.wants_shutdown and request.version >= 1:
            self._set_fenced(node, fenced=False)

    def _set_fenced(self, node: metadata_pb2.NodeMetadata, *, fenced: bool) -> None:
        node.fenced = fenced
        self.publish(metadata_pb2.MetadataUpdate(nodes=[node]))
        if fenced:
            self._depose(node.node_id)
            return
        for topic in self.topics.values():
            for partition in topic.partitions:
                if partition.leader_id == NOBODY and node.node_id in partition.isr:
                    self.elect(topic, partition.partition, node.node_id)

    def _depose(self, node_id: int) -> None:
        for topic in self.topics.values():
            for partition in topic.partitions:
                leads = partition.leader_id in {NOBODY, node_id}
                others = [member for member in partition.isr if member != node_id]
                if others and node_id in partition.isr:
                    partition.isr[:] = others
                    if not leads:
                        self.changed(topic, partition.partition)
                if leads:
                    alive = [each for each in partition.isr if not self._is_dead(each)]
                    self.elect(topic, partition.partition, alive[0] if alive else NOBODY)

    def _is_dead(self, node_id: int) -> bool:
        return node_id not in self.nodes or self.nodes[node_id].fenced

    def _standing(
        self, request: pb.ControllerServiceHeartbeatRequest
    ) -> pb.ControllerServiceHeartbeatResponse:
        node = self.nodes.get(request.node_id)
        known = node is not None and node.incarnation == request.incarnation
        return pb.ControllerServiceHeartbeatResponse(
            controller_id=1,
            active=True,
            active_id=1,
            controller_epoch=self.epoch,
            must_register=not known,
            fenced=node is not None and node.fenced,
            may_shut_down=node is not None and node.fenced and request.wants_shutdown,
        )

    async def WatchCluster(  # noqa: N802
        self, request: pb.WatchClusterRequest, context: Any
    ) -> AsyncIterator[pb.WatchClusterResponse]:
        queue: asyncio.Queue[pb.WatchClusterResponse] = asyncio.Queue()
        snapshot = metadata_pb2.MetadataUpdate(
            version=self.version,
            snapshot=True,
            next_partition_uid=self._uid + 1,
            nodes=self.nodes.values(),
            topics=self.topics.values(),
        )
        queue.put_nowait(pb.WatchClusterResponse(controller_epoch=self.epoch, metadata=snapshot))
        self._watchers.add(queue)
        self.watched += 1
        await self._happened()
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    async def Submit(  # noqa: N802
        self, request: pb.SubmitRequest, context: Any
    ) -> pb.SubmitResponse:
        self.submitted.append(request)
        if self.submit_refusal is not None:
            raise self.submit_refusal
        key = request.node_id, request.sequence
        response = self._answered.get(key)
        if response is None:
            response = self._answered[key] = self._decide(request)
        await self._happened()
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer was lost")
        return response

    def _decide(self, request: pb.SubmitRequest) -> pb.SubmitResponse:
        response = pb.SubmitResponse()
        match request.WhichOneof("command"):
            case "create_topics":
                for wanted in request.create_topics.topics:
                    response.create_topics.topics.append(self._create(wanted))
            case "create_internal_topic":
                if not any(
                    topic.name == request.create_internal_topic.name
                    for topic in self.topics.values()
                ):
                    self.add_topic(request.create_internal_topic.name)
                response.create_topics.SetInParent()
            case "allocate_producer_ids":
                response.allocate_producer_ids.first_producer_id = self._next_producer_id
                response.allocate_producer_ids.count = 10
                self._next_producer_id += 10
            case "alter_partitions":
                for wanted_isr in request.alter_partitions.partitions:
                    result = self._alter(request.node_id, wanted_isr)
                    response.alter_partitions.partitions.append(result)
            case other:
                raise AssertionError(f"the fake controller knows no {other}")
        response.version = self.version
        return response

    def _alter(self, node_id: int, wanted: pb.AlterPartition) -> pb.AlterPartitionResult:
        topic = self.topics[wanted.topic_id]
        partition = topic.partitions[wanted.partition]
        epochs = wanted.leader_epoch, wanted.partition_epoch
        refusal = self.isr_refusal
        if refusal is None and (
            epochs != (partition.leader_epoch, partition.partition_epoch)
            or node_id != partition.leader_id
        ):
            refusal = InvalidUpdateVersionError(value=epochs)
        if refusal is not None:
            return pb.AlterPartitionResult(error=error_to_proto(refusal), partition=partition)
        for member in wanted.isr:
            assert self.nodes[member.node_id].incarnation == member.incarnation
        partition.isr[:] = [member.node_id for member in wanted.isr]
        self.changed(topic, wanted.partition)
        return pb.AlterPartitionResult(partition=partition)

    def _create(self, wanted: admin_pb2.NewTopic) -> admin_pb2.TopicResult:
        try:
            topic = self.add_topic(
                check_topic_name(wanted.name),
                partitions=wanted.partitions,
                config=dict(wanted.config),
            )
        except InvalidTopicError as error:
            return admin_pb2.TopicResult(name=wanted.name, error=error_to_proto(error))
        return admin_pb2.TopicResult(name=wanted.name, topic_id=topic.topic_id)

    async def _happened(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def fake_controller() -> AsyncIterator[FakeController]:
    """Serve a fake controller on a port of the system's choice."""
    controller = FakeController()
    server = Server("127.0.0.1:0")
    controller_pb2_grpc.add_ControllerServiceServicer_to_server(controller, server.grpc)
    controller.address = f"127.0.0.1:{await server.start()}"
    try:
        yield controller
    finally:
        await server.drain(0)

"""A controller that serves over real gRPC, on a log without replicas, and nodes that talk to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import grpc
import pytest

from odradek.controller.active import ActiveController
from odradek.controller.api import ControllerApi, HeartbeatRequest, HeartbeatResponse
from odradek.controller.committed import ClusterMachine, Committed
from odradek.controller.feed import Feed
from odradek.controller.liveness import Liveness
from odradek.controller.state.heartbeats import HeartbeatPolicy
from odradek.protocol.errors import (
    OdradekError,
)
from odradek.protocol.types import ControllerId
from odradek.rpc.channels import error_from_rpc, open_channel
from odradek.rpc.server import Server
from odradek.v1 import admin_pb2, controller_pb2, controller_pb2_grpc
from tests.controller.memory_log import MemoryLog, eventually

Update = controller_pb2.WatchClusterResponse


@dataclass
class Watch:
    """A stream of updates."""

    call: "grpc.aio.UnaryStreamCall[controller_pb2.WatchClusterRequest, Update]"

    async def read(self) -> Update:
        update = await asyncio.wait_for(self.call.read(), 5)
        assert isinstance(update, Update), "ends only with an error"
        return update


@dataclass
class Node:
    """A node as the controller sees it, on a connection of its own."""

    node_id: int
    port: int
    directory: bytes = b"d" * 16
    incarnation: int = 0
    registered_version: int = 0
    heartbeats: "grpc.aio.StreamStreamCall[HeartbeatRequest, HeartbeatResponse] | None" = None
    sequence: int = 0
    channel: grpc.aio.Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = open_channel(f"127.0.0.1:{self.port}")
        self.stub = controller_pb2_grpc.ControllerServiceStub(self.channel)

    async def register(self, process: bytes = b"p") -> controller_pb2.RegisterNodeResponse:
        response = await self.stub.RegisterNode(
            controller_pb2.RegisterNodeRequest(
                node_id=self.node_id,
                directory_id=bytes([self.node_id]) * 16,
                process_id=process * 16,
                host="h",
                port=1,
                previous_incarnation=self.incarnation,
            )
        )
        self.incarnation, self.registered_version = response.incarnation, response.version
        return response

    async def beat(self, version: int = 0, *, wants_shutdown: bool = False) -> HeartbeatResponse:
        if self.heartbeats is None:
            self.heartbeats = self.stub.Heartbeat()
        await self.heartbeats.write(
            HeartbeatRequest(
                node_id=self.node_id,
                incarnation=self.incarnation,
                version=version,
                wants_shutdown=wants_shutdown,
            )
        )
        return await self.told()

    async def told(self) -> HeartbeatResponse:
        assert self.heartbeats is not None
        response = await asyncio.wait_for(self.heartbeats.read(), 5)
        assert isinstance(response, HeartbeatResponse)
        return response

    async def start(self, process: bytes = b"p") -> None:
        """Register and heartbeat until unfenced."""
        await self.register(process)
        response = await self.beat(self.registered_version)
        while response.fenced or response.must_register:
            response = await self.told()

    def watch(self) -> "Watch":
        return Watch(
            self.stub.WatchCluster(
                controller_pb2.WatchClusterRequest(
                    node_id=self.node_id, incarnation=self.incarnation
                )
            )
        )

    async def submit(self, request: controller_pb2.SubmitRequest) -> controller_pb2.SubmitResponse:
        self.sequence += 1
        request.node_id, request.incarnation = self.node_id, self.incarnation
        request.sequence = request.sequence or self.sequence
        return await self.stub.Submit(request)

    async def create(
        self, name: str, partitions: int = 1, *, replication: int = 1
    ) -> controller_pb2.SubmitResponse:
        topic = admin_pb2.NewTopic(
            name=name,
            partitions=partitions,
            partitions_set=True,
            replication_factor=replication,
        )
        create = admin_pb2.CreateTopicsRequest(topics=[topic])
        return await self.submit(controller_pb2.SubmitRequest(create_topics=create))


@dataclass
class World:
    log: MemoryLog
    committed: Committed
    active: ActiveController
    feed: Feed
    liveness: Liveness
    port: int
    nodes: list[Node] = field(default_factory=list)

    def node(self, node_id: int = 1) -> Node:
        self.nodes.append(Node(node_id, self.port))
        return self.nodes[-1]

    async def lead(self) -> int:
        term = self.log.lead()
        await eventually(lambda: self.active.epoch == term)
        return term


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    machine = ClusterMachine()
    committed = Committed(machine)
    log = MemoryLog(machine)
    active = ActiveController(
        log, committed, controller_id=ControllerId(1), cluster_id="c", chance=Random(1)
    )
    liveness = Liveness(active, committed, HeartbeatPolicy(session_timeout_s=6.0, grace_s=0.2))
    feed = Feed(active, committed)
    api = ControllerApi(
        controller_id=ControllerId(1),
        active=active,
        committed=committed,
        feed=feed,
        liveness=liveness,
        heartbeat_interval_s=1.0,
    )
    server = Server("127.0.0.1:0")
    controller_pb2_grpc.add_ControllerServiceServicer_to_server(api, server.grpc)
    port = await server.start()
    tasks = [asyncio.create_task(active.run()), asyncio.create_task(liveness.run())]
    w = World(log, committed, active, feed, liveness, port)
    try:
        yield w
    finally:
        for node in w.nodes:
            await node.channel.close()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await server.drain(1.0)


@asynccontextmanager
async def raises(expected: type[OdradekError]) -> AsyncIterator[list[OdradekError]]:
    """Expect a call to fail with an error that crossed the wire as itself."""
    caught: list[OdradekError] = []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        yield caught
    caught.append(error_from_rpc(failure.value))
    assert isinstance(caught[0], expected), caught[0]

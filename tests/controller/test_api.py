"""The service over real gRPC, on a log without replicas."""

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
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    NotControllerError,
    OdradekError,
    StaleBrokerEpochError,
    error_from_proto,
)
from odradek.protocol.types import ControllerId, NodeId
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


async def test_a_passive_controller_answers_heartbeats_and_nothing_else() -> None:
    async with world() as w:
        w.log.follow(leader_id=2)
        await eventually(lambda: w.active.active_id == 2)
        node = w.node()
        async with raises(NotControllerError) as caught:
            await node.register()
        assert isinstance(caught[0], NotControllerError)
        assert caught[0].limit == "2"
        async with raises(NotControllerError):
            await node.create("t")
        async with raises(NotControllerError):
            await node.watch().read()
        response = await node.beat()
        assert (response.active, response.active_id, response.must_register) == (False, 2, False)
        term = await w.lead()
        response = await node.told()
        assert (response.active, response.controller_epoch) == (True, term)
        assert response.must_register


async def test_a_node_is_unfenced_when_it_has_caught_up_and_told_so() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        registered = await node.register()
        assert registered.cluster_id == "c"
        assert registered.controller_epoch == 1
        assert (registered.heartbeat_interval_ms, registered.session_timeout_ms) == (1000, 6000)
        watch = node.watch()
        first = await watch.read()
        assert first.metadata.snapshot
        assert first.metadata.version >= registered.version
        assert first.metadata.nodes[0].fenced
        assert (await node.beat(registered.version - 1)).fenced
        assert (await node.beat(registered.version)).fenced
        assert not (await node.told()).fenced
        second = await watch.read()
        assert not second.metadata.nodes[0].fenced


async def test_requests_of_a_node() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        created = await node.create("t", 6)
        assert created.version == created.create_topics.version == w.committed.image.version
        (topic,) = created.create_topics.topics
        assert (topic.name, topic.partitions) == ("t", 6)
        refused = await node.create("t")
        assert refused.create_topics.topics[0].error.code
        none = await node.submit(controller_pb2.SubmitRequest())
        assert isinstance(error_from_proto(none.error), InvalidRequestError)
        repeated = controller_pb2.SubmitRequest(
            sequence=77, allocate_producer_ids=controller_pb2.AllocateProducerIdsCommand()
        )
        answers = [await node.submit(repeated) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        node.incarnation += 1
        stale = await node.create("u")
        assert isinstance(error_from_proto(stale.error), StaleBrokerEpochError)


async def test_a_broken_connection_fences_within_the_grace() -> None:
    async with world() as w:
        await w.lead()
        dying, watching = w.node(1), w.node(2)
        await dying.start()
        await dying.create("t", 1)
        await watching.start()
        watch = watching.watch()
        assert (await watch.read()).metadata.topics[0].partitions[0].leader_id == 1
        began_s = asyncio.get_running_loop().time()
        await dying.channel.close()
        update = await watch.read()
        assert asyncio.get_running_loop().time() - began_s < 1.0
        assert update.metadata.nodes[0].fenced
        assert update.metadata.partitions[0].partition.leader_id == -1
        again = w.node(1)
        await again.start(b"q")
        leader = -1
        while leader != 1:
            update = await watch.read()
            leader = max(
                (each.partition.leader_id for each in update.metadata.partitions), default=-1
            )


async def test_a_node_that_wishes_to_stop_sees_others_lead_and_is_let_go() -> None:
    async with world() as w:
        await w.lead()
        node, other = w.node(1), w.node(2)
        await node.start()
        await other.start()
        await node.create("t", 4, replication=2)
        assert not (await node.beat(w.committed.image.version, wants_shutdown=True)).may_shut_down
        await eventually(lambda: w.committed.image.nodes[NodeId(1)].stopping)
        partitions = w.committed.image.partitions
        assert {each.leader for each in partitions.values()} == {2}
        assert not w.committed.image.nodes[NodeId(1)].fenced
        response = await node.beat(w.committed.image.version, wants_shutdown=True)
        while not response.may_shut_down:
            response = await node.told()
        assert response.fenced


async def test_a_full_disk_is_known_to_all() -> None:
    async with world() as w:
        await w.lead()
        node = w.node(1)
        await node.start()
        watch = node.watch()
        assert not (await watch.read()).metadata.nodes[0].storage_full
        assert node.heartbeats is not None
        await node.heartbeats.write(
            HeartbeatRequest(node_id=1, incarnation=node.incarnation, storage_full=True)
        )
        assert (await watch.read()).metadata.nodes[0].storage_full


async def test_replicas_are_moved_and_nodes_emptied_and_forgotten() -> None:
    async with world() as w:
        await w.lead()
        node, other = w.node(1), w.node(2)
        await node.start()
        await node.create("t", 2)
        await other.start()
        grow = admin_pb2.TopicReplication(topic=admin_pb2.TopicRef(name="t"), replication_factor=2)
        answer = await node.submit(
            controller_pb2.SubmitRequest(
                alter_replication=admin_pb2.AlterReplicationRequest(topics=[grow])
            )
        )
        assert answer.alter_replication.version == w.committed.image.version
        assert answer.alter_replication.topics[0].replication_factor == 2
        cancel = admin_pb2.PartitionReassignment(
            topic=admin_pb2.TopicRef(name="t"), partition=1, cancel=True
        )
        impossible = admin_pb2.PartitionReassignment(
            topic=admin_pb2.TopicRef(name="t"), partition=0, replicas=[7]
        )
        answer = await node.submit(
            controller_pb2.SubmitRequest(
                alter_partition_reassignments=admin_pb2.AlterPartitionReassignmentsRequest(
                    partitions=[cancel, impossible]
                )
            )
        )
        done, refused = answer.alter_partition_reassignments.partitions
        assert not done.HasField("error")
        assert isinstance(error_from_proto(refused.error), InvalidReplicaAssignmentError)
        drain = controller_pb2.SubmitRequest(drain_node=admin_pb2.DrainNodeRequest(node_id=2))
        answer = await node.submit(drain)
        assert isinstance(error_from_proto(answer.error), InvalidReplicationFactorError)
        cancel.partition = 0
        await node.submit(
            controller_pb2.SubmitRequest(
                alter_partition_reassignments=admin_pb2.AlterPartitionReassignmentsRequest(
                    partitions=[cancel]
                )
            )
        )
        drain.sequence = 0
        answer = await node.submit(drain)
        assert (answer.drain_node.replica_count, answer.drain_node.version) == (0, answer.version)
        remove = controller_pb2.SubmitRequest(remove_node=admin_pb2.RemoveNodeRequest(node_id=2))
        answer = await node.submit(remove)
        assert "stop it first" in answer.error.message
        await other.channel.close()
        await eventually(lambda: w.committed.image.nodes[NodeId(2)].fenced)
        remove.sequence = 0
        answer = await node.submit(remove)
        assert answer.WhichOneof("result") == "remove_node"
        assert list(w.committed.image.nodes) == [1]


async def test_metadata_says_which_partitions_there_can_be() -> None:
    async with world() as w:
        await w.lead()
        node = w.node(1)
        await node.start()
        watch = node.watch()
        assert (await watch.read()).metadata.next_partition_uid == 1
        await node.create("t", 5)
        assert (await watch.read()).metadata.next_partition_uid == 6


async def test_a_superseded_process_is_told_and_its_watch_ends() -> None:
    async with world() as w:
        await w.lead()
        old, new = w.node(1), w.node(1)
        await old.start()
        watch = old.watch()
        await watch.read()
        await new.register(b"q")
        assert (await old.told()).must_register
        async with raises(StaleBrokerEpochError):
            while True:
                await watch.read()
        async with raises(StaleBrokerEpochError):
            await old.watch().read()


async def test_a_watch_ends_when_another_controller_takes_over() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        watch = node.watch()
        await watch.read()
        w.log.follow(leader_id=2)
        async with raises(NotControllerError):
            while True:
                await watch.read()
        response = await node.told()
        while response.active:
            response = await node.told()
        assert response.active_id == 2


async def test_a_step_that_concerns_nobody_still_moves_the_version() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        watch = node.watch()
        await watch.read()
        answer = await node.submit(
            controller_pb2.SubmitRequest(
                allocate_producer_ids=controller_pb2.AllocateProducerIdsCommand()
            )
        )
        version = 0
        while version < answer.version:
            version = (await watch.read()).metadata.version


async def test_a_heartbeat_stream_belongs_to_one_node() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.beat()
        node.node_id = 2
        async with raises(InvalidRequestError):
            await node.beat()


async def test_streams_that_come_and_go_leave_nothing_behind() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        for _ in range(20):
            watch = node.watch()
            await watch.read()
            watch.call.cancel()
        other = w.node(9)
        await other.beat()
        await other.channel.close()
        await eventually(lambda: not w.feed._watchers)
        await eventually(lambda: w.liveness._heartbeats._pulses.keys() == {1})

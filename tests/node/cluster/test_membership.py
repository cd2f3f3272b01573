"""How a node enters its cluster, stays, is replaced, and leaves."""

import asyncio
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from odradek.node.cluster.membership import MembershipRefusedError
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    NotControllerError,
)
from odradek.v1 import admin_pb2, metadata_pb2
from tests.node.fake_controller import CLUSTER_ID, FakeController, fake_controller
from tests.node.running import ProduceClient, RunningNode, batch, running_node


async def test_a_node_registers_with_what_it_is(tmp_path: Path, controller: FakeController) -> None:
    async with running_node(tmp_path, controller, rack="r1") as node:
        (registration,) = controller.registrations
        assert (registration.node_id, registration.rack) == (1, "r1")
        assert f"{registration.host}:{registration.port}" == node.address
        assert registration.cluster_id == ""
        assert len(registration.directory_id) == len(registration.process_id) == 16
        assert not registration.lost_data
    async with running_node(tmp_path, controller):
        again = controller.registrations[-1]
        assert again.cluster_id == CLUSTER_ID
        assert again.directory_id == registration.directory_id
        assert again.process_id != registration.process_id


async def test_a_new_process_takes_the_place_of_the_registration_in_force(
    tmp_path: Path, controller: FakeController
) -> None:
    controller.incarnation = 7
    for previous in (0, 8, 9):
        async with running_node(tmp_path, controller):
            assert controller.registrations[-1].previous_incarnation == previous


async def test_health_follows_fencing(node: RunningNode) -> None:
    health = health_pb2_grpc.HealthStub(node.channel)
    async with asyncio.timeout(5):
        watch = health.Watch(health_pb2.HealthCheckRequest())
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        node.stop.set()
        async for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        watch.cancel()


@pytest.mark.parametrize("kind", [DuplicateNodeRegistrationError, InconsistentClusterIdError])
async def test_a_refused_node_says_why_and_ends(
    tmp_path: Path,
    controller: FakeController,
    kind: type[DuplicateNodeRegistrationError | InconsistentClusterIdError],
) -> None:
    controller.refusal = kind("because of this")
    with pytest.raises(MembershipRefusedError, match="because of this"):
        async with running_node(tmp_path, controller):
            pass


async def test_a_directory_of_another_cluster_is_refused_by_the_node_itself(
    tmp_path: Path, controller: FakeController
) -> None:
    identity = tmp_path / "identity.json"
    async with running_node(tmp_path, controller):
        pass
    identity.write_text(identity.read_text().replace(CLUSTER_ID, "another-cluster"))
    with pytest.raises(InconsistentClusterIdError, match="another-cluster"):
        async with running_node(tmp_path, controller):
            pass


async def test_a_directory_of_another_node_is_refused(
    tmp_path: Path, controller: FakeController
) -> None:
    async with running_node(tmp_path, controller):
        pass
    with pytest.raises(DuplicateNodeRegistrationError, match="node 1"):
        async with running_node(tmp_path, controller, id=2):
            pass


async def test_a_controller_that_is_not_active_yet_is_asked_again(
    tmp_path: Path, controller: FakeController
) -> None:
    controller.refusal = NotControllerError()

    async def elect() -> None:
        await controller.until(lambda: controller.heartbeats)
        controller.refusal = None

    electing = asyncio.create_task(elect())
    async with running_node(tmp_path, controller):
        await electing
        assert controller.registrations


async def test_a_superseded_node_registers_again_and_leads_under_a_new_epoch(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    assert (await producer.produce(topic, batch())).base_offset == 0
    del controller.nodes[1]
    await controller.until(lambda: len(controller.registrations) == 2)
    async with asyncio.timeout(10):
        while (result := await producer.produce(topic, batch(), leader_epoch=2)).error.code:
            pass
    assert result.base_offset == 1


async def test_a_node_follows_the_controller_of_the_highest_epoch(
    tmp_path: Path, controller: FakeController
) -> None:
    async with fake_controller() as successor:
        successor.epoch, successor.incarnation, successor.version = 2, 100, 1000
        both = (controller.address, successor.address)
        async with running_node(tmp_path, controller, controllers=both) as node:
            await successor.until(lambda: successor.registrations)
            await node.knows(successor)
            cluster = await node.admin.DescribeCluster(admin_pb2.DescribeClusterRequest())
            active = [each.address for each in cluster.controllers if each.active]
            assert active == [successor.address]
            assert [each.reachable for each in cluster.controllers] == [True, True]
            ghost = controller.add_topic("ghost")
            successor.add_topic("t")
            await node.knows(successor)
            request = metadata_pb2.GetMetadataRequest(all_topics=True)
            topics = (await node.metadata.GetMetadata(request)).topics
            assert [topic.name for topic in topics] == ["t"], ghost


async def topic_names(node: RunningNode) -> list[str]:
    request = metadata_pb2.GetMetadataRequest(all_topics=True)
    return sorted(topic.name for topic in (await node.metadata.GetMetadata(request)).topics)


async def test_metadata_of_a_deposed_controller_is_refused(
    tmp_path: Path, controller: FakeController
) -> None:
    controller.epoch = 2
    async with running_node(tmp_path, controller) as node:
        await node.knows(controller)
        watched = controller.watched
        controller.epoch = 1
        ghost = metadata_pb2.TopicMetadata(name="ghost", topic_id=bytes(range(16)))
        controller.publish(metadata_pb2.MetadataUpdate(topics=[ghost]))
        controller.epoch = 2
        controller.version -= 1  # the active one knows nothing of it
        await controller.until(lambda: controller.watched > watched)
        assert await topic_names(node) == []
        controller.add_topic("t")
        await node.knows(controller)
        assert await topic_names(node) == ["t"]


async def test_metadata_never_goes_back_while_a_controller_catches_up(
    node: RunningNode, controller: FakeController
) -> None:
    controller.add_topic("t")
    await node.knows(controller)
    topics, version, watched = controller.topics, controller.version, controller.watched
    controller.topics, controller.version = {}, 1
    controller.publish(metadata_pb2.MetadataUpdate(snapshot=True))
    # The stream ends, and so does the next one, which begins as far behind.
    await controller.until(lambda: controller.watched >= watched + 2)
    assert await topic_names(node) == ["t"]
    controller.topics, controller.version = topics, version
    controller.add_topic("u")
    await node.knows(controller)
    assert await topic_names(node) == ["t", "u"]


async def test_a_stopping_node_asks_for_its_leaderships_to_be_moved(
    tmp_path: Path, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    async with running_node(tmp_path, controller) as node:
        assert (await ProduceClient(node.channel).produce(topic, batch())).base_offset == 0
    assert controller.heartbeats[-1].wants_shutdown
    assert topic.partitions[0].leader_id == -1


async def test_metadata_of_before_a_registration_is_not_lost(
    tmp_path: Path, controller: FakeController
) -> None:
    for number in range(20):
        controller.add_topic(f"t{number}")
    async with running_node(tmp_path, controller) as node:
        await node.knows(controller)
        request = metadata_pb2.GetMetadataRequest(all_topics=True)
        assert len((await node.metadata.GetMetadata(request)).topics) == 20


async def test_a_stream_that_ends_under_a_heartbeat_is_dialled_again(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = asyncio.Event()

    async def write(*_: object) -> None:
        broken.set()
        raise asyncio.InvalidStateError("RPC already finished.")

    with monkeypatch.context() as breaking:
        breaking.setattr("odradek.rpc.http2.calls.Call.write", write)
        async with asyncio.timeout(5):
            await broken.wait()
    heard = len(controller.heartbeats)
    await controller.until(lambda: len(controller.heartbeats) > heard)
    assert not node.task.done()


async def test_metadata_waits_while_the_store_is_reopened(
    node: RunningNode, controller: FakeController
) -> None:
    store = node.storage._store
    store._db, db = None, store._db
    node.storage.is_reopening = True
    topic = controller.add_topic("t")
    watched = controller.watched
    await controller.until(lambda: controller.watched > watched)
    store._db = db
    node.storage.is_reopening = False
    await node.knows(controller)
    assert (await ProduceClient(node.channel).produce(topic, batch())).base_offset == 0

"""What clients learn of the cluster."""

import asyncio
from typing import Any

import grpc
import pytest

from odradek.node.api.metadata import MetadataServicer
from odradek.node.cluster.controllers import Controllers
from odradek.node.cluster.image import ImageUpdate
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import RequestTimedOutError
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import error_pb2, metadata_pb2
from tests.node.fake_controller import CLUSTER_ID, FakeController
from tests.node.running import RunningNode


async def test_topics_by_name_by_id_and_all(node: RunningNode, controller: FakeController) -> None:
    one = controller.add_topic("one", partitions=2)
    two = controller.add_topic("two", config={"flush": "os"})
    internal = controller.add_topic("__consumer_offsets")
    await node.knows(controller)

    async def names(**fields: Any) -> list[str]:
        request = metadata_pb2.GetMetadataRequest(**fields)
        return [topic.name for topic in (await node.metadata.GetMetadata(request)).topics]

    assert await names() == []
    assert await names(topics=["two"], topic_ids=[one.topic_id]) == ["two", "one"]
    assert sorted(await names(all_topics=True)) == ["one", "two"]
    everything = await names(all_topics=True, include_internal=True)
    assert sorted(everything) == ["__consumer_offsets", "one", "two"]
    assert await names(topics=[internal.name]) == ["__consumer_offsets"]
    request = metadata_pb2.GetMetadataRequest(topics=["two"])
    response = await node.metadata.GetMetadata(request)
    assert response.topics[0] == two
    assert (response.cluster_id, response.controller_id) == (CLUSTER_ID, 1)
    assert [each.node_id for each in response.nodes] == [1]
    assert not response.nodes[0].fenced


async def test_unknown_and_illegal_topics_carry_their_own_errors(
    node: RunningNode, controller: FakeController
) -> None:
    controller.add_topic("positions")
    await node.knows(controller)
    request = metadata_pb2.GetMetadataRequest(
        topics=["position", "no/slash", "positions"], topic_ids=[b"x" * 16]
    )
    unknown, illegal, known, by_id = (await node.metadata.GetMetadata(request)).topics
    assert unknown.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION
    assert list(unknown.error.suggestions) == ["positions"]
    assert illegal.error.code == error_pb2.ERROR_CODE_INVALID_TOPIC
    assert not known.error.code
    assert by_id.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_ID
    assert by_id.topic_id == b"x" * 16


async def test_near_names_are_looked_for_a_few_times_a_request(
    node: RunningNode, controller: FakeController
) -> None:
    controller.add_topic("positions")
    await node.knows(controller)
    request = metadata_pb2.GetMetadataRequest(topics=["position"] * 100)
    for _ in range(2):
        errors = [each.error for each in (await node.metadata.GetMetadata(request)).topics]
        assert {each.code for each in errors} == {error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION}
        assert [len(each.suggestions) for each in errors] == [1] * 4 + [0] * 96


async def test_a_version_is_waited_for_within_the_deadline(
    node: RunningNode, controller: FakeController
) -> None:
    ahead = metadata_pb2.GetMetadataRequest(min_version=controller.version + 1, topics=["t"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.metadata.GetMetadata(ahead, timeout=0.3)
    error = error_from_rpc(caught.value)
    assert isinstance(error, RequestTimedOutError)
    waiting = asyncio.ensure_future(node.metadata.GetMetadata(ahead, timeout=5))
    await asyncio.sleep(0)
    controller.add_topic("t")
    assert not (await waiting).topics[0].error.code


async def test_watching_brings_the_image_then_changes_of_interest(
    node: RunningNode, controller: FakeController
) -> None:
    controller.add_topic("before")
    await node.knows(controller)
    everything = node.metadata.WatchMetadata(metadata_pb2.WatchMetadataRequest())
    some = node.metadata.WatchMetadata(metadata_pb2.WatchMetadataRequest(topics=["wanted"]))
    first, nothing_yet = await everything.read(), await some.read()
    assert first.update.snapshot
    assert [topic.name for topic in first.update.topics] == ["before"]
    assert nothing_yet.update.snapshot
    assert not nothing_yet.update.topics
    controller.add_topic("__internal")
    other = controller.add_topic("other")
    wanted = controller.add_topic("wanted")
    controller.elect(other, 0, -1)
    controller.elect(wanted, 0, -1)
    controller.remove_topic(other)
    controller.remove_topic(wanted)
    seen = [(await some.read()).update for _ in range(3)]
    assert [topic.name for topic in seen[0].topics] == ["wanted"]
    assert [each.partition.leader_id for each in seen[1].partitions] == [-1]
    assert list(seen[2].removed_topic_ids) == [wanted.topic_id]
    names = [[topic.name for topic in (await everything.read()).update.topics] for _ in range(2)]
    assert names == [["other"], ["wanted"]]
    everything.cancel()
    some.cancel()


class _Call:
    def time_remaining(self) -> float:
        return 0.05


async def test_before_its_first_image_a_node_does_not_speak_of_an_empty_cluster() -> None:
    view = ClusterView()
    controllers = Controllers(["127.0.0.1:1"])
    servicer = MetadataServicer(view, controllers)
    everything = metadata_pb2.GetMetadataRequest(all_topics=True)
    with pytest.raises(RequestTimedOutError):
        await servicer.GetMetadata(everything, _Call())
    watching = servicer.WatchMetadata(metadata_pb2.WatchMetadataRequest(), None)
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    assert not first.done()
    view.cluster_id = CLUSTER_ID
    view.publish(ImageUpdate(version=7, snapshot=True))
    assert (await first).update.version == 7
    assert (await servicer.GetMetadata(everything, _Call())).version == 7
    await controllers.close()

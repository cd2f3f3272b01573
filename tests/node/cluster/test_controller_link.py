"""Changes survive lost answers, once."""

import asyncio
from typing import Any

import grpc
import pytest

from odradek.node.cluster.controller_link import ControllerLink
from odradek.node.cluster.controllers import Controllers
from odradek.node.cluster.session import Session
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import OutcomeUnknownError, StaleBrokerEpochError
from odradek.protocol.types import NodeId
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import admin_pb2, broker_pb2
from odradek.v1 import controller_pb2 as pb
from tests.node.fake_controller import FakeController
from tests.node.running import RunningNode


async def test_a_lost_answer_is_asked_for_again_with_the_same_sequence(
    node: RunningNode, controller: FakeController
) -> None:
    controller.lose_answers = 2
    created = await node.admin.CreateTopics(
        admin_pb2.CreateTopicsRequest(topics=[admin_pb2.NewTopic(name="t", partitions=1)]),
        timeout=10,
    )
    assert created.topics[0].topic_id in controller.topics
    assert len(controller.topics) == 1
    assert len({each.sequence for each in controller.submitted}) == 1
    assert len(controller.submitted) == 3


async def test_each_change_has_a_sequence_of_its_own(
    node: RunningNode, controller: FakeController
) -> None:
    for name in ("a", "b"):
        await node.admin.CreateTopics(
            admin_pb2.CreateTopicsRequest(topics=[admin_pb2.NewTopic(name=name, partitions=1)])
        )
    assert [each.sequence for each in controller.submitted] == [1, 2]


async def test_an_answer_that_never_comes_is_an_unknown_outcome(
    node: RunningNode, controller: FakeController
) -> None:
    controller.lose_answers = 1_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.admin.CreateTopics(admin_pb2.CreateTopicsRequest(), timeout=1)
    assert isinstance(error_from_rpc(caught.value), OutcomeUnknownError)


async def test_a_client_may_ask_again_when_the_node_has_yet_to_register(
    node: RunningNode, controller: FakeController
) -> None:
    controller.submit_refusal = StaleBrokerEpochError("speaks as incarnation 0; in force is 10")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.admin.CreateTopics(admin_pb2.CreateTopicsRequest(), timeout=10)
    error = error_from_rpc(caught.value)
    assert isinstance(error, OutcomeUnknownError)
    assert error.retriable


async def test_producer_ids_come_in_blocks(node: RunningNode, controller: FakeController) -> None:
    request = broker_pb2.InitProducerIdRequest(producer_id=-1, producer_epoch=-1)
    granted = [(await node.broker.InitProducerId(request)).producer_id for _ in range(12)]
    assert granted == list(range(1000, 1012))
    assert len(controller.submitted) == 2


async def test_no_more_changes_are_under_way_than_the_controllers_remember(
    node: RunningNode, controller: FakeController
) -> None:
    controller.lose_answers = 1_000_000
    calls = [
        node.admin.CreateTopics(
            admin_pb2.CreateTopicsRequest(topics=[admin_pb2.NewTopic(name=f"t{number}")]),
            timeout=10,
        )
        for number in range(150)
    ]
    await controller.until(lambda: len(controller.submitted) > 200)
    assert len({each.sequence for each in controller.submitted}) == 100
    controller.lose_answers = 0
    for call in calls:
        assert not (await call).topics[0].error.code


class _Controller:
    """Answers once it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Queue[pb.SubmitRequest]()
        self.answers = asyncio.Event()

    async def Submit(self, request: pb.SubmitRequest, timeout: float) -> pb.SubmitResponse:  # noqa: ASYNC109, N802
        del timeout  # this test ends long before
        self.asked.put_nowait(request)
        await self.answers.wait()
        return pb.SubmitResponse()


async def test_an_active_controller_that_hangs_is_not_waited_for_once_another_is_active() -> None:
    controllers = Controllers(["127.0.0.1:1", "127.0.0.1:2"])
    hung, other = _Controller(), _Controller()
    for peer, controller in zip(controllers.peers, (hung, other), strict=True):
        stub: Any = controller
        peer.stub = stub
    link = ControllerLink(NodeId(1), controllers, Session(), ClusterView())
    controllers.heard_active(controllers.peers[0], 1)
    async with asyncio.timeout(2), asyncio.TaskGroup() as tasks:
        submitting = tasks.create_task(link.submit(pb.SubmitRequest()))
        first = await hung.asked.get()
        other.answers.set()
        controllers.heard_active(controllers.peers[1], 2)
        assert (await other.asked.get()).sequence == first.sequence
        await submitting
    await controllers.close()

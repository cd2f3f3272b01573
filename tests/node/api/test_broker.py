"""Questions about offsets, and producer ids."""

import grpc
import pytest

from odradek.protocol.errors import InvalidRequestError, InvalidTxnStateError
from odradek.protocol.hot import Acks
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import broker_pb2 as pb
from odradek.v1 import error_pb2, metadata_pb2
from tests.node.fake_controller import FakeController
from tests.node.running import ProduceClient, RunningNode, batch


async def _ask(
    node: RunningNode,
    topic: metadata_pb2.TopicMetadata,
    spec: pb.OffsetSpec.ValueType = pb.OFFSET_SPEC_UNSPECIFIED,
    *,
    timestamp_ms: int = 0,
    partition: int = 0,
    leader_epoch: int = -1,
) -> pb.ListOffsetsResult:
    question = pb.ListOffsetsPartition(
        topic_id=topic.topic_id,
        partition=partition,
        current_leader_epoch=leader_epoch,
        spec=spec,
        timestamp_ms=timestamp_ms,
    )
    response = await node.broker.ListOffsets(pb.ListOffsetsRequest(partitions=[question]))
    result: pb.ListOffsetsResult = response.partitions[0]
    return result


@pytest.fixture
async def topic(node: RunningNode, controller: FakeController) -> metadata_pb2.TopicMetadata:
    """Three batches of two records, at 1000, 3000 and 2000 ms."""
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    for timestamp_ms in (1000, 3000, 2000):
        await producer.produce(topic, batch(2, timestamp_ms=timestamp_ms))
    return topic


async def test_the_ends_of_a_log(node: RunningNode, topic: metadata_pb2.TopicMetadata) -> None:
    earliest = await _ask(node, topic, pb.OFFSET_SPEC_EARLIEST)
    latest = await _ask(node, topic, pb.OFFSET_SPEC_LATEST)
    assert (earliest.offset, earliest.leader_epoch) == (0, 0)
    assert (latest.offset, latest.leader_epoch) == (6, 0)


async def test_a_new_leader_tells_no_end_before_it_knows_what_is_committed(
    node: RunningNode, controller: FakeController
) -> None:
    """What it knows is a lower bound: a reader that begins there would read the same twice."""
    topic = controller.add_topic("t", replicas=(1, 9), config={"min.insync.replicas": "1"})
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    await producer.produce(topic, batch(2, timestamp_ms=1000), acks=Acks.LEADER)
    assert (await _ask(node, topic, pb.OFFSET_SPEC_LATEST)).offset == 0
    controller.elect(topic, 0, 1)
    await node.knows(controller)
    specs = pb.OFFSET_SPEC_EARLIEST, pb.OFFSET_SPEC_LATEST, pb.OFFSET_SPEC_UNSPECIFIED
    for spec in specs:
        early = await _ask(node, topic, spec)
        assert early.error.code == error_pb2.ERROR_CODE_OFFSET_NOT_AVAILABLE
        assert early.offset == -1
    topic.partitions[0].isr.remove(9)
    controller.changed(topic, 0)
    await node.knows(controller)
    results = [await _ask(node, topic, spec) for spec in specs]
    assert [(each.error.code, each.offset) for each in results] == [(0, 0), (0, 2), (0, 0)]


@pytest.mark.parametrize(
    ("timestamp_ms", "offset", "found_ms"),
    [(0, 0, 1000), (1000, 0, 1000), (1001, 2, 3000), (3000, 2, 3000), (3001, -1, -1)],
)
async def test_the_earliest_record_at_or_after_a_time(
    node: RunningNode,
    topic: metadata_pb2.TopicMetadata,
    timestamp_ms: int,
    offset: int,
    found_ms: int,
) -> None:
    found = await _ask(node, topic, timestamp_ms=timestamp_ms)
    assert (found.offset, found.timestamp_ms) == (offset, found_ms)


async def test_the_largest_timestamp(node: RunningNode, topic: metadata_pb2.TopicMetadata) -> None:
    found = await _ask(node, topic, pb.OFFSET_SPEC_MAX_TIMESTAMP)
    assert (found.offset, found.timestamp_ms) == (2, 3000)


async def test_questions_that_make_no_sense(
    node: RunningNode, topic: metadata_pb2.TopicMetadata
) -> None:
    negative = await _ask(node, topic, timestamp_ms=-5)
    assert negative.error.code == error_pb2.ERROR_CODE_INVALID_REQUEST
    partition = await _ask(node, topic, pb.OFFSET_SPEC_LATEST, partition=3)
    assert partition.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION
    epoch = await _ask(node, topic, pb.OFFSET_SPEC_LATEST, leader_epoch=4)
    assert epoch.error.code == error_pb2.ERROR_CODE_UNKNOWN_LEADER_EPOCH


async def test_where_epochs_ended(
    node: RunningNode, controller: FakeController, topic: metadata_pb2.TopicMetadata
) -> None:
    controller.elect(topic, 0, 1)
    await node.knows(controller)
    await ProduceClient(node.channel).produce(topic, batch())
    questions = [
        pb.LeaderEpochPartition(
            topic_id=topic.topic_id, current_leader_epoch=-1, leader_epoch=epoch, partition=index
        )
        for epoch, index in ((0, 0), (1, 0), (7, 0), (0, 9))
    ]
    response = await node.broker.OffsetsForLeaderEpoch(
        pb.OffsetsForLeaderEpochRequest(partitions=questions)
    )
    ends = [(each.end.leader_epoch, each.end.end_offset) for each in response.partitions[:3]]
    assert ends == [(0, 6), (1, 7), (-1, -1)]
    unknown = response.partitions[3].error
    assert unknown.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.InitProducerIdRequest(transactional_id="x"), InvalidTxnStateError),
        (pb.InitProducerIdRequest(producer_id=4, producer_epoch=-1), InvalidRequestError),
    ],
)
async def test_producer_ids_that_cannot_be_granted(
    node: RunningNode, request_: pb.InitProducerIdRequest, error: type[Exception]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.broker.InitProducerId(request_)
    assert isinstance(error_from_rpc(caught.value), error)


async def test_more_questions_than_can_be_answered_are_refused(node: RunningNode) -> None:
    many = [pb.ListOffsetsPartition()] * 100_001
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.broker.ListOffsets(pb.ListOffsetsRequest(partitions=many))
    error = error_from_rpc(caught.value)
    assert isinstance(error, InvalidRequestError)
    assert (error.field, error.value, error.limit) == ("partitions", "100001", "100000")

"""What a consumer sees of a node."""

import asyncio
from pathlib import Path

import grpc
import pytest

from odradek.node.storage import StorageOptions
from odradek.protocol.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.hot import Acks
from odradek.protocol.record_batch import BatchHeader, split
from odradek.protocol.types import Offset, PartitionIndex, PartitionUid, TopicId
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import broker_pb2 as pb
from odradek.v1 import metadata_pb2
from tests.node.fake_controller import FakeController
from tests.node.running import FetchClient, ProduceClient, RunningNode, batch, running_node

_UNCOMMITTED = pb.ISOLATION_LEVEL_READ_UNCOMMITTED


async def _open(node: RunningNode, **options: object) -> FetchClient:
    fetcher = FetchClient(node.channel)
    await fetcher.open(**options)  # type: ignore[arg-type]
    return fetcher


async def _produce(
    node: RunningNode, topic: metadata_pb2.TopicMetadata, count: int, *, value: bytes = b"v"
) -> None:
    """Append so many batches of one record to partition 0, one after the other."""
    producer = ProduceClient(node.channel)
    for _ in range(count):
        assert not (await producer.produce(topic, batch(value=value))).error.code
    await producer.call.done_writing()


async def _topic(
    node: RunningNode, controller: FakeController, *, partitions: int = 1
) -> metadata_pb2.TopicMetadata:
    topic = controller.add_topic("t", partitions=partitions)
    await node.knows(controller)
    return topic


def _offsets(records: memoryview) -> list[int]:
    return [BatchHeader.parse(each).base_offset for each in split(records)]


async def test_a_new_subscriber_hears_the_watermarks_at_once(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    await _produce(node, topic, 3)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, offset=3)
    push = await fetcher.push()
    assert (push.high_watermark, push.last_stable_offset, push.log_start_offset) == (3, 3, 0)
    assert len(push.records) == 0
    assert (push.leader_id, push.leader_epoch) == (1, 0)


async def test_records_are_pushed_as_they_commit(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic)
    assert len((await fetcher.push()).records) == 0
    producer = ProduceClient(node.channel)
    for offset in range(5):
        await producer.produce(topic, batch())
        push = await fetcher.push()
        assert (_offsets(push.records), push.high_watermark) == ([offset], offset + 1)


@pytest.mark.parametrize("isolation", [pb.ISOLATION_LEVEL_UNSPECIFIED, _UNCOMMITTED])
async def test_nothing_above_the_high_watermark_is_told(
    node: RunningNode, controller: FakeController, isolation: pb.IsolationLevel.ValueType
) -> None:
    topic = controller.add_topic(
        "t", replicas=(1, 9), isr=(1,), config={"min.insync.replicas": "1"}
    )
    await node.knows(controller)
    await _produce(node, topic, 2)
    topic.partitions[0].isr.append(9)  # which has nothing, and never will
    controller.changed(topic, 0)
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(topic, batch(), acks=Acks.LEADER)
    assert (result.error.code, result.base_offset) == (0, 2)
    fetcher = await _open(node, isolation_level=isolation)
    await fetcher.subscribe(1, topic)
    push = await fetcher.push()
    assert (_offsets(push.records), push.high_watermark) == ([0, 1], 2)
    await fetcher.subscribe(2, topic, offset=2)
    push = await fetcher.push()
    assert (push.subscription_id, _offsets(push.records), push.high_watermark) == (2, [], 2)
    topic.partitions[0].isr.remove(9)
    controller.changed(topic, 0)
    pushes = [await fetcher.push() for _ in range(2)]
    assert {each.subscription_id for each in pushes} == {1, 2}
    assert [(_offsets(each.records), each.high_watermark) for each in pushes] == [([2], 3)] * 2


async def test_a_new_leader_tells_no_watermark_that_may_lie_below_one_told_before(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic(
        "t", replicas=(1, 9), isr=(1,), config={"min.insync.replicas": "1"}
    )
    await node.knows(controller)
    await _produce(node, topic, 2)
    topic.partitions[0].isr.append(9)  # from which nothing is heard
    controller.changed(topic, 0)
    await node.knows(controller)
    await ProduceClient(node.channel).produce(topic, batch(), acks=Acks.LEADER)
    controller.elect(topic, 0, 1)
    await node.knows(controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, offset=3)  # which hears nothing yet
    await fetcher.subscribe(2, topic)
    push = await fetcher.push()
    assert (push.subscription_id, _offsets(push.records)) == (2, [0, 1])
    assert (push.high_watermark, push.last_stable_offset) == (-1, -1)
    topic.partitions[0].isr.remove(9)
    controller.changed(topic, 0)
    pushes = sorted([await fetcher.push() for _ in range(2)], key=lambda each: each.subscription_id)
    assert [_offsets(each.records) for each in pushes] == [[], [2]]
    assert [(each.high_watermark, each.last_stable_offset) for each in pushes] == [(3, 3)] * 2


async def test_reading_begins_at_the_batch_that_holds_the_offset(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    await ProduceClient(node.channel).produce(topic, batch(4), batch(4))
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, offset=6)
    assert _offsets((await fetcher.records()).records) == [4]


async def test_credit_is_never_exceeded_but_by_the_first_batch_after_a_grant(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    await _produce(node, topic, 4, value=bytes(1000))
    size = len(batch(value=bytes(1000)))
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, credit_bytes=2 * size)
    assert _offsets((await fetcher.records()).records) == [0, 1]
    await fetcher.tell(credits=[{"subscription_id": 1, "bytes": 10}])  # less than a batch
    assert _offsets((await fetcher.records()).records) == [2]
    await fetcher.subscribe(2, topic, offset=3)
    other = await fetcher.records()
    assert (other.subscription_id, _offsets(other.records)) == (2, [3])
    await fetcher.tell(credits=[{"subscription_id": 1, "bytes": 2 * size}])
    assert _offsets((await fetcher.records()).records) == [3]


async def test_the_streams_credit_bounds_all_subscriptions(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    await _produce(node, topic, 6, value=bytes(1000))
    size = len(batch(value=bytes(1000)))
    fetcher = await _open(node, total_credit_bytes=3 * size)
    await fetcher.subscribe(1, topic)
    assert _offsets((await fetcher.records()).records) == [0, 1, 2]
    await fetcher.tell(total_credit_bytes=3 * size)
    assert _offsets((await fetcher.records()).records) == [3, 4, 5]


async def test_subscriptions_take_turns(node: RunningNode, controller: FakeController) -> None:
    topic = await _topic(node, controller, partitions=2)
    producer = ProduceClient(node.channel)
    for _ in range(6):
        for partition in range(2):
            await producer.produce(topic, batch(value=bytes(400_000)), partition=partition)
    fetcher = await _open(node)
    await fetcher.tell(
        subscribe=[
            FetchClient.wanted(each, topic, partition=each, credit_bytes=8 << 20)
            for each in range(2)
        ]
    )
    turns = [(await fetcher.records()).subscription_id for _ in range(4)]
    assert turns == [0, 1, 0, 1]


async def test_unsubscribing_ends_the_pushes(node: RunningNode, controller: FakeController) -> None:
    topic = await _topic(node, controller, partitions=2)
    fetcher = await _open(node)
    for partition in range(2):
        await fetcher.subscribe(partition + 1, topic, partition=partition)
        await fetcher.push()
    await fetcher.tell(unsubscribe=[1])
    await fetcher.subscribe(3, topic)  # in order, so that the node has taken both
    assert (await fetcher.push()).subscription_id == 3
    producer = ProduceClient(node.channel)
    for partition in range(2):
        await producer.produce(topic, batch(), partition=partition)
    seen = {(await fetcher.records()).subscription_id for _ in range(2)}
    assert seen == {2, 3}


async def test_what_the_cache_lacks_comes_from_disk_without_a_gap(
    tmp_path: Path, controller: FakeController
) -> None:
    options = StorageOptions(reserve_bytes=1 << 20, tail_cache_bytes=100_000)
    async with running_node(tmp_path, controller, options=options) as node:
        topic = await _topic(node, controller)
        await _produce(node, topic, 60, value=bytes(50_000))
        fetcher = await _open(node)
        await fetcher.subscribe(1, topic, credit_bytes=64 << 20)
        seen: list[int] = []
        while len(seen) < 60:
            seen += _offsets((await fetcher.records()).records)
        assert seen == list(range(60))
        await _produce(node, topic, 1)
        assert _offsets((await fetcher.records()).records) == [60]


async def test_small_pushes_are_held_back_when_the_client_prefers(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node, min_bytes=3 * len(batch()), max_wait_ms=10_000)
    await fetcher.subscribe(1, topic)
    await fetcher.push()  # the watermarks are not held back
    producer = ProduceClient(node.channel)
    for _ in range(3):
        await producer.produce(topic, batch())
    held = await fetcher.message()
    assert [offset for push in held for offset in _offsets(push.records)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("offset", "error"),
    [(-1, InvalidRequestError), (9, OffsetOutOfRangeError)],
    ids=["negative", "beyond the end"],
)
async def test_offsets_that_never_were_end_the_subscription(
    node: RunningNode, controller: FakeController, offset: int, error: type[Exception]
) -> None:
    topic = await _topic(node, controller)
    await _produce(node, topic, 3)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, offset=offset)
    push = await fetcher.push()
    assert isinstance(push.error, error)
    assert push.error.value == str(offset)


async def test_below_the_log_start_is_out_of_range_also_for_those_overtaken(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    await _produce(node, topic, 5)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, credit_bytes=1)
    await fetcher.records()
    node.storage.log(PartitionUid(topic.partitions[0].uid)).advance_log_start(Offset(4), 0)
    await fetcher.tell(credits=[{"subscription_id": 1, "bytes": 1 << 20}])
    overtaken = await fetcher.records()
    assert isinstance(overtaken.error, OffsetOutOfRangeError)
    assert overtaken.log_start_offset == 4
    await fetcher.subscribe(2, topic, offset=0)
    assert isinstance((await fetcher.push()).error, OffsetOutOfRangeError)


async def test_unknown_topics_partitions_and_ids_are_named(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, partition=7)
    assert isinstance((await fetcher.push()).error, UnknownTopicOrPartitionError)
    await fetcher.subscribe(2, metadata_pb2.TopicMetadata(name="tt"))
    error = (await fetcher.push()).error
    assert isinstance(error, UnknownTopicOrPartitionError)
    assert error.suggestions == ("t",)
    await fetcher.subscribe(3, metadata_pb2.TopicMetadata(topic_id=b"0" * 16))
    assert isinstance((await fetcher.push()).error, UnknownTopicIdError)


async def test_a_lost_leadership_ends_the_subscription_and_names_the_leader(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic)
    await fetcher.push()
    controller.elect(topic, 0, 2)
    push = await fetcher.push()
    assert isinstance(push.error, NotLeaderOrFollowerError)
    assert (push.leader_id, push.leader_epoch) == (2, 1)
    controller.elect(topic, 0, 1)
    await node.knows(controller)
    await fetcher.subscribe(2, topic, leader_epoch=1)
    assert isinstance((await fetcher.push()).error, FencedLeaderEpochError)
    await fetcher.subscribe(3, topic, leader_epoch=2)
    assert (await fetcher.push()).error is None


async def test_a_deleted_topic_ends_the_subscription(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic)
    await fetcher.push()
    controller.remove_topic(topic)
    assert isinstance((await fetcher.push()).error, UnknownTopicIdError)


async def test_another_history_is_told_where_it_parts(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    await _produce(node, topic, 3)  # epoch 0: 0..2
    controller.elect(topic, 0, 1)
    await node.knows(controller)
    await _produce(node, topic, 2)  # epoch 1: 3, 4
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic, offset=4, last_fetched_epoch=0)
    push = await fetcher.push()
    assert push.diverging_epoch is not None
    assert (push.diverging_epoch.leader_epoch, push.diverging_epoch.end_offset) == (0, 3)
    await fetcher.subscribe(2, topic, offset=3, last_fetched_epoch=0)
    assert _offsets((await fetcher.records()).records) == [3, 4]
    await fetcher.subscribe(3, topic, offset=3, last_fetched_epoch=9)
    assert isinstance((await fetcher.push()).error, UnknownLeaderEpochError)


async def test_a_stream_must_be_opened_first(node: RunningNode, controller: FakeController) -> None:
    fetcher = FetchClient(node.channel)
    await fetcher.tell(total_credit_bytes=5)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await fetcher.push()
    error = error_from_rpc(ended.value)
    assert isinstance(error, InvalidRequestError)
    assert error.field == "open"


async def test_a_subscription_id_is_used_once(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic)
    await fetcher.subscribe(1, topic)
    await fetcher.push()  # the first one's watermarks
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await fetcher.push()
    assert isinstance(error_from_rpc(ended.value), InvalidRequestError)


async def test_a_client_that_vanishes_leaves_nothing_behind(
    node: RunningNode, controller: FakeController
) -> None:
    topic = await _topic(node, controller)
    fetcher = await _open(node)
    await fetcher.subscribe(1, topic)
    await fetcher.push()
    replica = node.node._replicas.get(TopicId(topic.topic_id), PartitionIndex(0))
    assert replica is not None
    assert len(replica.subscribers) == 1
    fetcher.call.cancel()
    async with asyncio.timeout(5):
        while replica.subscribers or replica.readers:
            await _produce(node, topic, 1)


async def _read_for_ever(fetcher: FetchClient) -> None:
    while True:
        await fetcher.push()


async def test_subscribing_again_and_again_without_reading_ends_the_stream(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await _topic(node, controller)
    monkeypatch.setattr("odradek.node.api.fetch._SUBSCRIPTIONS_MAX", 10)
    fetcher = await _open(node)
    flood = [fetcher.wanted(each, topic, partition=7) for each in range(30)]
    await fetcher.tell(subscribe=flood)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read_for_ever(fetcher)
    error = error_from_rpc(caught.value)
    assert isinstance(error, InvalidRequestError)
    assert (error.field, error.limit) == ("subscribe", "20")

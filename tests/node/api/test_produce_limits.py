"""What one client may ask for, and hold, and for how long."""

import asyncio
import itertools
import sys
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from odradek.node.api import fetch, produce
from odradek.node.api.turns import STREAMS_MAX, TURN_MAX, Turns
from odradek.protocol import hot
from odradek.protocol.errors import InvalidRequestError, RequestTimedOutError
from odradek.protocol.hot import Acks
from odradek.protocol.types import LeaderEpoch, PartitionIndex, TopicId, TopicName
from odradek.rpc import server
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import admin_pb2, broker_pb2, group_pb2, group_pb2_grpc, metadata_pb2
from tests.node.fake_controller import FakeController
from tests.node.running import FetchClient, ProduceClient, RunningNode, batch


class _Deaf:
    """A client that sends for ever and takes no answer."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.sent = 0
        self.drowned = asyncio.Event()

    async def read(self) -> bytes:
        self.sent += 1
        if self.sent == 1000:
            self.drowned.set()
        await asyncio.sleep(0)
        return self.request

    async def hear(self, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        while True:
            later = take(await self.read())
            if later is not None:
                await later

    def offer(self, _: bytes) -> bool:
        return False

    async def drained(self) -> None:
        await asyncio.get_running_loop().create_future()

    def hold(self) -> None:
        pass

    def let_go(self) -> None:
        pass


async def test_a_client_that_takes_no_answers_is_not_read_for_ever(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.knows(controller)
    monkeypatch.setattr(produce, "_UNANSWERED_BYTES_MAX", 20_000)
    target = hot.ProducePartitionFrame(
        TopicId(b""), TopicName("unknown"), PartitionIndex(0), LeaderEpoch(-1), b""
    )
    frame = hot.ProduceFrame(1, Acks.ALL, 1000, "", [target])
    client = _Deaf(hot.encode_produce_request(frame))
    stream = produce.ProduceStream(node.node._replicas, client, produce.NodeLoad(), Turns())
    serving = asyncio.create_task(stream.run(asyncio.Event()))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.drowned.wait(), 0.5)
    serving.cancel()
    await asyncio.wait((serving,))
    assert 10 < client.sent < 500


class _Eager(_Deaf):
    """A client that sends for ever and takes every answer."""

    def offer(self, _: bytes) -> bool:
        return True


async def test_who_takes_no_answers_has_a_small_share_of_a_crowded_node(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.knows(controller)
    monkeypatch.setattr(produce, "_NODE_UNANSWERED_BYTES_MAX", 20_000)
    monkeypatch.setattr(produce, "_SHARE_BYTES", 5_000)
    target = hot.ProducePartitionFrame(
        TopicId(b""), TopicName("unknown"), PartitionIndex(0), LeaderEpoch(-1), b""
    )
    request = hot.encode_produce_request(hot.ProduceFrame(1, Acks.ALL, 1000, "", [target]))
    load = produce.NodeLoad()
    eager = _Eager(request)

    def serve(client: _Deaf) -> asyncio.Task[None]:
        stream = produce.ProduceStream(node.node._replicas, client, load, Turns())
        return asyncio.create_task(stream.run(asyncio.Event()))

    serving = [serve(each) for each in (_Deaf(request), _Deaf(request), eager)]
    await asyncio.wait_for(eager.drowned.wait(), 5)
    assert 20_000 < load.unanswered_bytes < 30_000
    for each in serving:
        each.cancel()
    await asyncio.wait(serving)
    assert load.unanswered_bytes == 0


@pytest.mark.parametrize("count", [0, 1, 100])
async def test_requests_are_bounded_by_what_they_take_not_by_what_they_say(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    topic = controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
    await node.knows(controller)
    target = hot.ProducePartitionFrame(
        TopicId(topic.topic_id), TopicName("t"), PartitionIndex(0), LeaderEpoch(-1), batch()
    )
    frame = hot.ProduceFrame(0, Acks.ALL, 60_000, "", [target] * count)
    monkeypatch.setattr(produce, "_UNANSWERED_BYTES_MAX", 200_000)
    stream = produce.ProduceStream(node.node._replicas, _Deaf(b""), produce.NodeLoad(), Turns())
    requests = itertools.count()
    tracemalloc.start()
    try:
        while stream._has_room:
            assert next(requests) < 10_000, "read on and on"
            if (later := stream._begin(frame, 0)) is not None:
                beginning = asyncio.ensure_future(later)
                for _ in range(3):
                    await asyncio.sleep(0)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes < 280_000
    assert not beginning.done()
    beginning.cancel()


async def test_a_request_that_timed_out_is_not_kept_until_it_commits(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
    await node.knows(controller)
    records = memoryview(batch())
    held = weakref.ref(records)
    target = hot.ProducePartitionFrame(
        TopicId(topic.topic_id), TopicName("t"), PartitionIndex(0), LeaderEpoch(-1), records
    )
    stream = produce.ProduceStream(node.node._replicas, _Deaf(b""), produce.NodeLoad(), Turns())
    stream._begin(hot.ProduceFrame(1, Acks.ALL, 1, "", [target]), 100)
    del target, records
    assert held() is not None
    (call,) = stream._calls
    call.deadline_s = float("-inf")
    stream._tick()
    assert held() is None


def _unknown(count: int, transactional_id: str = "") -> hot.ProduceFrame:
    """A request for topics that nobody knows."""
    target = hot.ProducePartitionFrame(
        TopicId(bytes(16)), TopicName(""), PartitionIndex(0), LeaderEpoch(-1), b""
    )
    return hot.ProduceFrame(1, Acks.ALL, 60_000, transactional_id, [target] * count)


@pytest.mark.parametrize(("streams", "transactional_id"), [(1, ""), (1, "t"), (30, "")])
async def test_requests_for_many_partitions_let_others_have_their_turns(
    node: RunningNode, controller: FakeController, streams: int, transactional_id: str
) -> None:
    await node.knows(controller)
    count, appended = 9_999 if streams == 1 else 1_000, 0

    class Counting(produce.ProduceStream):
        def _append(self, call: produce.ProduceCall, index: int) -> bool:
            nonlocal appended
            appended += 1
            return super()._append(call, index)

    load, turns = produce.NodeLoad(), Turns()
    laters = [
        Counting(node.node._replicas, _Deaf(b""), load, turns)._begin(
            _unknown(count, transactional_id), 2 * count
        )
        for _ in range(streams)
    ]
    beginning = asyncio.gather(*(each for each in laters if each is not None))
    at_once = min(streams, STREAMS_MAX) * (TURN_MAX + 1)
    passes = 0
    while not beginning.done():
        before = appended
        await asyncio.sleep(0)
        assert appended - before <= at_once
        passes += 1
    assert appended == streams * count
    assert passes >= streams * count // at_once


async def test_many_requests_that_come_at_once_let_others_have_their_turns(
    node: RunningNode, controller: FakeController
) -> None:
    await node.knows(controller)
    stream = produce.ProduceStream(node.node._replicas, _Deaf(b""), produce.NodeLoad(), Turns())
    for frame in (_unknown(0), _unknown(1)):
        for _ in range(TURN_MAX + 1):
            if (later := stream._begin(frame, 2)) is not None:
                break
        assert later is not None
        turn = asyncio.ensure_future(later)
        await asyncio.sleep(0)
        assert not turn.done()
        await turn
    assert stream._begin(_unknown(1), 2) is None


async def test_requests_that_are_too_late_are_answered_some_in_a_turn(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
    await node.knows(controller)
    target = hot.ProducePartitionFrame(
        TopicId(topic.topic_id), TopicName("t"), PartitionIndex(0), LeaderEpoch(-1), batch()
    )
    stream = produce.ProduceStream(node.node._replicas, _Deaf(b""), produce.NodeLoad(), Turns())
    later = stream._begin(hot.ProduceFrame(1, Acks.ALL, 60_000, "", [target] * 1_000), 100)
    assert later is not None
    await later
    (call,) = stream._calls
    call.deadline_s = float("-inf")
    stream._tick()
    assert 0 < sum(each is not None for each in call.results) <= TURN_MAX
    for _ in range(1_000 // TURN_MAX):
        stream._tick()
    assert None not in call.results


@pytest.mark.parametrize("streams", [1, 30])
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe", "credits"])
async def test_fetch_requests_that_name_much_let_others_have_their_turns(
    node: RunningNode, controller: FakeController, streams: int, kind: str
) -> None:
    await node.knows(controller)
    count = 10_000 // streams
    request = broker_pb2.FetchRequest(
        subscribe=[broker_pb2.FetchSubscribe(topic_id=bytes(16))] * count * (kind == "subscribe"),
        unsubscribe=[1] * count * (kind == "unsubscribe"),
        credits=[broker_pb2.FetchCredit()] * count * (kind == "credits"),
    )
    steps, turns = 0, Turns()

    class Counting(fetch.FetchStream):
        async def _count(self) -> None:
            nonlocal steps
            await super()._count()
            steps += 1

    clients = [Counting(node.node._replicas, _Deaf(b""), turns) for _ in range(streams)]
    taking = asyncio.gather(*(each._on_request(request) for each in clients))
    await asyncio.sleep(0)  # each has a first turn
    while not taking.done():
        before = steps
        await asyncio.sleep(0)
        assert steps - before <= min(streams, STREAMS_MAX) * (TURN_MAX + 1)
    assert steps == streams * (count + 1)


async def test_many_answers_of_a_fetch_stream_leave_some_in_a_turn(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    request = broker_pb2.FetchRequest()
    for number in range(1_000):
        known = topic.topic_id if number % 2 else bytes(16)
        request.subscribe.add(subscription_id=number, topic_id=known, credit_bytes=1)
    request.total_credit_bytes = 1
    stream = fetch.FetchStream(node.node._replicas, _Deaf(b""), Turns())
    await stream._on_request(request)
    answered: set[int] = set()
    for _ in range(1_000 // TURN_MAX + 1):
        before = len(answered)
        while (push := stream._next_push()) is not None:
            frames = hot.decode_fetch_response(push).partitions
            answered |= {each.subscription_id for each in frames}
        assert len(answered) - before <= 2 * TURN_MAX
    assert answered == set(range(1_000))
    assert stream._next_push() is None


@pytest.mark.parametrize("kind", ["metadata", "settings", "groups", "deletions"])
async def test_a_request_that_names_too_much_is_refused(
    node: RunningNode, controller: FakeController, kind: str
) -> None:
    await node.knows(controller)
    groups = group_pb2_grpc.GroupServiceStub(node.channel)
    names = [""] * 10_001
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "metadata": lambda: node.metadata.GetMetadata(
            metadata_pb2.GetMetadataRequest(topics=names)
        ),
        "settings": lambda: node.admin.DescribeTopicConfigs(
            admin_pb2.DescribeTopicConfigsRequest(topics=[admin_pb2.TopicRef()] * 10_001)
        ),
        "groups": lambda: groups.DescribeGroups(group_pb2.DescribeGroupsRequest(groups=names)),
        "deletions": lambda: groups.DeleteGroups(group_pb2.DeleteGroupsRequest(groups=names)),
    }
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calls[kind]()
    error = error_from_rpc(refused.value)
    assert isinstance(error, InvalidRequestError)
    assert error.limit == "10000"


async def test_a_frame_that_subscribes_too_much_is_not_begun_with(
    node: RunningNode, controller: FakeController
) -> None:
    await node.knows(controller)
    fetcher = FetchClient(node.channel)
    await fetcher.open()
    await fetcher.tell(subscribe=[broker_pb2.FetchSubscribe(topic="t")] * 40_001)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fetcher.push()
    assert isinstance(error_from_rpc(refused.value), InvalidRequestError)


@pytest.mark.parametrize(
    "method",
    [
        "BrokerService/Produce",
        "BrokerService/Fetch",
        "GroupService/Heartbeat",
        "ReplicaService/Replicate",
    ],
)
async def test_a_stream_that_says_nothing_is_ended(
    node: RunningNode, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.05)
    call: Any = node.channel.stream_stream(f"/odradek.v1.{method}")()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(call.read(), 5)
    error = error_from_rpc(ended.value)
    assert isinstance(error, RequestTimedOutError)
    assert (error.field, error.limit) == ("request", "0.05 s")


async def test_a_stream_that_has_begun_may_idle(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 1.0)
    producer, fetcher = ProduceClient(node.channel), FetchClient(node.channel)
    await fetcher.open()
    await producer.produce(topic, batch())
    idle = {asyncio.ensure_future(each.call.read()) for each in (producer, fetcher)}
    done, _ = await asyncio.wait(idle, timeout=1.5)
    assert not done
    await producer.send(topic, batch())
    await fetcher.subscribe(1, topic)
    await asyncio.wait_for(asyncio.gather(*idle), 5)


class _Idle(_Deaf):
    """A client that sends once and takes the answer."""

    async def read(self) -> bytes:
        self.sent += 1
        if self.sent == 1:
            return self.request
        self.drowned.set()
        await asyncio.get_running_loop().create_future()
        return b""

    def offer(self, _: bytes) -> bool:
        return True


async def test_an_idle_stream_does_not_hold_its_last_request(
    node: RunningNode, controller: FakeController
) -> None:
    await node.knows(controller)
    target = hot.ProducePartitionFrame(
        TopicId(b""), TopicName("unknown"), PartitionIndex(0), LeaderEpoch(-1), bytes(10_000)
    )
    frame = hot.ProduceFrame(1, Acks.ALL, 1000, "", [target])
    client = _Idle(hot.encode_produce_request(frame))
    known = sys.getrefcount(client.request)
    stream = produce.ProduceStream(node.node._replicas, client, produce.NodeLoad(), Turns())
    serving = asyncio.create_task(stream.run(asyncio.Event()))
    await client.drowned.wait()
    held = sys.getrefcount(client.request)
    assert held == known
    serving.cancel()
    await asyncio.wait((serving,))

"""What one client's Produce stream may hold, and for how long."""

import asyncio
import weakref

import pytest

from odradek.node.api import produce
from odradek.protocol import hot
from odradek.protocol.hot import Acks
from odradek.protocol.types import LeaderEpoch, PartitionIndex, TopicId, TopicName
from tests.node.fake_controller import FakeController
from tests.node.running import RunningNode, batch


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

    async def write(self, _: bytes) -> None:
        await asyncio.get_running_loop().create_future()


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
    stream = produce.ProduceStream(node.node._replicas, client)
    serving = asyncio.create_task(stream.run(asyncio.Event()))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.drowned.wait(), 0.5)
    serving.cancel()
    await asyncio.wait((serving,))
    assert 10 < client.sent < 500


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
    stream = produce.ProduceStream(node.node._replicas, _Deaf(b""))
    await stream._begin(hot.ProduceFrame(1, Acks.ALL, 1, "", [target]), 100)
    del target, records
    assert held() is not None
    (call,) = stream._calls
    call.deadline_s = float("-inf")
    stream._tick()
    assert held() is None

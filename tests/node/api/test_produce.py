"""What a producer sees of a node."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest

from odradek.node.storage.group_commit import GroupCommit
from odradek.protocol.errors import NodeShuttingDownError, OdradekError, StorageFullError
from odradek.protocol.hot import Acks
from odradek.protocol.record_batch import BatchHeader, Codec, stamp_producer
from odradek.protocol.types import (
    PartitionUid,
    ProducerEpoch,
    ProducerId,
)
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import broker_pb2, error_pb2, metadata_pb2
from tests.node.fake_controller import FakeController
from tests.node.running import FetchClient, ProduceClient, RunningNode, batch, running_node


async def test_batches_of_a_partition_get_consecutive_offsets(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    first = await producer.produce(topic, batch(3), batch(2))
    second = await producer.produce(topic, batch(1))
    assert (first.base_offset, second.base_offset) == (0, 5)
    assert second.log_append_time_ms == -1


async def test_requests_are_pipelined_and_each_is_answered_once(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t", partitions=3)
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    sent = [await producer.send(topic, batch(), partition=i % 3) for i in range(60)]
    answers = [await producer.answer() for _ in sent]
    assert sorted(answer.correlation_id for answer in answers) == sent
    by_request = {answer.correlation_id: answer.partitions[0] for answer in answers}
    for partition in range(3):
        offsets = [by_request[each].base_offset for each in sent[partition::3]]
        assert offsets == list(range(20))


async def test_a_repeat_gets_the_original_offset(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    once = batch(2, producer_id=9, producer_epoch=0, base_sequence=0)
    await producer.send(topic, once)
    await producer.send(topic, once)
    answers = [(await producer.answer()).partitions[0] for _ in range(2)]
    assert [answer.base_offset for answer in answers] == [0, 0]
    after = await producer.produce(topic, batch())
    assert after.base_offset == 2


async def test_a_gap_in_the_sequence_is_refused(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    await producer.produce(topic, batch(2, producer_id=9, producer_epoch=0, base_sequence=0))
    result = await producer.produce(
        topic, batch(1, producer_id=9, producer_epoch=0, base_sequence=7)
    )
    assert result.error.code == error_pb2.ERROR_CODE_OUT_OF_ORDER_SEQUENCE_NUMBER


def _corrupt(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def _with_magic_1(data: bytes) -> bytes:
    return data[:16] + b"\x01" + data[17:]


def _with_codec_7(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[22] |= 7
    stamp_producer(changed, ProducerId(-1), ProducerEpoch(-1), -1)  # a CRC that holds
    assert BatchHeader.parse(changed).codec_id > Codec.ZSTD
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_corrupt, error_pb2.ERROR_CODE_CORRUPT_MESSAGE),
        (_with_magic_1, error_pb2.ERROR_CODE_UNSUPPORTED_FOR_MESSAGE_FORMAT),
        (lambda data: data[:-3], error_pb2.ERROR_CODE_CORRUPT_MESSAGE),
        (lambda data: data[:30], error_pb2.ERROR_CODE_CORRUPT_MESSAGE),
        (lambda data: b"", error_pb2.ERROR_CODE_INVALID_REQUEST),
        (_with_codec_7, error_pb2.ERROR_CODE_UNSUPPORTED_COMPRESSION_TYPE),
    ],
    ids=["crc", "magic", "cut short", "half a header", "nothing", "codec"],
)
async def test_damaged_batches_are_refused_and_the_stream_goes_on(
    node: RunningNode, controller: FakeController, damage: object, code: int
) -> None:
    assert callable(damage)
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    refused = await producer.produce(topic, damage(batch()))
    assert refused.error.code == code
    assert refused.error.message
    accepted = await producer.produce(topic, batch())
    assert accepted.base_offset == 0


async def test_an_oversized_batch_is_refused_naming_both_sizes(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t", config={"max.message.bytes": "2000"})
    await node.knows(controller)
    data = batch(value=bytes(3000))
    result = await ProduceClient(node.channel).produce(topic, data)
    assert result.error.code == error_pb2.ERROR_CODE_RECORD_TOO_LARGE
    assert (result.error.value, result.error.limit) == (str(len(data)), "2000")


async def test_timestamps_far_ahead_are_refused(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(topic, batch(timestamp_ms=1 << 42))
    assert result.error.code == error_pb2.ERROR_CODE_INVALID_TIMESTAMP


async def test_how_far_ahead_is_the_topics_to_say(
    node: RunningNode, controller: FakeController
) -> None:
    strict = controller.add_topic("strict")
    lax = controller.add_topic("lax", config={"message.timestamp.after.max.ms": "7200000"})
    await node.knows(controller)
    ahead = batch(timestamp_ms=time.time_ns() // 1_000_000 + 90 * 60 * 1000)
    producer = ProduceClient(node.channel)
    refused = await producer.produce(strict, ahead)
    assert refused.error.code == error_pb2.ERROR_CODE_INVALID_TIMESTAMP
    assert (await producer.produce(lax, ahead)).base_offset == 0


async def test_log_append_time_is_the_nodes(node: RunningNode, controller: FakeController) -> None:
    topic = controller.add_topic("t", config={"message.timestamp.type": "LogAppendTime"})
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(topic, batch(timestamp_ms=5))
    fetcher = FetchClient(node.channel)
    await fetcher.open()
    await fetcher.subscribe(1, topic)
    header = BatchHeader.parse((await fetcher.records()).records)
    assert header.is_log_append_time
    assert header.max_timestamp == result.log_append_time_ms > 1_700_000_000_000


async def test_a_repeat_is_told_when_the_original_was_appended(
    tmp_path: Path, controller: FakeController
) -> None:
    topic = controller.add_topic("t", config={"message.timestamp.type": "LogAppendTime"})
    sent = batch(producer_id=7, producer_epoch=0, base_sequence=0)
    async with running_node(tmp_path, controller) as node:
        first = await ProduceClient(node.channel).produce(topic, sent)
    async with running_node(tmp_path, controller) as node:  # the window comes from the disk
        again = await ProduceClient(node.channel).produce(topic, sent)
    assert again == first
    assert first.log_append_time_ms > 1_700_000_000_000


async def test_unknown_partitions_and_topics_are_named(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("positions")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    result = await producer.produce(topic, batch(), partition=5)
    assert result.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION
    assert (result.error.field, result.error.value, result.error.limit) == ("partition", "5", "0")
    result = await producer.produce(metadata_pb2.TopicMetadata(name="position"), batch())
    assert result.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION
    assert list(result.error.suggestions) == ["positions"]


async def test_transactions_are_refused_for_now(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(topic, batch(), transactional_id="x")
    assert result.error.code == error_pb2.ERROR_CODE_INVALID_TXN_STATE


async def test_an_older_leader_epoch_is_fenced(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    controller.elect(topic, 0, 1)
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(topic, batch(), leader_epoch=0)
    assert result.error.code == error_pb2.ERROR_CODE_FENCED_LEADER_EPOCH
    assert (result.leader_id, result.leader_epoch) == (1, 1)


async def test_a_newer_leader_epoch_waits_for_its_image(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    await producer.send(topic, batch(), leader_epoch=1)
    await producer.send(topic, batch(), leader_epoch=1)
    current = await ProduceClient(node.channel).produce(topic, batch())
    assert current.base_offset == 0
    controller.elect(topic, 0, 1)
    answers = [(await producer.answer()).partitions[0] for _ in range(2)]
    assert [answer.base_offset for answer in answers] == [1, 2]


async def test_a_newer_leader_epoch_that_never_comes_is_refused(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(
        topic, batch(), leader_epoch=9, timeout_ms=100
    )
    assert result.error.code == error_pb2.ERROR_CODE_UNKNOWN_LEADER_EPOCH


async def test_a_partition_that_moved_names_its_new_leader(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    controller.elect(topic, 0, 2)
    await node.knows(controller)
    result = await ProduceClient(node.channel).produce(topic, batch())
    assert result.error.code == error_pb2.ERROR_CODE_NOT_LEADER_OR_FOLLOWER
    assert (result.leader_id, result.leader_epoch) == (2, 1)


async def test_too_few_in_sync_replicas_are_told_before_appending(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t", config={"min.insync.replicas": "2"})
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    refused = await producer.produce(topic, batch())
    assert refused.error.code == error_pb2.ERROR_CODE_NOT_ENOUGH_REPLICAS
    accepted = await producer.produce(topic, batch(), acks=Acks.LEADER)
    assert accepted.base_offset == 0


@pytest.mark.parametrize("acks", list(Acks))
@pytest.mark.parametrize("flush", ["commit", "os"])
async def test_what_was_acknowledged_survives_a_restart(
    tmp_path: Path, controller: FakeController, acks: Acks, flush: str
) -> None:
    topic = controller.add_topic("t", config={"flush": flush})
    async with running_node(tmp_path, controller) as node:
        producer = ProduceClient(node.channel)
        for _ in range(5):
            assert not (await producer.produce(topic, batch(2), acks=acks)).error.code
    async with running_node(tmp_path, controller) as node:
        result = await ProduceClient(node.channel).produce(topic, batch())
        assert result.base_offset == 10
    assert [each.lost_data for each in controller.registrations] == [False, False]


async def test_garbage_in_place_of_a_request_ends_only_its_stream(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    good, bad = ProduceClient(node.channel), ProduceClient(node.channel)
    await bad.call.write(b"\xff\xff\xff garbage")
    code = await bad.call.code()
    assert code.name == "INVALID_ARGUMENT"
    assert (await good.produce(topic, batch())).base_offset == 0


async def test_a_stopping_node_answers_what_it_began(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    for _ in range(20):
        await producer.send(topic, batch())
    await producer.answer()
    node.stop.set()
    answers, farewell = await _answers_until_end(producer)
    assert isinstance(farewell, NodeShuttingDownError)
    appended = node.storage.log(PartitionUid(topic.partitions[0].uid)).log_end_offset
    assert 1 + len(answers) >= appended, "nothing that was appended stays unanswered"
    acknowledged = [answer for answer in answers if not answer.error.code]
    assert 1 + len(acknowledged) <= appended


async def _answers_until_end(
    producer: ProduceClient,
) -> tuple[list[broker_pb2.ProducePartitionResult], OdradekError]:
    """Read on until the node says goodbye."""
    answers = []
    try:
        while True:
            answers.append((await producer.answer()).partitions[0])
    except grpc.aio.AioRpcError as error:
        return answers, error_from_rpc(error)


async def test_without_contact_to_the_controller_nothing_is_acknowledged(
    tmp_path: Path, controller: FakeController
) -> None:
    controller.session_timeout_ms = 400
    topic = controller.add_topic("t")
    async with running_node(tmp_path, controller) as node:
        producer = ProduceClient(node.channel)
        async with asyncio.timeout(5):
            while (await producer.produce(topic, batch())).error.code:
                pass
        controller.answers_heartbeats = False
        async with asyncio.timeout(5):
            while not (result := await producer.produce(topic, batch())).error.code:
                pass
        assert result.error.code == error_pb2.ERROR_CODE_NOT_LEADER_OR_FOLLOWER
        controller.answers_heartbeats = True
        async with asyncio.timeout(10):
            while (await producer.produce(topic, batch())).error.code:
                pass


async def test_clients_do_not_write_internal_topics(
    node: RunningNode, controller: FakeController
) -> None:
    internal = controller.add_topic("__consumer_offsets")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    result = await producer.produce(internal, batch())
    assert result.error.code == error_pb2.ERROR_CODE_INVALID_TOPIC
    known_by_epoch = await producer.produce(internal, batch(), leader_epoch=0)
    assert known_by_epoch.error.code == error_pb2.ERROR_CODE_INVALID_TOPIC


async def test_a_disk_that_fills_up_while_a_request_waits_for_room_is_said_on_its_stream(
    node: RunningNode, controller: FakeController, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)

    async def no_room() -> None:
        raise StorageFullError("full")

    with monkeypatch.context() as full:
        full.setattr(GroupCommit, "has_room", False)
        full.setattr(GroupCommit, "room", lambda _: no_room())
        result = await producer.produce(topic, batch())
        assert result.error.code == error_pb2.ERROR_CODE_STORAGE_FULL
    assert (await producer.produce(topic, batch())).base_offset == 0

"""What `send_many` promises of records with keys, against a cluster in memory over real gRPC."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from odradek.client import serdes
from odradek.protocol.errors import RecordTooLargeError
from tests.client.fake_node import FakeCluster
from tests.client.producing import producing


def records_of(topic: Any) -> list[list[tuple[bytes | None, bytes | None]]]:
    return [
        [(record.key, record.value) for record in partition.records()]
        for partition in topic.partitions
    ]


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"linger_s": 0.02}])
async def test_a_call_far_larger_than_the_buffer_arrives_in_order_and_never_exceeds_it(
    cluster: FakeCluster, options: dict[str, Any]
) -> None:
    topic = cluster.create_topic("t", partitions=3)
    values = [b"%06d" % number + bytes(number % 90) for number in range(4000)]
    keys = [b"%d" % (number % 50) for number in range(4000)]
    async with producing(cluster, batch_bytes=4096, buffer_bytes=16384, **options) as producer:
        sending = asyncio.create_task(producer.send_many("t", values, keys=keys))
        most_bytes = 0
        while not sending.done():
            most_bytes = max(most_bytes, producer._core.ledger.used_bytes)
            await asyncio.sleep(0)
        acks = await sending
    assert 8192 < most_bytes < 16384 + 200
    logs = records_of(topic)
    assert [logs[ack.partition][ack.offset] for ack in acks] == list(zip(keys, values, strict=True))
    assert acks[-1] == acks[3999]
    for log in logs:
        assert log == sorted(log, key=lambda record: record[1] or b"")


async def test_records_without_key_keep_their_place_among_those_with_one(
    cluster: FakeCluster,
) -> None:
    topic = cluster.create_topic("t", partitions=2)
    values = [b"%04d" % number if number % 5 else None for number in range(600)]
    keys = [f"k{number % 7}" if number % 3 else None for number in range(600)]
    async with producing(cluster, key=serdes.string) as producer:
        acks = await producer.send_many("t", values, keys=keys)
        await producer.send_many("t", values, keys=keys, partition=1)
        assert len(await producer.send_many("t", [], keys=[])) == 0
    logs = records_of(topic)
    sent = [
        (None if key is None else key.encode(), value)
        for key, value in zip(keys, values, strict=True)
    ]
    assert [logs[ack.partition][ack.offset] for ack in acks] == sent
    assert logs[1][-600:] == sent
    for partition in (0, 1):
        offsets = [ack.offset for ack in acks if ack.partition == partition]
        assert offsets == sorted(offsets)


async def test_those_before_a_record_too_large_are_on_their_way_and_none_behind_it(
    cluster: FakeCluster,
) -> None:
    topic = cluster.create_topic("t", partitions=3, config={"max.message.bytes": "1024"})
    values = [b"%03d" % number for number in range(100)]
    values[60] = bytes(2000)
    keys = [b"%d" % number for number in range(100)]
    async with producing(cluster) as producer:
        with pytest.raises(RecordTooLargeError, match="it was not sent"):
            await producer.send_many("t", values, keys=keys)
    found = sorted(value or b"" for log in records_of(topic) for _, value in log)
    assert found == values[:60]


async def test_others_have_their_turn_while_much_is_appended(cluster: FakeCluster) -> None:
    cluster.create_topic("t", partitions=3)
    values = [bytes(1000)] * 20_000
    keys = [b"%d" % (number % 50) for number in range(20_000)]
    async with producing(cluster) as producer:
        await producer.send("t", b"v")
        used_bytes = [0]
        sending = asyncio.create_task(producer.send_many("t", values, keys=keys))
        while not sending.done():
            used_bytes.append(producer._core.ledger.used_bytes)
            await asyncio.sleep(0)
        await sending
    steps = [after - before for before, after in pairwise(used_bytes)]
    assert max(steps) < 1.1 * 1024 * 1024

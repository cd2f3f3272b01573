"""What goes wrong between a consumer and the leaders it reads from."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from odradek.client.errors import ClientClosedError, LogTruncatedError
from odradek.protocol.errors import (
    CorruptMessageError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
)
from odradek.protocol.hot import EpochEnd
from odradek.protocol.types import LeaderEpoch, Offset
from tests.client.consumer_world import TIMEOUT_S, World, offsets, read, world
from tests.client.fake_fetch import FakeFetch
from tests.client.fake_node import FakeNode

T0 = ("t", 0)


@pytest.fixture
async def two() -> AsyncIterator[World]:
    async with world(nodes=2) as made:
        yield made


async def subscribed_from(two: World, offset: int) -> None:
    """Wait until the divergence was told, and the consumer reads from an offset on."""
    async with asyncio.timeout(TIMEOUT_S):
        while two.logs.divergence or two.logs.subscribed[-1].offset != offset:
            await two.logs.changed()


@pytest.mark.parametrize("announce", [True, False])
async def test_a_leader_that_moves_is_followed(two: World, announce: bool) -> None:  # noqa: FBT001
    topic = await two.topic(records=50)
    async with two.consumer("t") as consumer:
        assert offsets(await read(consumer, 50)) == list(range(50))
        two.cluster.move_leader(topic, 0, 2, announce=announce)
        two.fill(topic, 0, 50)
        assert offsets(await read(consumer, 50)) == list(range(50, 100))
        last = two.logs.subscribed[-1]
        assert (last.offset, last.current_leader_epoch, last.last_fetched_epoch) == (50, 1, 0)


async def test_a_broken_stream_is_opened_again_where_it_broke(two: World) -> None:
    topic = await two.topic(records=20)
    two.logs.push_bytes = 1
    async with two.consumer("t") as consumer:
        found = offsets(await read(consumer, 5))
        for _ in range(3):
            two.fetch[1].break_streams()
            two.fill(topic, 0, 20)
            found += offsets(await read(consumer, 20))
    assert found == list(range(65))


async def test_a_node_that_dies_and_comes_back_is_found_again(two: World) -> None:
    topic = await two.topic(records=20)
    async with two.consumer("t") as consumer:
        assert len(await read(consumer, 20)) == 20
        await two.cluster.nodes[1].stop()
        two.cluster.move_leader(topic, 0, 2)
        two.fill(topic, 0, 20)
        assert offsets(await read(consumer, 20)) == list(range(20, 40))


async def test_a_node_that_is_elsewhere_is_read_there(two: World) -> None:
    """What it left behind keeps the stream open and says nothing."""
    topic = await two.topic(records=20)
    two.cluster.move_leader(topic, 0, 2)
    async with two.consumer("t") as consumer:
        assert len(await read(consumer, 20)) == 20
        left_behind = two.cluster.nodes[2]
        moved = FakeNode(two.cluster, 2)
        fetch = FakeFetch(moved, two.logs)
        await moved.start()
        two.cluster.nodes[2] = moved
        two.cluster.publish_node(moved)
        await subscribed_from(two, 20)
        assert fetch.streams
        two.fill(topic, 0, 20)
        assert offsets(await read(consumer, 20)) == list(range(20, 40))
    await left_behind.stop()


@pytest.mark.parametrize("group", [None, "g"])
async def test_a_loop_that_waits_ends_when_the_client_closes_first(
    two: World, group: str | None
) -> None:
    await two.topic(records=20)
    async with asyncio.timeout(TIMEOUT_S / 4), two.consumer("t", group=group) as consumer:
        await read(consumer, 20)
        waiting = asyncio.ensure_future(anext(consumer))
        await asyncio.sleep(0)
        await two.client.close()
        with pytest.raises(ClientClosedError):
            await waiting


async def test_what_is_retriable_is_retried(two: World) -> None:
    await two.topic(records=5)
    two.fetch[1].errors = [
        UnknownLeaderEpochError(),
        CorruptMessageError(),
        UnknownLeaderEpochError(),
    ]
    async with two.consumer("t") as consumer:
        assert offsets(await read(consumer, 5)) == list(range(5))
    assert len(two.logs.subscribed) == 4


async def test_what_is_not_retriable_is_raised_until_the_partition_is_sought(two: World) -> None:
    await two.topic(records=5)
    two.fetch[1].errors = [InvalidRequestError("no")]
    async with two.consumer("t") as consumer:
        for _ in range(2):
            with pytest.raises(InvalidRequestError):
                await anext(consumer)
        consumer.seek(T0, 1)
        assert offsets(await read(consumer, 4)) == [1, 2, 3, 4]


@pytest.mark.parametrize(("start", "first"), [("earliest", 30), ("latest", 50)])
async def test_out_of_range_follows_the_start_rule(
    two: World, start: str, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await two.topic(records=50)
    async with two.consumer("t", start=start) as consumer:
        consumer.seek(T0, 0)
        await read(consumer, 1)
        two.logs.cut_start(topic, 0, 30)
        with caplog.at_level(logging.WARNING):
            consumer.seek(T0, 3)
            asked = asyncio.ensure_future(anext(consumer))
            while not asked.done():
                two.fill(topic, 0, 1)
                await asyncio.wait([asked], timeout=0.01)
        assert first <= (await asked).offset <= (30 if first == 30 else 10_000)
    assert "out of range" in caplog.text


async def test_out_of_range_without_a_rule_is_the_application_s_to_decide(two: World) -> None:
    topic = await two.topic(records=50)
    two.logs.cut_start(topic, 0, 30)
    two.groups.commit("g", topic, 0, 10)
    async with two.consumer("t", group="g", start="none") as consumer:
        with pytest.raises(OffsetOutOfRangeError):
            await anext(consumer)
        consumer.seek(T0, "earliest")
        assert (await anext(consumer)).offset == 30


async def test_a_record_that_comes_while_a_time_is_sought_is_not_passed(two: World) -> None:
    topic = await two.topic(records=30)
    async with asyncio.timeout(TIMEOUT_S / 4), two.consumer("t") as consumer:
        await read(consumer, 1)
        two.logs.on_listed = lambda: two.logs.append(topic, 0, [b"young"], timestamp_ms=5000)
        consumer.seek(T0, datetime.fromtimestamp(5, UTC))
        assert (await anext(consumer)).offset == 30


async def test_a_position_beyond_the_end_waits(two: World) -> None:
    topic = await two.topic(records=5)
    async with two.consumer("t") as consumer:
        consumer.seek(T0, 8)
        two.fill(topic, 0, 1)
        two.fill(topic, 0, 10)
        assert (await anext(consumer)).offset == 8


async def test_truncation_is_detected_and_read_on_from_the_common_end(
    two: World, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await two.topic(records=50)
    two.logs.divergence[topic.partitions[0].uid] = EpochEnd(LeaderEpoch(0), Offset(44))
    two.groups.commit("g", topic, 0, 47, epoch=0)
    with caplog.at_level(logging.WARNING):
        async with two.consumer("t", group="g") as consumer:
            assert (await anext(consumer)).offset == 44
    assert "truncated at 44" in caplog.text


async def test_truncation_without_a_start_rule_is_raised(two: World) -> None:
    topic = await two.topic(records=50)
    two.logs.divergence[topic.partitions[0].uid] = EpochEnd(LeaderEpoch(0), Offset(44))
    two.groups.commit("g", topic, 0, 47, epoch=0)
    async with two.consumer("t", group="g", start="none") as consumer:
        with pytest.raises(LogTruncatedError) as caught:
            await anext(consumer)
        assert (caught.value.position, caught.value.end_offset) == (47, 44)


async def test_what_was_fetched_ahead_and_truncated_was_never_there(
    two: World, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await two.topic(records=50)
    async with two.consumer("t", start="none") as consumer:
        consumer.seek(T0, 0)
        assert offsets(await read(consumer, 30)) == list(range(30))
        two.logs.divergence[topic.partitions[0].uid] = EpochEnd(LeaderEpoch(0), Offset(40))
        two.fetch[1].break_streams()
        await subscribed_from(two, 30)
        assert offsets(await read(consumer, 20)) == list(range(30, 50)), "as the log is now"
        last = two.logs.subscribed[-1]
        assert (last.offset, last.last_fetched_epoch) == (30, 0)
    assert not caplog.records


async def test_truncation_takes_back_what_the_application_did_not_look_at(two: World) -> None:
    topic = await two.topic(records=50)
    async with two.consumer("t") as consumer:
        assert offsets(await read(consumer, 30)) == list(range(30))
        two.logs.divergence[topic.partitions[0].uid] = EpochEnd(LeaderEpoch(0), Offset(20))
        two.fetch[1].break_streams()
        await subscribed_from(two, 20)
        assert (await anext(consumer)).offset == 20


@pytest.mark.parametrize("first", [29, 30])
async def test_truncation_leaves_what_a_loop_held_to_the_next_loop(two: World, first: int) -> None:
    topic = await two.topic(records=50)
    log = topic.partitions[0]
    async with two.consumer("t", group="g") as consumer:
        assert len(await read(consumer, 30)) == 30
        if first == 30:
            await consumer.commit()
        del log.batches[4:]
        log.end = 40
        two.logs.append(topic, 0, [b"new"] * 10)
        two.logs.divergence[log.uid] = EpochEnd(LeaderEpoch(0), Offset(40))
        two.fetch[1].break_streams()
        await subscribed_from(two, 30)
        found = []
        async with asyncio.timeout(TIMEOUT_S):
            async for record in consumer:
                found.append(record.value)
                if len(found) == 50 - first:
                    break
    assert found == [b"%d" % each for each in range(first, 40)] + [b"new"] * 10
    assert two.groups.committed("g", topic, 0) == 49


async def test_keeping_up_costs_few_credit_frames(two: World) -> None:
    topic = await two.topic()
    loop = asyncio.get_running_loop()
    async with two.consumer("t") as consumer:
        began_s = loop.time()
        for _ in range(300):
            two.fill(topic, 0, 1)
            await anext(consumer)
        assert two.logs.credit_frames <= (loop.time() - began_s) / 0.02 + 2

"""Reading without a group: order, seeks, pauses, cancellation, bad records."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from odradek.client import serdes
from odradek.client.consumer import Consumer, SeekTarget
from odradek.client.errors import (
    ClientClosedError,
    ConsumerBusyError,
    DeserializationError,
    InvalidOptionsError,
    NotAssignedError,
)
from odradek.protocol.errors import InvalidRequestError, UnknownTopicOrPartitionError
from odradek.protocol.record_batch import Codec
from tests.client.consumer_world import TIMEOUT_S, World, offsets, read, world

T0 = ("t", 0)
T1 = ("t", 1)


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_topics_without_a_group_are_read_whole_and_in_order(one: World) -> None:
    await one.topic(partitions=3, records=25)
    async with one.consumer("t") as consumer:
        records = await read(consumer, 75)
    for partition in range(3):
        found = [record for record in records if record.partition == partition]
        assert offsets(found) == list(range(25))
        assert [record.value for record in found] == [b"%d" % index for index in range(25)]


async def test_records_that_come_later_are_pushed(one: World) -> None:
    topic = await one.topic()
    async with one.consumer("t") as consumer:
        waiting = asyncio.ensure_future(anext(consumer))
        one.fill(topic, 0, 1)
        assert (await waiting).value == b"0"


async def test_partitions_added_later_are_read_from_their_start(one: World) -> None:
    topic = await one.topic(records=1)
    async with one.consumer("t", start="latest") as consumer:
        assert await consumer.position(T0) == 1
        one.add_partition(topic)
        one.fill(topic, 1, 3)
        assert offsets(await read(consumer, 3)) == [0, 1, 2]


async def test_unknown_topics_are_refused_at_once_with_near_names(one: World) -> None:
    await one.topic("positions")
    with pytest.raises(UnknownTopicOrPartitionError) as caught:
        await one.consumer("position").__aenter__()
    assert caught.value.suggestions == ("positions",)


@pytest.mark.parametrize(
    ("partition", "error"),
    [(("t", 1), "there is no 1"), (("t", -1), "there is no -1"), (("nope", 0), "unknown topic")],
)
async def test_unknown_partitions_are_refused(
    one: World, partition: tuple[str, int], error: str
) -> None:
    await one.topic()
    async with one.consumer() as consumer:
        with pytest.raises(UnknownTopicOrPartitionError, match=error):
            consumer.assign([partition])


async def test_assign_replaces_and_is_for_consumers_without_topics(one: World) -> None:
    await one.topic(partitions=2, records=10)
    async with one.consumer() as consumer:
        consumer.assign([T0])
        assert offsets(await read(consumer, 3)) == [0, 1, 2]
        consumer.assign([T1])
        assert {str(each) for each in consumer.assignment} == {"t-1"}
        assert [record.partition for record in await read(consumer, 10)] == [1] * 10
    async with one.consumer("t") as consumer:
        with pytest.raises(InvalidOptionsError):
            consumer.assign([T0])


async def test_keeping_a_partition_over_assign_keeps_its_position(one: World) -> None:
    await one.topic(partitions=2, records=10)
    async with one.consumer() as consumer:
        consumer.assign([T0])
        await read(consumer, 4)
        consumer.assign([T0, T1])
        found = await read(consumer, 16)
    assert [record.offset for record in found if record.partition == 0] == list(range(4, 10))


@pytest.mark.parametrize(
    ("to", "first"),
    [
        (17, 17),
        (True, 1),
        ("earliest", 0),
        (datetime.min, 0),  # noqa: DTZ901 as a person writes it
        (datetime.fromtimestamp(-1, UTC), 0),
        (timedelta.max, 0),
        (datetime.fromtimestamp(3, UTC), 20),
        (datetime.fromtimestamp(2.5, UTC), 20),
    ],
)
async def test_seek(one: World, to: SeekTarget, first: int) -> None:
    topic = await one.topic()
    for number in range(3):
        one.logs.append(topic, 0, [b"x"] * 10, timestamp_ms=1000 * (number + 1))
    async with one.consumer("t") as consumer:
        await read(consumer, 5)
        consumer.seek(T0, to)
        assert (await anext(consumer)).offset == first


async def test_seek_to_the_end_and_to_times_younger_than_every_record(one: World) -> None:
    topic = await one.topic(records=30)
    async with one.consumer("t") as consumer:
        for to in ("latest", timedelta(hours=1), datetime.max, timedelta.min):  # noqa: DTZ901
            consumer.seek(T0, to)
            assert await consumer.position(T0) == topic.partitions[0].end
            one.fill(topic, 0, 10)
            assert (await anext(consumer)).offset == topic.partitions[0].end - 10


async def test_a_seek_drops_what_was_fetched_before_it(one: World) -> None:
    await one.topic(records=1000)
    one.logs.push_bytes = 1
    async with one.consumer("t") as consumer:
        for target in (500, 3, 999, 0, 421):
            consumer.seek(T0, target)
            assert (await anext(consumer)).offset == target
            assert (await consumer.position(T0)) == target + 1


async def test_bad_seeks(one: World) -> None:
    await one.topic()
    async with one.consumer("t") as consumer:
        for offset in (-1, 2**63):
            with pytest.raises(InvalidRequestError, match=f"offset {offset} must be 0 to"):
                consumer.seek(T0, offset)
        for word in ("begin", "none", 1.5):
            with pytest.raises(InvalidRequestError, match="earliest"):
                consumer.seek(T0, cast("SeekTarget", word))
        with pytest.raises(NotAssignedError):
            consumer.seek(("t", 7), 0)


async def test_pause_holds_back_even_what_is_in_hand_already(one: World) -> None:
    await one.topic(partitions=2, records=50)
    async with one.consumer("t") as consumer:
        first = await anext(consumer)
        held = ("t", first.partition)
        consumer.pause(held)
        others = await read(consumer, 50)
        assert {record.partition for record in others} == {1 - first.partition}
        assert await consumer.position(held) == first.offset + 1
        consumer.resume(held)
        assert offsets(await read(consumer, 49)) == list(range(1, 50))


async def test_start_rules(one: World) -> None:
    topic = await one.topic(records=20)
    async with one.consumer("t", start="latest") as consumer:
        assert await consumer.position(T0) == 20
    async with one.consumer("t", start=timedelta(days=36500)) as consumer:
        assert await consumer.position(T0) == 0
    async with one.consumer("t", start=datetime(2100, 1, 1, tzinfo=UTC)) as consumer:
        assert await consumer.position(T0) == topic.partitions[0].end


async def test_cancelling_loses_nothing(one: World) -> None:
    topic = await one.topic()
    found: list[int] = []
    async with one.consumer("t") as consumer:
        while len(found) < 40:
            try:
                async with asyncio.timeout(0.001):
                    found.append((await anext(consumer)).offset)
            except TimeoutError:
                if topic.partitions[0].end < 40:
                    one.fill(topic, 0, 1)
    assert found == list(range(40))


async def test_cancelling_while_a_thread_decompresses_loses_nothing(one: World) -> None:
    topic = await one.topic()
    for _ in range(5):
        one.logs.append(topic, 0, [bytes(2000) + b"%d" % n for n in range(400)], codec=Codec.ZSTD)
        one.logs.append(topic, 0, [random_bytes(n) for n in range(400)], codec=Codec.ZSTD)
    found: list[int] = []
    async with one.consumer("t") as consumer:
        while len(found) < 4000:
            task = asyncio.ensure_future(anext(consumer))
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
            try:
                found.append((await task).offset)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
    assert found == list(range(4000))


def random_bytes(seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(2000)


async def test_two_tasks_cannot_iterate_at_once(one: World) -> None:
    await one.topic()
    async with one.consumer("t") as consumer:
        waiting = asyncio.ensure_future(anext(consumer))
        await asyncio.sleep(0)
        with pytest.raises(ConsumerBusyError):
            await anext(consumer)
        waiting.cancel()


async def test_a_record_that_does_not_deserialize_is_raised_until_it_is_skipped(one: World) -> None:
    topic = await one.topic()
    one.logs.append(topic, 0, [b"1", b"2", b"broken", b"4"])
    async with one.consumer("t", value=serdes.json) as consumer:
        assert [record.value for record in await read(consumer, 2)] == [1, 2]
        for _ in range(2):
            with pytest.raises(DeserializationError) as caught:
                await anext(consumer)
            assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, 2)
        assert await consumer.position(T0) == 2
        assert consumer.skip(caught.value)
        assert not consumer.skip(caught.value), "skipped once"
        assert (await anext(consumer)).value == 4


async def test_a_damaged_batch_is_refetched_then_reported(one: World) -> None:
    topic = await one.topic(records=20)
    topic.partitions[0].batches[1][70] ^= 1
    async with one.consumer("t") as consumer:
        assert offsets(await read(consumer, 10)) == list(range(10))
        with pytest.raises(Exception, match="CRC"):
            await anext(consumer)
        assert sum(1 for each in one.logs.subscribed if each.offset == 10) == 3
        consumer.seek(T0, 20)
        one.fill(topic, 0, 1)
        assert (await anext(consumer)).offset == 20


@pytest.mark.parametrize("codec", list(Codec))
async def test_batches(one: World, codec: Codec) -> None:
    topic = await one.topic(partitions=2)
    for index in range(2):
        for _ in range(3):
            one.logs.append(topic, index, [b"x" * 100] * 200, codec=codec)
    seen: dict[int, list[int]] = {0: [], 1: []}
    async with one.consumer("t") as consumer:
        async for batch in consumer.batches():
            assert len(batch) == len(list(batch)) > 0
            assert batch.end_offset == batch.records[-1].offset + 1
            seen[batch.partition] += offsets(batch)
            if sum(map(len, seen.values())) == 1200:
                break
    assert seen == {0: list(range(600)), 1: list(range(600))}


async def test_memory_is_bounded_while_the_application_dawdles(one: World) -> None:
    topic = await one.topic(partitions=4)
    for index in range(4):
        for _ in range(50):
            one.logs.append(topic, index, [bytes(1000)] * 50)
    window = 256 << 10
    async with one.consumer("t", partition_fetch_bytes=window, fetch_bytes=2 * window) as consumer:
        reader = consumer._inside.reader
        for count in range(10_000):
            await anext(consumer)
            if count % 100 == 0:
                assert reader.buffered_bytes() <= 2 * window + 4 * 55_000


async def test_a_batch_larger_than_the_window_comes_all_the_same(one: World) -> None:
    topic = await one.topic()
    for _ in range(5):
        one.logs.append(topic, 0, [b"small"])
        one.logs.append(topic, 0, [bytes(300_000)])
    async with one.consumer("t", partition_fetch_bytes=70_000, fetch_bytes=70_000) as consumer:
        assert offsets(await read(consumer, 10)) == list(range(10))


async def test_lag_in_records_and_seconds(one: World) -> None:
    topic = await one.topic()
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    for age_s in (100, 50, 0):
        one.logs.append(topic, 0, [b"x"] * 10, timestamp_ms=now_ms - age_s * 1000)
    async with one.consumer("t") as consumer:
        await read(consumer, 1)
        (lag,) = (await consumer.lag()).values()
        assert lag.records == 29
        assert lag.seconds is not None
        assert 99 < lag.seconds < 130
        await read(consumer, 29)
        (lag,) = (await consumer.lag()).values()
        assert (lag.records, lag.seconds) == (0, 0.0)


async def test_the_age_of_what_was_only_fetched_is_known(one: World) -> None:
    topic = await one.topic()
    made_ms = int(datetime.now(UTC).timestamp() * 1000) - 100_000
    one.logs.append(topic, 0, [b"old"], timestamp_ms=made_ms)
    async with one.consumer("t") as consumer, asyncio.timeout(TIMEOUT_S):
        await consumer.position(("t", 0))
        seconds = None
        while seconds is None:
            (lag,) = (await consumer.lag()).values()
            seconds = lag.seconds
        assert 99 < seconds < 130


async def first_raises(consumer: Consumer[bytes, bytes]) -> None:
    async for _ in consumer:
        raise RuntimeError


async def test_leaving_a_loop_early_begins_the_next_with_the_same_record(one: World) -> None:
    await one.topic(records=10)
    async with one.consumer("t") as consumer:
        async for record in consumer:
            if record.offset == 3:
                break
        async for record in consumer:
            assert record.offset == 3
            break
        with pytest.raises(RuntimeError):
            await first_raises(consumer)
        async for record in consumer:
            assert record.offset == 3
            if record.offset == 3:
                break
        async for batch in consumer.batches():
            assert offsets(batch) == list(range(3, 10))
            break


async def test_closing_ends_a_waiting_loop_and_refuses_what_comes_after(one: World) -> None:
    await one.topic(records=3)
    consumer = one.consumer("t")
    await consumer.__aenter__()
    third = asyncio.Event()

    async def loop() -> None:
        async for record in consumer:
            if record.offset == 2:
                third.set()

    looping = asyncio.ensure_future(loop())
    await third.wait()
    await asyncio.sleep(0)
    await consumer.close()
    await looping
    with pytest.raises(ClientClosedError):
        await consumer.commit()
    with pytest.raises(ClientClosedError):
        async for _ in consumer:
            pass


async def test_nothing_works_before_the_block_is_entered(one: World) -> None:
    await one.topic()
    consumer = one.consumer("t")
    with pytest.raises(ClientClosedError):
        consumer.seek(T0, 0)


async def test_commits_need_a_group(one: World) -> None:
    await one.topic(records=1)
    async with one.consumer("t") as consumer:
        await anext(consumer)
        with pytest.raises(InvalidRequestError):
            await consumer.commit()
        with pytest.raises(InvalidRequestError):
            await consumer.committed(T0)


async def test_a_deleted_topic_is_reported(one: World) -> None:
    await one.topic(records=1)
    async with one.consumer("t") as consumer:
        await anext(consumer)
        one.cluster.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError, match="deleted"):
            await anext(consumer)

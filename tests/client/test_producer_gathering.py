"""Records enqueued within one millisecond: each arrives as it was given, where it was said."""

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from odradek.client import Client, ClientClosedError, Header, producer, serdes
from odradek.client.errors import WrongEventLoopError
from odradek.client.producing import intake
from odradek.client.producing.delivery import Delivery
from tests.client.fake_node import FakeCluster
from tests.client.producing import producing

NOW_MS = 1_700_000_000_000


@dataclass
class Clock:
    """Stands still until it is moved."""

    now_ms: int = NOW_MS

    def time_ns(self) -> int:
        return self.now_ms * 1_000_000

    def monotonic(self) -> float:
        return self.now_ms / 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(intake, "time_ns", clock.time_ns)
    monkeypatch.setattr(intake, "monotonic", clock.monotonic)
    monkeypatch.setattr(producer, "monotonic", clock.monotonic)
    return clock


async def test_every_record_arrives_with_its_own_fields(cluster: FakeCluster, clock: Clock) -> None:
    topic = cluster.create_topic("t", partitions=2)
    headers: list[Header] = [("unit", b"m")]
    expected: list[tuple[int, bytes, int]] = []
    deliveries: list[Delivery] = []
    async with producing(cluster, linger_s=0.1) as it:

        async def enqueue(value: bytes, partition: int = 0, **options: Any) -> None:
            expected.append((partition, value, options.get("timestamp_ms", clock.now_ms)))
            if partition:
                options["partition"] = partition
            deliveries.append(await it.enqueue("t", value, **options))

        for number in range(5):
            await enqueue(b"%d" % number)
            await enqueue(b"as before")
            await enqueue(b"described", headers=headers)
            await enqueue(b"as before")
            await enqueue(b"dated", timestamp_ms=12)
            await enqueue(b"dated too", timestamp_ms=12)
            await enqueue(b"a moment after", timestamp_ms=13)
            await enqueue(b"as before")
            await enqueue(b"now, too", timestamp_ms=clock.now_ms)
            await enqueue(b"elsewhere", partition=1)
            await enqueue(b"elsewhere too", partition=1)
            await enqueue(b"as before")
            await enqueue(b"named", key=b"k", partition=1)
            clock.now_ms += number % 2
    logs = [partition.records() for partition in topic.partitions]
    for delivery, (partition, value, timestamp_ms) in zip(deliveries, expected, strict=True):
        ack = await delivery
        record = logs[ack.partition][ack.offset]
        assert (ack.partition, record.value, record.timestamp) == (partition, value, timestamp_ms)
        assert ack.timestamp_ms == timestamp_ms
        assert list(record.headers) == (headers if value == b"described" else [])
        assert record.key == (b"k" if value == b"named" else None)


async def test_a_timestamp_that_is_no_whole_number_is_refused_beside_its_equal(
    cluster: FakeCluster, clock: Clock
) -> None:
    topic = cluster.create_topic("t")
    async with producing(cluster, linger_s=0.1) as it:
        for _ in range(3):
            await it.enqueue("t", b"v", timestamp_ms=clock.now_ms)
        no_integer: Any = float(clock.now_ms)
        with pytest.raises(TypeError, match="whole milliseconds"):
            await it.enqueue("t", b"w", timestamp_ms=no_integer)
    assert topic.partitions[0].values() == [b"v"] * 3


async def test_a_flood_within_a_millisecond_fills_batch_after_batch(
    cluster: FakeCluster, clock: Clock
) -> None:
    topic = cluster.create_topic("t", partitions=2)
    values = [b"%04d" % number * 25 for number in range(400)]
    async with producing(cluster, batch_bytes=4096, buffer_bytes=16_384, linger_s=0.01) as it:
        deliveries = []
        for value in values:
            deliveries.append(await it.enqueue("t", value))
            assert it._core.ledger.used_bytes < 16_384 + 150, "one record more at most"
    logs = [partition.values() for partition in topic.partitions]
    found = [logs[ack.partition][ack.offset] for ack in [await each for each in deliveries]]
    assert found == values
    assert sum(map(len, logs)) == len(values)
    assert clock.now_ms == NOW_MS


async def test_many_partitions_share_the_buffer(cluster: FakeCluster, clock: Clock) -> None:
    cluster.create_topic("t", partitions=40)
    async with producing(cluster, batch_bytes=32_768, buffer_bytes=65_536, linger_s=5.0) as it:
        async with asyncio.timeout(2):
            for number in range(120):
                await it.enqueue("t", b"v", partition=number % 40)
        assert clock.now_ms == NOW_MS


async def test_another_thread_is_refused_within_the_same_millisecond(
    cluster: FakeCluster, clock: Clock
) -> None:
    cluster.create_topic("t")
    failures: list[BaseException] = []
    async with producing(cluster, linger_s=0.1) as it:
        for _ in range(3):
            await it.enqueue("t", b"v")

        def elsewhere() -> None:
            try:
                asyncio.run(it.enqueue("t", b"v"))
            except WrongEventLoopError as error:
                failures.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert len(failures) == 1
    assert clock.now_ms == NOW_MS


async def test_a_closed_producer_gathers_nothing(cluster: FakeCluster, clock: Clock) -> None:
    cluster.create_topic("t")
    async with Client(cluster.bootstrap) as client:
        async with client.producer(value=serdes.raw, linger_s=0.1) as it:
            for _ in range(3):
                await it.enqueue("t", b"v")
        with pytest.raises(ClientClosedError):
            await it.enqueue("t", b"v")
    assert clock.now_ms == NOW_MS

"""How many bytes and records a second go in and come out."""

import os
import time
from collections.abc import AsyncIterator

from bench.report import Figure, median_of
from bench.stage import MEGABYTE, PARTITIONS, Stage
from odradek.client import Client, Producer, serdes

KIB = 1024
_DISTINCT_VALUES = 1_000
_RECORDS = 5_000_000
_RUNS = 3
_CALL_BYTES = 50 * MEGABYTE  # a call of send_many returns when all of it is acknowledged


async def produce_kib_os(stage: Stage) -> AsyncIterator[Figure]:
    """1 GB of 1 KiB records, acknowledged from the page cache."""
    yield await _produce_bytes(stage, total_bytes=1_000 * MEGABYTE, flush="os", goal=220)


async def produce_kib_commit(stage: Stage) -> AsyncIterator[Figure]:
    """1 GB of 1 KiB records, acknowledged when fsynced."""
    yield await _produce_bytes(stage, total_bytes=1_000 * MEGABYTE, flush="commit", goal=220)


async def produce_sustained(stage: Stage) -> AsyncIterator[Figure]:
    """4 GB of 1 KiB records, acknowledged when fsynced."""
    yield await _produce_bytes(
        stage, total_bytes=4_000 * MEGABYTE, flush="commit", goal=180, runs=1
    )


async def produce_kib_replicated(stage: Stage) -> AsyncIterator[Figure]:
    """1 GB of 1 KiB records, acknowledged when fsynced on each of three nodes."""
    yield await _produce_bytes(stage, total_bytes=1_000 * MEGABYTE, flush="commit", goal=80)


async def produce_100_send_many(stage: Stage) -> AsyncIterator[Figure]:
    """100 B records, half a million a call."""
    for flush in ("os", "commit"):
        yield await _produce_records(stage, verb="send_many", flush=flush, goal=1_000_000)


async def produce_100_send(stage: Stage) -> AsyncIterator[Figure]:
    """100 B records, one a call."""
    for flush in ("os", "commit"):
        yield await _produce_records(stage, verb="send", flush=flush, goal=600_000)


async def consume_kib(stage: Stage) -> AsyncIterator[Figure]:
    """1 GB of 1 KiB records from the start, batch by batch and record by record, in turns."""
    values = random_values(KIB)
    rounds = max(1, int(1_000 * MEGABYTE * stage.scale) // (KIB * len(values)))
    total_bytes = rounds * len(values) * KIB
    readers = {"batch": (_read_batches, 550.0), "record": (_read_records, 380.0)}
    rates: dict[str, list[float]] = {how: [] for how in readers}
    async with stage.client() as client, stage.topic(client, flush="os") as topic:
        async with client.producer(key=serdes.raw, value=serdes.raw) as producer:
            await send_many(producer, topic, values, rounds)
        for _ in range(_RUNS):
            for how, (read, _goal) in readers.items():
                elapsed_s = await read(client, topic, total_bytes)
                rates[how].append(total_bytes / MEGABYTE / elapsed_s)
    for how, (_read, goal) in readers.items():
        yield median_of(rates[how], workload=f"consume 1 KiB per {how}", unit="MB/s", goal=goal)


async def _produce_bytes(
    stage: Stage, *, total_bytes: int, flush: str, goal: float, runs: int = _RUNS
) -> Figure:
    values = random_values(KIB)
    rounds = max(1, int(total_bytes * stage.scale) // (KIB * len(values)))
    async with (
        stage.client() as client,
        stage.topic(client, flush=flush) as topic,
        client.producer(key=serdes.raw, value=serdes.raw) as producer,
    ):
        await send_many(producer, topic, values, 1)  # connections, producer id
        seconds = [await send_many(producer, topic, values, rounds) for _ in range(runs)]
    produced = rounds * len(values) * KIB / MEGABYTE
    return median_of(
        (produced / elapsed_s for elapsed_s in seconds),
        workload=f"produce 1 KiB send_many flush={flush}, {produced / 1000:.1f} GB"
        f"{f', replication {stage.replication}' if stage.replication > 1 else ''}",
        unit="MB/s",
        goal=goal,
    )


async def _produce_records(stage: Stage, *, verb: str, flush: str, goal: float) -> Figure:
    values = random_values(100)
    rounds = max(1, int(_RECORDS * stage.scale) // len(values))
    send = send_many if verb == "send_many" else _send_each
    async with (
        stage.client() as client,
        stage.topic(client, flush=flush) as topic,
        client.producer(key=serdes.raw, value=serdes.raw) as producer,
    ):
        await send_many(producer, topic, values, 1)
        seconds = [await send(producer, topic, values, rounds) for _ in range(_RUNS)]
    return median_of(
        (rounds * len(values) / elapsed_s for elapsed_s in seconds),
        workload=f"produce 100 B {verb} flush={flush}",
        unit="records/s",
        goal=goal,
    )


async def send_many(
    producer: Producer[bytes, bytes],
    topic: str,
    values: list[bytes],
    rounds: int,
    keys: list[bytes] | None = None,
) -> float:
    """Send the values so many times; return the seconds until all are acknowledged."""
    started_s = time.perf_counter()
    for _ in range(rounds):
        await producer.send_many(topic, values, keys=keys)
    await producer.flush()
    return time.perf_counter() - started_s


async def _send_each(
    producer: Producer[bytes, bytes], topic: str, values: list[bytes], rounds: int
) -> float:
    started_s = time.perf_counter()
    enqueue = producer.enqueue
    for _ in range(rounds):
        for value in values:
            await enqueue(topic, value)
    await producer.flush()
    return time.perf_counter() - started_s


async def _read_batches(client: Client, topic: str, total_bytes: int) -> float:
    """Read so many bytes of values from the start; return the seconds."""
    started_s = time.perf_counter()
    read_bytes = 0
    async with client.consumer(key=serdes.raw, value=serdes.raw) as consumer:
        consumer.assign((topic, index) for index in range(PARTITIONS))
        async for batch in consumer.batches():
            for record in batch:
                read_bytes += len(record.value)
            if read_bytes >= total_bytes:
                break
    return time.perf_counter() - started_s


async def _read_records(client: Client, topic: str, total_bytes: int) -> float:
    """Read so many bytes of values from the start; return the seconds."""
    started_s = time.perf_counter()
    read_bytes = 0
    async with client.consumer(key=serdes.raw, value=serdes.raw) as consumer:
        consumer.assign((topic, index) for index in range(PARTITIONS))
        async for record in consumer:
            read_bytes += len(record.value)
            if read_bytes >= total_bytes:
                break
    return time.perf_counter() - started_s


def random_values(value_bytes: int) -> list[bytes]:
    """Return the values of one call, each of so many bytes, a thousand of them distinct."""
    distinct = [os.urandom(value_bytes) for _ in range(_DISTINCT_VALUES)]
    return distinct * (_CALL_BYTES // (value_bytes * _DISTINCT_VALUES))

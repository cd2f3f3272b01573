"""What every broker is asked to do, in the same words for all of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from bench.pacing import RATE, WARM_UP_RECORDS, age_s, paced, percentile_ms
from bench.peers.system import Durability, Stream
from bench.report import Figure
from bench.stage import MEGABYTE
from bench.throughput import KIB, random_values

Workload = Callable[[Stream, float], AsyncIterator[Figure]]

_KIB_RECORDS, _KIB_RECORDS_A_CALL = 400_000, 20_000
_SMALL_BYTES = 100
_SMALL_RECORDS, _SMALL_RECORDS_A_CALL = 2_000_000, 100_000
_LATENCY_S, _LATENCY_S_MIN = 6.0, 4.0
_WARM_UP_RECORDS = 2_000
_BUSY_S = 4.0  # who is busy for longer is asked for no further call


async def produce_kib(stream: Stream, scale: float) -> AsyncIterator[Figure]:
    """1 KiB records, many a call."""
    yield (await _produce_kib(stream, scale))[0]


async def produce_and_consume_kib(stream: Stream, scale: float) -> AsyncIterator[Figure]:
    """1 KiB records, many a call; then all of them from the start, one after the other."""
    figure, count = await _produce_kib(stream, scale)
    yield figure
    sizes_bytes: list[int] = []
    started_s = time.perf_counter()
    await stream.consume(count, lambda value: sizes_bytes.append(len(value)))
    elapsed_s = time.perf_counter() - started_s
    read_bytes = sum(sizes_bytes[:count])
    assert read_bytes == count * KIB, f"{count} records of 1 KiB gave {read_bytes} bytes"
    yield Figure(workload="consume 1 KiB", value=read_bytes / MEGABYTE / elapsed_s, unit="MB/s")


async def produce_small(stream: Stream, scale: float) -> AsyncIterator[Figure]:
    """100 B records, one a call."""
    total = int(_SMALL_RECORDS * scale)
    values = random_values(_SMALL_BYTES)[: min(total, _SMALL_RECORDS_A_CALL)]
    count, elapsed_s = await _produce(stream.produce_one_by_one, values, total)
    yield Figure(workload="produce 100 B one by one", value=count / elapsed_s, unit="records/s")


async def latency(stream: Stream, scale: float) -> AsyncIterator[Figure]:
    """From before a record is produced until the consumer holds it, at a steady rate."""
    count = int(RATE * max(_LATENCY_S_MIN, _LATENCY_S * scale))
    ages_s: list[float] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(stream.consume(count, lambda value: ages_s.append(age_s(value))))
        group.create_task(stream.produce_at_once(paced(count)))
    for percentile in (50, 99):
        yield Figure(
            workload=f"latency at {RATE:,}/s, p{percentile}",
            value=percentile_ms(ages_s[WARM_UP_RECORDS:], percentile),
            unit="ms",
            smaller_is_better=True,
        )


WORKLOADS: dict[Durability, tuple[Workload, ...]] = {
    Durability.CACHE: (produce_and_consume_kib, produce_small, latency),
    Durability.COMMIT: (produce_kib, produce_small, latency),
}


async def _produce_kib(stream: Stream, scale: float) -> tuple[Figure, int]:
    """Return the figure and how many records the stream holds."""
    total = int(_KIB_RECORDS * scale)
    values = random_values(KIB)[: min(total, _KIB_RECORDS_A_CALL)]
    count, elapsed_s = await _produce(stream.produce_many, values, total)
    produced = count * KIB / MEGABYTE
    figure = Figure(workload="produce 1 KiB", value=produced / elapsed_s, unit="MB/s")
    return figure, count + len(values[:_WARM_UP_RECORDS])


async def _produce(
    produce: Callable[[Sequence[bytes]], Awaitable[None]], values: Sequence[bytes], total: int
) -> tuple[int, float]:
    """Produce call by call; return how many records were acknowledged and the seconds it took."""
    await produce(values[:_WARM_UP_RECORDS])  # connections, buffers
    count = 0
    started_s = time.perf_counter()
    while count < total and time.perf_counter() - started_s < _BUSY_S:
        await produce(values)
        count += len(values)
    return count, time.perf_counter() - started_s

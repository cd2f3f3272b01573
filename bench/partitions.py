"""A thousand partitions beside six: how soon they serve, what they cost, how fast they fill.

Both topics lie on one cluster and are written to in turns, so that the ratio of a turn's two rates
does not depend on what the machine was doing in that minute.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from bench.lifecycle import at_rest
from bench.report import Figure, median_of
from bench.stage import MEGABYTE, PARTITIONS, Stage
from bench.throughput import KIB, random_values, send_many
from odradek.client import Client, Producer, serdes

_MANY = 1_000
_KEYS = 10_000
_TURNS = 3
_TURN_BYTES = 200 * MEGABYTE
_SETTLE_S = 3.0


async def a_thousand(stage: Stage) -> AsyncIterator[Figure]:
    """Create, rest, then produce 1 KiB records, without and with keys."""
    async with stage.client() as client, stage.topic(client) as few:
        started_s = time.perf_counter()
        async with stage.topic(client, partitions=_MANY) as many:
            await stage.in_sync(client, many)
            yield _created("led and in sync", time.perf_counter() - started_s)
            await _write_to_each(client, many)
            yield _created("each has acknowledged a record", time.perf_counter() - started_s)
            await asyncio.sleep(_SETTLE_S)
            async for figure in at_rest(
                stage, f"{_MANY:,} partitions", memory_mib=250, processor_percent=5
            ):
                yield figure
            async with client.producer(key=serdes.raw, value=serdes.raw) as producer:
                for keys, goal in ((0, 70.0), (_KEYS, None)):
                    for figure in await in_turns(
                        producer, many, few, scale=stage.scale, keys=keys, goal=goal
                    ):
                        yield figure


async def in_turns(
    producer: Producer[bytes, bytes],
    many: str,
    few: str,
    *,
    scale: float,
    keys: int,
    goal: float | None,
) -> list[Figure]:
    """Write to both topics turn by turn; return their rates, and one as a share of the other.

    Args:
        keys: How many distinct ones; 0: records have none.
        goal: Of the share, in per cent.
    """
    values = random_values(KIB)
    every_key = [b"key-%d" % (number % keys) for number in range(len(values))] if keys else None
    rounds = max(1, round(_TURN_BYTES * scale / (len(values) * KIB)))
    rates: dict[str, list[float]] = {many: [], few: []}
    for topic in rates:
        await send_many(producer, topic, values, 1, every_key)  # connections, sequences, hashes
    for _ in range(_TURNS):
        for topic, measured in rates.items():
            elapsed_s = await send_many(producer, topic, values, rounds, every_key)
            measured.append(rounds * len(values) * KIB / MEGABYTE / elapsed_s)
    what = f"produce 1 KiB send_many, {f'{keys:,} keys' if keys else 'no keys'}"
    return [
        median_of(rates[many], workload=f"{what}, {_MANY:,} partitions", unit="MB/s"),
        median_of(rates[few], workload=f"{what}, {PARTITIONS} partitions", unit="MB/s"),
        median_of(
            (100 * a / b for a, b in zip(rates[many], rates[few], strict=True)),
            workload=f"{what}, {_MANY:,} partitions beside {PARTITIONS}",
            unit="%",
            goal=goal,
        ),
    ]


async def _write_to_each(client: Client, topic: str) -> None:
    async with client.producer(key=serdes.raw, value=serdes.raw) as producer:
        for partition in range(_MANY):
            await producer.enqueue(topic, b"", partition=partition)
        await producer.flush()


def _created(what: str, elapsed_s: float) -> Figure:
    return Figure(
        workload=f"create {_MANY:,} partitions until {what}",
        value=elapsed_s,
        unit="s",
        goal=10.0,
        smaller_is_better=True,
    )

"""`odradek bench`: what this machine gets out of this cluster, in a few seconds.

A temporary topic is filled as fast as it goes, then read from the start; the first figure says what
one producer reaches, the second what one consumer reaches. `make bench` measures far more.
"""

import os
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.progress import Progress

from odradek.client import Client, Compression
from odradek.client.cli import output, session
from odradek.client.cli.exits import EXIT_CODES_HELP, ExitCode

app = session.new_app()

_MEGABYTE = 1_000_000
_CALL_BYTES = 32 * _MEGABYTE  # one call returns when all of it is acknowledged


@dataclass(frozen=True, slots=True)
class _Measured:
    """One direction.

    Attributes:
        direction: `produce` or `consume`.
        records: How many.
        seconds: In what time.
        records_per_s: The rate.
        megabytes_per_s: The rate of values.
    """

    direction: str
    records: int
    seconds: float
    records_per_s: float
    megabytes_per_s: float


@dataclass(frozen=True, slots=True)
class _Load:
    """What is produced and consumed.

    Attributes:
        topic: Where.
        partitions: In how many partitions.
        records: How many.
        value_bytes: How large each.
        compression: How batches are compressed.
    """

    topic: str
    partitions: int
    records: int
    value_bytes: int
    compression: Compression

    def measured(self, direction: str, seconds: float) -> _Measured:
        """Return the rates of one direction."""
        megabytes = self.records * self.value_bytes / _MEGABYTE
        return _Measured(
            direction, self.records, seconds, self.records / seconds, megabytes / seconds
        )


@app.command(epilog=EXIT_CODES_HELP)
def bench(
    *,
    records: Annotated[int, typer.Option(min=1, help="How many.")] = 200_000,
    size: Annotated[int, typer.Option(min=1, max=1_000_000, help="Bytes of each value.")] = 1024,
    partitions: Annotated[int, typer.Option("--partitions", "-p", min=1)] = 6,
    flush: Annotated[
        str, typer.Option(help="commit: acknowledged when fsynced; os: in the page cache.")
    ] = "commit",
    compression: Annotated[Compression, typer.Option(help="How to compress.")] = Compression.NONE,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Fill a temporary topic as fast as it goes, then read it; the topic is deleted afterwards."""

    async def action(client: Client) -> list[_Measured] | None:
        async with session.interruption() as heard:
            topic = f"odradek-bench-{uuid.uuid4().hex[:8]}"
            await client.admin.create_topic(topic, partitions=partitions, config={"flush": flush})
            try:
                load = _Load(topic, partitions, records, size, compression)
                return await session.unless_interrupted(heard, _measure(client, load))
            finally:
                await client.admin.delete_topic(topic)

    measured = session.with_client(bootstrap, action)
    if measured is None:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if as_json:
        output.print_json([asdict(each) for each in measured])
        return
    output.print_table(
        {"": False, "records": True, "seconds": True, "records/s": True, "MB/s": True},
        (
            (
                each.direction,
                f"{each.records:,}",
                f"{each.seconds:.2f}",
                f"{each.records_per_s:,.0f}",
                f"{each.megabytes_per_s:,.1f}",
            )
            for each in measured
        ),
    )


async def _measure(client: Client, load: _Load) -> list[_Measured]:
    with output.progress() as progress:
        return [
            await _produce(client, load, progress),
            await _consume(client, load, progress),
        ]


async def _produce(client: Client, load: _Load, progress: Progress) -> _Measured:
    values = [os.urandom(load.value_bytes) for _ in range(max(1, _CALL_BYTES // load.value_bytes))]
    task = progress.add_task("produce", total=load.records, rate="")
    async with client.producer(compression=load.compression) as producer:
        await producer.send_many(load.topic, values[:1])  # connections and the producer id
        started_s = time.perf_counter()
        sent = 1
        while sent < load.records:
            block = values[: load.records - sent]
            await producer.send_many(load.topic, block)
            sent += len(block)
            progress.update(task, completed=sent)
    return load.measured("produce", time.perf_counter() - started_s)


async def _consume(client: Client, load: _Load, progress: Progress) -> _Measured:
    task = progress.add_task("consume", total=load.records, rate="")
    started_s = time.perf_counter()
    read = 0
    async with client.consumer() as consumer:
        consumer.assign((load.topic, index) for index in range(load.partitions))
        async for batch in consumer.batches():
            read += len(batch)
            progress.update(task, completed=read)
            if read >= load.records:
                break
    return load.measured("consume", time.perf_counter() - started_s)

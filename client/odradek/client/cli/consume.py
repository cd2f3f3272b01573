"""`odradek consume`: show records as they come, alone or as a member of a group."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import typer

from odradek.client import Client, Consumer, TopicPartition, serdes
from odradek.client.cli import output, session
from odradek.client.cli.exits import EXIT_CODES_HELP, ExitCode
from odradek.client.cli.record_format import Render, compile_format
from odradek.client.cli.start_position import StartPosition, parse_start

app = session.new_app()

_POLL_INTERVAL_S = 0.05
_POLL_COMMITTED_INTERVAL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is to be shown.

    Attributes:
        topic: Of which topic.
        group: Shared with whom; None: alone, and nothing is committed.
        start: From where.
        partitions: Which; empty: all, or those the group gives.
        render: How a record becomes a line.
        count_max: How many; None: no limit.
        exit_at_end: End once everything that was there at the beginning was shown, here or, where
            others of the group have every partition, by them.
    """

    topic: str
    group: str | None
    start: StartPosition
    partitions: tuple[int, ...]
    render: Render
    count_max: int | None
    exit_at_end: bool


@app.command(epilog=EXIT_CODES_HELP)
def consume(
    topic: Annotated[
        str, typer.Argument(metavar="TOPIC", show_default=False, help="An existing topic.")
    ],
    *,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", "-g", help="Read as a member of this group, and commit. Default: alone."
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="PLACE",
            help="earliest, latest, an offset, a time (2026-01-31T12:00), or an age (-1h). A group"
            " that has committed goes on from there instead.",
        ),
    ] = "earliest",
    partition: Annotated[
        list[int] | None,
        typer.Option("--partition", "-p", min=0, help="Only this one; may be repeated."),
    ] = None,
    template: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help="json, or text with {topic} {partition} {offset} {timestamp} {timestamp_ms} {key}"
            r" {value} {headers} and \t \n.",
        ),
    ] = "{value}",
    count_max: Annotated[
        int | None, typer.Option("--max", "-n", min=1, help="Leave after so many records.")
    ] = None,
    exit_at_end: Annotated[
        bool,
        typer.Option("--exit-at-end", help="Leave once all that is there now was shown."),
    ] = False,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Show the records of a topic, a line each, as they come. Ctrl-C leaves."""
    request = _Request(
        topic=topic,
        group=group,
        start=session.checked(lambda: parse_start(start)),
        partitions=tuple(partition or ()),
        render=session.checked(lambda: compile_format("json" if as_json else template)),
        count_max=count_max,
        exit_at_end=exit_at_end,
    )
    if group is not None and partition:
        raise typer.BadParameter("a group shares out partitions itself; leave out one of the two")
    if group is not None and isinstance(request.start, int):
        raise typer.BadParameter(
            "a group goes on from what it committed; move that with: odradek groups reset-offsets",
            param_hint="--from",
        )
    interrupted = session.with_client(bootstrap, lambda client: _consume(client, request))
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)


async def _consume(client: Client, request: _Request) -> bool:
    """Show records; return whether Ctrl-C ended it."""
    # Named partitions are read as they are; of a topic, also those that are added later.
    topics = [] if request.partitions else [request.topic]
    start = "earliest" if isinstance(request.start, int) else request.start
    async with session.interruption() as heard:
        ends = await _ends(client, request.topic) if request.exit_at_end else {}
        async with client.consumer(
            *topics, group=request.group, start=start, key=serdes.raw, value=serdes.raw
        ) as consumer:
            if request.partitions:
                consumer.assign((request.topic, index) for index in request.partitions)
            if isinstance(request.start, int):
                await _seek(client, consumer, request.topic, request.start)
            writing = asyncio.Lock()
            show = _show if request.count_max is None else _show_some
            work = [show(consumer, request, writing)]
            if request.exit_at_end:
                work.append(_reach(consumer, ends, writing))
                if request.group is not None:
                    work.append(_others_reach(client, consumer, request.group, ends))
            await session.unless_interrupted(heard, *work)
        return heard.is_heard


async def _ends(client: Client, topic: str) -> dict[TopicPartition, int]:
    """Return where the logs that hold something end."""
    begins = await client.admin.list_offsets(topic, "earliest")
    ends = await client.admin.list_offsets(topic)
    return {each: end for each, end in ends.items() if end > begins.get(each, 0)}


async def _seek(client: Client, consumer: Consumer[bytes, bytes], topic: str, offset: int) -> None:
    """Begin at an offset. Partitions differ in length: a shorter one begins at its end."""
    indexes = [each.partition for each in consumer.assignment]
    earliest = await client.admin.list_offsets(topic, "earliest", partitions=indexes)
    latest = await client.admin.list_offsets(topic, "latest", partitions=indexes)
    for partition, end in latest.items():
        consumer.seek(partition, max(earliest[partition], min(offset, end)))


async def _show(consumer: Consumer[bytes, bytes], request: _Request, writing: asyncio.Lock) -> None:
    """Show every record; a terminal that dawdles (`less`) does not stop the heartbeats."""
    async for batch in consumer.batches():
        async with writing:
            lines = b"".join([request.render(record) for record in batch])
            await output.write_bytes(lines)


async def _show_some(
    consumer: Consumer[bytes, bytes], request: _Request, writing: asyncio.Lock
) -> None:
    """Show so many records, and commit exactly these."""
    shown = 0
    async for record in consumer:
        async with writing:
            await output.write_bytes(request.render(record))
        shown += 1
        if shown == request.count_max:
            break
    if request.group is not None:
        await consumer.commit()


async def _reach(
    consumer: Consumer[bytes, bytes], ends: Mapping[TopicPartition, int], writing: asyncio.Lock
) -> None:
    """Return once every assigned partition was shown up to where its log ended."""
    while True:
        positions = [
            (await consumer.position(each), ends.get(each, 0))
            for each in sorted(consumer.assignment)
        ]
        if positions and all(position >= end for position, end in positions):
            async with writing:  # the position is beyond what is in hand
                return
        await asyncio.sleep(_POLL_INTERVAL_S)


async def _others_reach(
    client: Client,
    consumer: Consumer[bytes, bytes],
    group: str,
    ends: Mapping[TopicPartition, int],
) -> None:
    """Return once the group has committed everything while this member has no partition."""
    while True:
        if not consumer.assignment:
            committed = await client.admin.committed_offsets(group)
            reached = (
                each in committed and committed[each].offset >= end for each, end in ends.items()
            )
            if all(reached) and not consumer.assignment:
                return
        await asyncio.sleep(_POLL_COMMITTED_INTERVAL_S)

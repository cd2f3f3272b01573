"""`odradek produce`: lines of files or standard input become records."""

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import Progress, TaskID

from odradek.client import Client, Compression, Producer, serdes
from odradek.client.cli import output, session
from odradek.client.cli.exits import EXIT_CODES_HELP, ExitCode
from odradek.client.cli.line_reader import Block, read_lines
from odradek.client.cli.record_format import FormatError, parse_headers, parse_line

app = session.new_app()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """How lines become records.

    Attributes:
        topic: Where they go.
        separator: Between key and value; None: the line is the value.
        key: The key of every record without one of its own.
        headers: Of every record.
        partition: None: by key, or in turn.
    """

    topic: str
    separator: bytes | None
    key: bytes | None
    headers: dict[str, bytes]
    partition: int | None


@app.command(epilog=EXIT_CODES_HELP)
def produce(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="An existing topic.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Files to send; none: standard input.",
        ),
    ] = None,
    *,
    key_separator: Annotated[
        str | None,
        typer.Option(
            "--key-separator", "-s", help="Text between key and value, such as ':'. None: no keys."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="One key for all records.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header; may be repeated."),
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, help="One partition for all. Default: by key, or in turn.")
    ] = None,
    compression: Annotated[Compression, typer.Option(help="How to compress.")] = Compression.NONE,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Send lines, one record each; return once all of them are acknowledged.

    Ctrl-C stops reading, waits for what was sent, and leaves.
    """
    if key_separator is not None and (key is not None or not key_separator):
        raise typer.BadParameter(
            "give a text of at least one character, and no --key beside it",
            param_hint="--key-separator",
        )
    lines = _Lines(
        topic=topic,
        separator=key_separator.encode() if key_separator else None,
        key=key.encode() if key is not None else None,
        headers=session.checked(lambda: parse_headers(header or [])),
        partition=partition,
    )
    sent, interrupted = session.with_client(
        bootstrap, lambda client: _produce(client, lines, files or [], compression)
    )
    if as_json:
        output.print_json({"topic": topic, "records": sent, "interrupted": interrupted})
    else:
        output.note(f"{output.count_of(sent, 'record')} acknowledged")
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)


async def _produce(
    client: Client, lines: _Lines, files: list[Path], compression: Compression
) -> tuple[int, bool]:
    """Return how many records were acknowledged, and whether Ctrl-C came first."""
    async with (
        session.interruption() as heard,
        client.producer(key=serdes.raw, value=serdes.raw, compression=compression) as producer,
    ):
        await client.admin.describe_topic(lines.topic)  # a mistyped name is told before any typing
        sender = _Sender(producer, lines)
        reading = _read_files(sender, files) if files else _read_standard_input(sender)
        try:
            await session.unless_interrupted(heard, reading)
        except FormatError:
            await producer.flush()
            output.note(f"{output.count_of(sender.sent, 'record')} before it acknowledged")
            raise
        await producer.flush()
        return sender.sent, heard.is_heard


class _Sender:
    """Sends blocks of lines and counts them."""

    def __init__(self, producer: Producer[bytes, bytes], lines: _Lines) -> None:
        self._producer = producer
        self._lines = lines
        self._source = ""
        self._sent_before = 0
        self.sent = 0

    def begin(self, source: str) -> None:
        """Begin with a file; its lines count from 1."""
        self._source = f"{source}, "
        self._sent_before = self.sent

    async def send(self, block: Block) -> None:
        """Enqueue every line; waits while the producer's buffer is full.

        Raises:
            FormatError: A line lacks the separator; those before it are on their way.
        """
        lines = self._lines
        for line in block:
            number = self.sent - self._sent_before + 1
            record = parse_line(
                line, separator=lines.separator, place=f"{self._source}line {number}"
            )
            await self._producer.enqueue(
                lines.topic,
                record.value,
                key=lines.key if record.key is None else record.key,
                headers=lines.headers,
                partition=lines.partition,
            )
            self.sent += 1


async def _read_standard_input(sender: _Sender) -> None:
    if sys.stdin.isatty():
        output.note("One record a line; Ctrl-D ends, Ctrl-C leaves.")
    async for block in read_lines(sys.stdin.fileno()):
        await sender.send(block)


async def _read_files(sender: _Sender, files: list[Path]) -> None:
    with ExitStack() as opened, output.progress() as progress:
        for path in files:
            file = opened.enter_context(path.open("rb", buffering=0))
            sender.begin(str(path))
            task = progress.add_task(path.name, total=path.stat().st_size, rate="")
            async for block in _with_progress(file, progress, task):
                await sender.send(block)


async def _with_progress(file: BinaryIO, progress: Progress, task: TaskID) -> AsyncIterator[Block]:
    async for block in read_lines(file.fileno()):
        yield block
        progress.update(task, advance=sum(map(len, block)) + len(block))

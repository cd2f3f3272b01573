"""What commands print: tables for people, JSON for machines, messages on standard error.

Rich drops colours by itself when NO_COLOR is set or the output is not a terminal; in a pipe tables
are as wide as they need to be, so that `grep` and `cut` see whole lines.
"""

import asyncio
import errno
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TextIO

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from odradek.client.cli.exits import ExitCode

_PIPE_COLUMNS = 1_000_000


def err() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Lend standard output for one writing; whoever cannot write to it has no more to do.

    Raises:
        typer.Exit: Its reader has gone, as `head` does; or it is full or closed, which is told.
    """
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")  # noqa: TRY301 - told as all others are
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        raise typer.Exit(give_up_writing(error)) from error


def give_up_writing(error: OSError) -> ExitCode:
    """Let nothing more reach standard output, which cannot be written to; return the status."""
    if sys.stdout is not None:  # what its buffer still holds goes nowhere either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return ExitCode.OK
    failure(f"cannot write to standard output: {error.strerror}")
    return ExitCode.FAILURE


def show(result: RenderableType) -> None:
    """Print a result for people."""
    with _standard_output() as out:
        width = None if out.isatty() else _PIPE_COLUMNS
        console = Console(width=width, highlight=False, soft_wrap=True)
        with console.capture() as rendered:
            console.print(result)
        out.write(rendered.get())


def print_json(value: object) -> None:
    """Print one JSON document."""
    with _standard_output() as out:
        out.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(
    columns: Mapping[str, bool], rows: Iterable[Sequence[object]], *, empty: str = ""
) -> None:
    """Print rows under headings.

    Args:
        columns: Heading -> whether it holds numbers (right-justified).
        rows: One cell a column.
        empty: What to say, on standard error, when there are no rows.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading, is_number in columns.items():
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    if table.row_count:
        show(table)
    elif empty:
        note(empty)


def note(message: str) -> None:
    """Say something that is not a command's result."""
    err().print(Text(message, style="dim"))


def failure(message: str, *, advice: str = "") -> None:
    """Say what went wrong and what to do next."""
    err().print(Text.assemble(("error: ", "bold red"), message))
    if advice:
        err().print(Text(f"  {advice}"))


def progress() -> Progress:
    """Return a progress bar on standard error; silent when that is not a terminal."""
    console = err()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


async def write_bytes(data: bytes) -> None:
    """Write to standard output at once, in a thread: whoever reads it may dawdle, as `less` does.

    Cancelled, it leaves the thread behind, which keeps neither the loop nor the process from
    ending: it is a daemon, and holds no lock of standard output, which the interpreter asks for.
    """
    written: Future[None] = Future()
    written.set_running_or_notify_cancel()

    def write() -> None:
        try:
            with _standard_output() as out:
                left = memoryview(data)
                while left:
                    left = left[os.write(out.fileno(), left) :]
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            written.set_exception(error)
        else:
            written.set_result(None)

    threading.Thread(target=write, name="line-writer", daemon=True).start()
    await asyncio.wrap_future(written)


def count_of(number: int, noun: str) -> str:
    """Return `1 record`, `2,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

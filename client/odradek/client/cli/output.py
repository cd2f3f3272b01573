"""What commands print: tables for people, JSON for machines, messages on standard error.

Rich drops colours by itself when NO_COLOR is set or the output is not a terminal; in a pipe tables
are as wide as they need to be, so that `grep` and `cut` see whole lines.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_PIPE_COLUMNS = 1_000_000


def out() -> Console:
    """Return the console of standard output."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else _PIPE_COLUMNS, highlight=False, soft_wrap=True)


def err() -> Console:
    """Return the console of standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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
        out().print(table)
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


def write_bytes(data: bytes) -> None:
    """Write to standard output at once.

    Raises:
        BrokenPipeError: The reader has gone, as `head` does.
    """
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def silence() -> None:
    """Let nothing more reach a standard output whose reader has gone, the exit's flush included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def count_of(number: int, noun: str) -> str:
    """Return `1 record`, `2,000 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

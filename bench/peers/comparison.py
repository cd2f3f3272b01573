"""Everyone takes turns: for each workload round after round, for each round every broker."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.peers.system import Broker, Durability, System
from bench.peers.workloads import WORKLOADS, Workload
from bench.report import Figure, number

ROUNDS = 2
_TURN_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Figure):
    """One measured number of one broker.

    Attributes:
        system: Whose.
        version: Of which server and client.
        durability: What its acknowledgements promised.
        settings: What was not as by default.
        round: In which round, from 1.
    """

    system: str
    version: str
    durability: str
    settings: str
    round: int


async def compare(
    systems: Sequence[System],
    scale: float,
    console: Console,
    workloads: Mapping[Durability, Sequence[Workload]] = WORKLOADS,
) -> AsyncGenerator[Measured, None]:
    """Measure every system in everything that it offers; say and yield each figure at once."""
    versions = {system: system.version() for system in systems}
    for durability in Durability:
        taking_part = [system for system in systems if durability in system.settings]
        async with AsyncExitStack() as servers:
            brokers = []
            for system in taking_part:
                made = servers.enter_context(tempfile.TemporaryDirectory(prefix="peers-"))
                serving = system.serve(durability, Path(made))
                brokers.append(await servers.enter_async_context(serving))
            for workload in workloads[durability]:
                for turn in range(1, ROUNDS + 1):
                    for system, broker in zip(taking_part, brokers, strict=True):
                        for figure in await _turn(system, broker, workload, scale, console):
                            result = Measured(
                                **asdict(figure),
                                system=system.name,
                                version=versions[system],
                                durability=durability.value,
                                settings=system.settings[durability],
                                round=turn,
                            )
                            console.print(_line(result))
                            yield result


async def _turn(
    system: System, broker: Broker, workload: Workload, scale: float, console: Console
) -> list[Figure]:
    figures: list[Figure] = []
    try:
        async with asyncio.timeout(_TURN_TIMEOUT_S), broker.stream() as stream:
            async for figure in workload(stream, scale):
                figures.append(figure)  # noqa: PERF401 - what was measured before a time-out stays
    except TimeoutError:
        console.print(f"{system.name}: {workload.__name__} not done in {_TURN_TIMEOUT_S:g} s")
    return figures


def table(measured: Iterable[Measured], systems: Sequence[System]) -> Table:
    """Lay the figures side by side: a row for each workload, a column for each broker."""
    laid = Table("workload", "unit", title="Side by side")
    for system in systems:
        laid.add_column(system.name, justify="right")
    for (workload, durability, unit), figures in _rows(measured):
        cells = [
            " / ".join(number(each.value) for each in figures if each.system == system.name)
            for system in systems
        ]
        laid.add_row(f"{workload}, {durability}", unit, *(cell or "-" for cell in cells))
    return laid


def _rows(
    measured: Iterable[Measured],
) -> Iterator[tuple[tuple[str, str, str], list[Measured]]]:
    order = list(dict.fromkeys(_row(each) for each in measured))
    in_order = sorted(measured, key=lambda each: order.index(_row(each)))
    for row, figures in groupby(in_order, key=_row):
        yield row, list(figures)


def _row(figure: Measured) -> tuple[str, str, str]:
    return figure.workload, figure.durability, figure.unit


def _line(figure: Measured) -> str:
    what = f"{figure.workload}, {figure.durability}"
    return f"{what}: {figure.system} {number(figure.value)} {figure.unit}"

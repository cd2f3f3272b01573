"""Everyone takes turns: for each workload round after round, for each round every broker."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.peers.system import Broker, Durability, System
from bench.peers.workloads import WORKLOADS, Workload
from bench.report import Figure, number

ROUNDS = 2
_TURN_TIMEOUT_S = 90.0
_START = "start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Figure):
    """One measured number of one broker.

    Attributes:
        system: Whose.
        version: Of which server and client.
        durability: What its acknowledgements promised.
        settings: What was not as by default.
        task: As part of what it was measured: the name of a workload function.
        round: In which round, from 1.
    """

    system: str
    version: str
    durability: str
    settings: str
    task: str
    round: int

    def __str__(self) -> str:
        figure = f"{self.system} {number(self.value)} {self.unit}"
        return f"{self.workload}, {self.durability}: {figure}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A turn that gave less than it should have.

    Attributes:
        system: Whose.
        durability: What its acknowledgements were to promise.
        task: What it was asked to do; "start" when its server did not come up.
        round: In which round, from 1; 0 when its server did not come up.
        reason: What its client raised, or the end of its server's log.
    """

    system: str
    durability: str
    task: str
    round: int
    reason: str

    def __str__(self) -> str:
        return f"{self.system}, {self.durability}: {self.task} failed: {self.reason}"


async def compare(
    systems: Sequence[System],
    scale: float,
    console: Console,
    workloads: Mapping[Durability, Sequence[Workload]] = WORKLOADS,
) -> AsyncGenerator[Measured | Failed, None]:
    """Measure every system in everything that it offers; say and yield each figure at once.

    A client's error ends its turn, a server's its part; the others go on.
    """
    for durability in Durability:
        async with AsyncExitStack() as servers:
            brokers: list[_Running] = []
            for system in (each for each in systems if durability in each.settings):
                served = await _served(servers, system, durability)
                if isinstance(served, Failed):
                    console.print(str(served), style="red")
                    yield served
                else:
                    brokers.append(served)
            for workload in workloads[durability]:
                for turn in range(1, ROUNDS + 1):
                    for broker in brokers:
                        for result in await _turn(broker, workload, scale, turn):
                            failed = isinstance(result, Failed)
                            console.print(str(result), style="red" if failed else None)
                            yield result


@dataclass(frozen=True, slots=True)
class _Running:
    system: System
    version: str
    durability: Durability
    broker: Broker


async def _served(
    servers: AsyncExitStack, system: System, durability: Durability
) -> _Running | Failed:
    """Start a system's server."""
    made = servers.enter_context(tempfile.TemporaryDirectory(prefix="peers-"))
    try:
        broker = await servers.enter_async_context(system.serve(durability, Path(made)))
        return _Running(system, system.version(), durability, broker)
    except Exception as error:  # noqa: BLE001 of any library; told, and the comparison fails
        return Failed(
            system=system.name,
            durability=durability.value,
            task=_START,
            round=0,
            reason=_reason(error),
        )


async def _turn(
    running: _Running, workload: Workload, scale: float, turn: int
) -> list[Measured | Failed]:
    """Have one broker do one task; return its figures, and why there are no more of them."""
    system, durability = running.system, running.durability
    results: list[Measured | Failed] = []
    try:
        async with asyncio.timeout(_TURN_TIMEOUT_S) as patience, running.broker.stream() as stream:
            async for figure in workload(stream, scale):
                results.append(  # noqa: PERF401 - what was measured before an error stays
                    Measured(
                        **asdict(figure),
                        system=system.name,
                        version=running.version,
                        durability=durability.value,
                        settings=system.settings[durability],
                        task=workload.__name__,
                        round=turn,
                    )
                )
    except Exception as error:  # noqa: BLE001 of any library; told, and the comparison fails
        late = f"not done in {_TURN_TIMEOUT_S:g} s"
        results.append(
            Failed(
                system=system.name,
                durability=durability.value,
                task=workload.__name__,
                round=turn,
                reason=late if patience.expired() else _reason(error),
            )
        )
    return results


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def table(results: Iterable[Measured | Failed], systems: Sequence[System]) -> Table:
    """Lay the figures side by side: a row for each workload, a column for each broker."""
    measured: dict[_Row, list[Measured]] = {}
    failed: dict[tuple[str, str, str], list[Failed]] = {}
    for each in results:
        if isinstance(each, Measured):
            row = _Row(each.workload, each.durability, each.unit, each.task)
            measured.setdefault(row, []).append(each)
        else:
            failed.setdefault((each.system, each.durability, each.task), []).append(each)
    laid = Table("workload", "unit", title="Side by side")
    for system in systems:
        laid.add_column(system.name, justify="right")
    for row, figures in measured.items():
        cells = []
        for system in systems:
            rounds = {
                each.round: number(each.value) for each in figures if each.system == system.name
            }
            for task in (_START, row.task):
                for each in failed.get((system.name, row.durability, task), ()):
                    rounds.setdefault(each.round, "failed")
            cells.append(" / ".join(rounds[turn] for turn in sorted(rounds)) or "-")
        laid.add_row(f"{row.workload}, {row.durability}", row.unit, *cells)
    return laid


class _Row(NamedTuple):
    workload: str
    durability: str
    unit: str
    task: str

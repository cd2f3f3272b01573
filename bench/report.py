"""What was measured, on which machine, against which goal: a table for people, JSON for later."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("odradek", "grpcio", "rocksdict", "aiokafka", "uvloop", "protobuf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        workload: What was done.
        value: The number.
        unit: Its unit.
        goal: What it should reach; None when it only informs.
        smaller_is_better: True for times and sizes.
        runs: What it is the median of; empty when it was measured once.
    """

    workload: str
    value: float
    unit: str
    goal: float | None = None
    smaller_is_better: bool = False
    runs: tuple[float, ...] = ()

    @property
    def reaches_goal(self) -> bool:
        """Whether the goal is reached."""
        if self.goal is None:
            return True
        return self.value <= self.goal if self.smaller_is_better else self.value >= self.goal

    @property
    def span(self) -> str:
        """From the least to the most of its runs, as people read it; empty without runs."""
        return f"{number(min(self.runs))} to {number(max(self.runs))}" if self.runs else ""


def median_of(
    runs: Iterable[float],
    *,
    workload: str,
    unit: str,
    goal: float | None = None,
    smaller_is_better: bool = False,
) -> Figure:
    """Return the figure of something that was measured several times."""
    runs = tuple(runs)
    return Figure(
        workload=workload,
        value=statistics.median(runs),
        unit=unit,
        goal=goal,
        smaller_is_better=smaller_is_better,
        runs=runs if len(runs) > 1 else (),
    )


def show(figures: Iterable[Figure]) -> None:
    """Print the table."""
    table = Table("workload", title="Odradek bench")
    for heading in ("measured", "runs", "goal", "unit"):
        table.add_column(heading, justify="right" if heading != "unit" else "left")
    for figure in figures:
        style = "green" if figure.reaches_goal and figure.goal is not None else ""
        table.add_row(
            figure.workload,
            number(figure.value),
            figure.span,
            "" if figure.goal is None else _goal(figure),
            figure.unit,
            style=style if figure.reaches_goal else "yellow",
        )
    Console().print(table)


def save(figures: Sequence[Figure], **more: object) -> Path:
    """Write what `as_json` returns; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(as_json(figures, **more) + "\n")
    return path


def as_json(figures: Sequence[Figure], **more: object) -> str:
    """Return the figures, with the time, the machine they were measured on, and what is added."""
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "figures": [asdict(figure) for figure in figures],
        **more,
    }
    return json.dumps(document, indent=2)


def machine() -> dict[str, object]:
    """Describe where the measuring takes place."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": sys.version,  # with its build: one without profile guidance is slower by a sixth
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _goal(figure: Figure) -> str:
    assert figure.goal is not None, "asked only when there is one"
    return f"{'<=' if figure.smaller_is_better else '>='} {number(figure.goal)}"


def number(value: float) -> str:
    """Return a figure as people read it: three digits are enough."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

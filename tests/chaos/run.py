# ruff: noqa: T201 - a program that prints
"""Faults against a real cluster under load: `python -m tests.chaos.run --minutes 10 --seed 7`.

A run has three acts: load and faults, each fault healed and recovered from before the next; the
end, in which producers finish, a last reader reads everything, and groups catch up; the judgement
of the whole history. It fails on any anomaly, on a server that crashed, and on anything that did
not recover; its directory (history, logs, data) is then kept.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from odradek.protocol.errors import OdradekError
from tests.chaos.checker import Report, check
from tests.chaos.consuming import GROUPS
from tests.chaos.faults import FAULTS, FaultKind, Order, orders
from tests.chaos.history import Fault, Phase, now_ns, read_history
from tests.chaos.stage import TOPIC, Stage, StageOptions, StuckError, until
from tests.chaos.table import print_table
from tests.chaos.windows import Window, attribute, windows

_SETTLE_S: Final = 1.0
_KINDS: Final = {kind.name.lower().replace("_", "-"): kind for kind in FaultKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One run.

    Attributes:
        seed: Decides which faults come when, and against whom.
        duration_s: Of load and faults.
        kinds: Which faults.
        patience: 0 to 1: how long faults may last within their kind's range.
        hold_s_min: What is shorter lasts so long.
        stage: The cluster and its load.
    """

    seed: int
    duration_s: float
    kinds: tuple[FaultKind, ...] = tuple(FaultKind)
    patience: float = 1.0
    hold_s_min: float = 0.0
    stage: StageOptions = field(default_factory=StageOptions)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        report: The checker's.
        windows: The run, fault by fault.
        failures: What went wrong besides anomalies, a sentence each.
    """

    report: Report
    windows: list[Window]
    failures: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return not self.report.anomalies and not self.failures


async def run(options: RunOptions, directory: Path) -> Outcome:
    """Run in a directory, which is left as it is."""
    failures: list[str] = []
    async with Stage(options.stage, directory) as stage:
        kinds = [kind for kind in options.kinds if _is_possible(kind, stage)]
        try:
            await _inject(stage, options, kinds)
            await _finish(stage)
        except (StuckError, AssertionError, OdradekError) as error:
            failures.append(f"{type(error).__name__}: {error}")
        failures += stage.crashes()
    return judge(directory, failures)


def judge(directory: Path, failures: Sequence[str] = ()) -> Outcome:
    """Judge the history in a run's directory."""
    paths = sorted(directory.glob("history/*.jsonl"))
    report = check(read_history(paths))
    found = windows(read_history(paths))
    attribute(found, report.anomalies)
    return Outcome(report, found, tuple(failures))


def _is_possible(kind: FaultKind, stage: Stage) -> bool:
    return kind is not FaultKind.CLOCK or stage.clocks is not None


async def _inject(stage: Stage, options: RunOptions, kinds: Sequence[FaultKind]) -> None:
    chance = random.Random(options.seed)
    await recovered(stage)
    nodes = {process.name for process in stage.cluster.nodes.values()}
    unreached = stage.fabric.silent & nodes
    assert not unreached, f"no cut would reach {sorted(unreached)}: they dial past the fabric"
    loop = asyncio.get_running_loop()
    end_s = loop.time() + options.duration_s
    for each in orders(chance, kinds, patience=options.patience):
        order = replace(each, hold_s=max(each.hold_s, options.hold_s_min))
        await asyncio.sleep(_SETTLE_S)
        if loop.time() + order.hold_s > end_s:
            return
        await _inject_one(stage, order, chance)
        if stage.crashes():
            return  # told by who called


async def _inject_one(stage: Stage, order: Order, chance: random.Random) -> None:
    kind = order.kind.value
    stage.history.write(Fault(now_ns(), kind, Phase.INVOKE))
    began_s = time.monotonic()
    async with FAULTS[order.kind].inject(stage, chance) as detail:
        await asyncio.sleep(order.hold_s)
    stage.history.write(Fault(now_ns(), kind, Phase.OK, detail))
    healed_s = time.monotonic()
    await recovered(stage)
    print(
        f"  {kind} ({detail}), {order.hold_s:.1f} s: healed after {healed_s - began_s:.1f} s,"
        f" recovered {time.monotonic() - healed_s:.1f} s later",
        flush=True,
    )


async def recovered(stage: Stage) -> None:
    """Return once every replica is in sync and every partition acknowledges to every producer."""
    await stage.until_whole()
    healed_ns = now_ns()

    async def all_acknowledge() -> bool:
        stage.progress.update()
        known = stage.progress.acknowledged_ns
        return all(
            known.get((producer.name, each), 0) > healed_ns
            for producer in stage.producers.values()
            for each in range(stage.options.partitions)
        )

    await until(all_acknowledge, what="every partition acknowledges again")


async def _finish(stage: Stage) -> None:
    """Stop the load, read everything, let readers and groups reach the end."""
    await stage.stop_producers()
    await stage.drain()
    found = await stage.admin.admin.list_offsets(TOPIC)
    ends: dict[int, int] = {each.partition: end for each, end in found.items()}

    async def reader_at_end() -> bool:
        stage.progress.update()
        reached = stage.progress.reached
        return all(reached.get(("reader", each), 0) >= end for each, end in ends.items())

    async def groups_at_end() -> bool:
        for group in GROUPS:
            committed = await stage.admin.admin.committed_offsets(group)
            reached: dict[int, int] = {
                name.partition: each.offset for name, each in committed.items()
            }
            if any(reached.get(each, 0) < end for each, end in ends.items()):
                return False
        return True

    await until(reader_at_end, what="the reader has read everything")
    await until(groups_at_end, what="the groups have committed everything")
    await stage.stop_consumers()


def main() -> int:
    """Read the arguments, run, report."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(("kinds:", *(f"  {name:<22}{_KINDS[name].value}" for name in _KINDS))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--replication", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--controllers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=100.0, help="send operations a second")
    parser.add_argument(
        "--only",
        choices=_KINDS,
        metavar="KIND",
        action="append",
        help="one of the kinds below; may be repeated",
    )
    parser.add_argument("--hold-s-min", type=float, default=0.0, help="the shortest of a fault")
    parser.add_argument("--directory", type=Path, help="a new one, kept; else a temporary one")
    parser.add_argument("--judge", type=Path, help="judge the history of a kept directory again")
    arguments = parser.parse_args()
    if arguments.judge is not None:
        return _report(judge(arguments.judge), arguments.judge, is_kept=True)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().getrandbits(32)
    options = RunOptions(
        seed=seed,
        duration_s=arguments.minutes * 60,
        kinds=tuple(_KINDS[name] for name in arguments.only or _KINDS),
        hold_s_min=arguments.hold_s_min,
        stage=StageOptions(
            nodes=arguments.nodes,
            controllers=arguments.controllers,
            replication=arguments.replication,
            rate=arguments.rate,
        ),
    )
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="odradek-chaos-"))
    print(f"seed {seed}, {arguments.minutes:g} minutes, replication {arguments.replication}")
    outcome = asyncio.run(run(options, directory))
    return _report(outcome, directory, is_kept=arguments.directory is not None)


def _report(outcome: Outcome, directory: Path, *, is_kept: bool) -> int:
    """Print what came of a run; keep its directory if it is of use."""
    print_table(outcome.windows, outcome.report)
    for failure in outcome.failures:
        print(f"FAILED: {failure}")
    if outcome.held and not is_kept:
        shutil.rmtree(directory)
    else:
        print(f"history, logs and data are kept in {directory}")
    return 0 if outcome.held else 1


if __name__ == "__main__":
    sys.exit(main())

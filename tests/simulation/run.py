# ruff: noqa: T201 - a program that prints
"""Run simulations over many seeds, or one seed again: `python -m tests.simulation.run --seed 7`."""

import argparse
import gc
import logging
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from rich.console import Console
from rich.progress import track

from tests.simulation.registry import SIMULATIONS, events, simulation

PRINTED_MAX = 10
ENOUGH_SEEDS = 500
"""From so many on, everything worth meeting must have been met."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one seed ended; `broken` says what did not hold."""

    seed: int
    met: Counter[str]
    broken: str | None = None


@dataclass(slots=True)
class Result:
    """How all seeds of a simulation ended."""

    failed: list[int] = field(default_factory=list)
    never_met: list[str] = field(default_factory=list)


def run_one(name: str, seed: int) -> Outcome:
    """Run one seed."""
    try:
        return Outcome(seed, simulation(name)(seed).met)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed found it
        return Outcome(seed, Counter(), f"{type(error).__name__}: {error}")


def _begin_worker() -> None:
    """Say nothing, collect rarely.

    A seed makes a hundred thousand objects at a time, few of them garbage: a seventh faster.
    """
    logging.disable(logging.WARNING)
    gc.freeze()
    gc.set_threshold(200_000)


def run_many(name: str, seeds: range, jobs: int) -> Result:
    """Run seeds on several processors; report those that failed, and what all together met."""
    result = Result()
    met: Counter[str] = Counter()
    started_s = time.monotonic()
    with ProcessPoolExecutor(max_workers=jobs, initializer=_begin_worker) as pool:
        outcomes = pool.map(partial(run_one, name), seeds, chunksize=8)
        for outcome in track(
            outcomes, name, len(seeds), console=Console(stderr=True), transient=True
        ):
            met.update(outcome.met)
            if outcome.broken is not None:
                result.failed.append(outcome.seed)
                if len(result.failed) <= PRINTED_MAX:
                    print(f"{name}: seed {outcome.seed} broke an invariant: {outcome.broken}")
    took_s = time.monotonic() - started_s
    failed = len(result.failed)
    print(f"{name}: {len(seeds)} seeds in {took_s:.1f} s, {failed} broke an invariant", flush=True)
    expected = events(name)
    if expected:
        print(f"{name}: met " + ", ".join(f"{met[event]} {event}" for event in expected))
    if len(seeds) >= ENOUGH_SEEDS:
        result.never_met = [event for event in expected if not met[event]]
    return result


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, default=2000, help="how many seeds, from --first on")
    seeds.add_argument("--seed", type=int, help="one seed, with its traceback")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", choices=sorted(SIMULATIONS), help="one simulation")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(SIMULATIONS)
    if arguments.seed is not None:
        for name in names:
            print(f"{name}: seed {arguments.seed}: {simulation(name)(arguments.seed).line}")
        return 0
    first = arguments.first
    results = {
        name: run_many(name, range(first, first + arguments.seeds), arguments.jobs)
        for name in names
    }
    for name, result in results.items():
        for seed in result.failed[:3]:
            print(f"again: python -m tests.simulation.run --only {name} --seed {seed}")
        for event in result.never_met:
            print(f"{name}: no seed met {event}: what it says of them is worth nothing")
    return int(any(result.failed or result.never_met for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())

# ruff: noqa: T201 - a program that prints
"""Run simulations over many seeds, or one seed again: `python -m tests.simulation.run --seed 7`."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.simulation.registry import SIMULATIONS, simulation


def run_one(name: str, seed: int) -> tuple[int, bool, str]:
    """Run one seed; return it, whether it held, and a line about it."""
    try:
        return seed, True, simulation(name)(seed)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed found it
        return seed, False, f"{type(error).__name__}: {error}"


def run_many(name: str, seeds: range, jobs: int) -> list[int]:
    """Run seeds on several processors; report and return those that failed."""
    failed: list[int] = []
    started_s = time.monotonic()
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for seed, held, line in pool.map(partial(run_one, name), seeds, chunksize=8):
            if not held:
                failed.append(seed)
            if not held and len(failed) <= 10:
                print(f"{name}: seed {seed} broke an invariant: {line}", flush=True)
    took_s = time.monotonic() - started_s
    print(f"{name}: {len(seeds)} seeds in {took_s:.1f} s, {len(failed)} broke an invariant")
    return failed


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
            print(f"{name}: seed {arguments.seed}: {simulation(name)(arguments.seed)}")
        return 0
    first = arguments.first
    failed = {
        name: run_many(name, range(first, first + arguments.seeds), arguments.jobs)
        for name in names
    }
    for name, broken in failed.items():
        for seed in broken[:3]:
            print(f"again: python -m tests.simulation.run --only {name} --seed {seed}")
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main())

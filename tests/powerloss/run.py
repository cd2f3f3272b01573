# ruff: noqa: T201 - a program that prints
"""Many power cuts: `python -m tests.powerloss.run --rounds 50 --seed 7 [--only cluster]`.

`storage` and `raft` cut the disk of one program at many moments of each run; `cluster` cuts the
power of real machines under load. A failure prints its seed and keeps its directory.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.powerloss.explorer import Cut, explore, record
from tests.powerloss.raft_check import check_raft
from tests.powerloss.rounds import run_rounds
from tests.powerloss.storage_check import check_storage
from tests.powerloss.tracer import Tracer, build_tracer, materialise

_RUNS_IN_A_ROW = 3  # the second and third start from what a cut has left
_ROUNDS_OF_A_CLUSTER = 10


@dataclass(frozen=True, slots=True)
class Subject:
    """A program whose disk is cut.

    Attributes:
        program: The module that works until it kills itself.
        check: Compares a cut disk with what was promised.
        promises: After so many the program ends.
        cuts: So many disks are checked for each run.
    """

    program: str
    check: Callable[[Cut, Path], None]
    promises: int
    cuts: int


SUBJECTS = {
    "storage": Subject("tests.powerloss.storage_program", check_storage, promises=400, cuts=40),
    "raft": Subject("tests.powerloss.raft_program", check_raft, promises=300, cuts=200),
}


def run_subject(subject: Subject, directory: Path, seed: int) -> str:
    """Run a program a few times, each from a cut disk of the run before."""
    library = build_tracer(directory / "tracer")
    tracer = Tracer(library, directory / "disk", directory / "traces")
    tracer.prepare()
    for turn in range(seed * _RUNS_IN_A_ROW, (seed + 1) * _RUNS_IN_A_ROW):
        recording = record(
            tracer, subject.program, str(tracer.root), str(turn), str(subject.promises)
        )
        last = explore(recording, directory / "cut", subject.check, seed=turn, count=subject.cuts)
        materialise(last.tree, tracer.root)
        tracer.reboot()
    return f"{_RUNS_IN_A_ROW * subject.cuts} disks, nothing lost"


def run_one(name: str, directory: Path, seed: int, rounds: int, replication: int) -> str:
    """Run one seed of one kind."""
    if name in SUBJECTS:
        return run_subject(SUBJECTS[name], directory, seed)
    report = asyncio.run(run_rounds(directory, rounds=rounds, seed=seed, replication=replication))
    return str(report)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = (*SUBJECTS, "cluster")
    parser.add_argument(
        "--rounds", type=int, default=20, help="of a cluster; a tenth: seeds of others"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--only", choices=kinds, help="one kind")
    parser.add_argument("--replication", type=int, default=1, help="of the cluster's topic")
    arguments = parser.parse_args()
    failed = 0
    seeds = max(1, arguments.rounds // _ROUNDS_OF_A_CLUSTER)
    rounds = min(arguments.rounds, _ROUNDS_OF_A_CLUSTER)
    for name in [arguments.only] if arguments.only else kinds:
        for seed in range(arguments.seed, arguments.seed + seeds):
            directory = Path(tempfile.mkdtemp(prefix=f"powerloss-{name}-"))
            try:
                line = run_one(name, directory, seed, rounds, arguments.replication)
            except Exception:  # noqa: BLE001 - whatever it is, the seed found it
                failed += 1
                traceback.print_exc()
                print(f"{name}: seed {seed} FAILED, see {directory}", flush=True)
                continue
            shutil.rmtree(directory)
            print(f"{name}: seed {seed}: {line}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""One run of a traced program, many power cuts: at any moment of it, leaving any possible disk.

Problem: killing a program shows one moment and one disk, and costs a start. Idea: the trace holds
every moment. The explorer replays it, stops at random places, asks the model for a disk, and hands
it to a check together with what the program had promised until then.
"""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.powerloss.disk import Disk, Tree
from tests.powerloss.operations import SyncBegan, SyncEnded, Timed, Wrote
from tests.powerloss.promises import PROMISES, parse_promises
from tests.powerloss.tracer import Tracer, differences, materialise, scan

_ROOT = Path(__file__).parents[2]
_PROGRAM_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Recording:
    """A run: the disk before it, and what was done to it."""

    before: Tree
    operations: list[Timed]


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut.

    Attributes:
        place: How many operations of the recording came before it.
        tree: What is left, with the promises made before it.
    """

    place: int
    tree: Tree

    @property
    def promises(self) -> list[list[str]]:
        """What the program had told the world, as words."""
        return parse_promises(self.tree[PROMISES] or b"")


def record(tracer: Tracer, *program: str) -> Recording:
    """Run a module that kills itself, and return what it did.

    Raises:
        AssertionError: It ended otherwise, or the tracer missed something.
    """
    before = scan(tracer.root)
    command = [sys.executable, "-m", *program]
    child = subprocess.Popen(command, cwd=_ROOT, env=os.environ | tracer.environment)
    try:
        status = child.wait(_PROGRAM_DEADLINE_S)
    finally:
        child.kill()
        child.wait()
    assert status == -signal.SIGKILL, f"{program} ended with {status}"
    operations = tracer.operations(child.pid)
    disk = Disk(before)
    disk.apply_all(each.operation for each in operations)
    missed = differences(disk, scan(tracer.root), operations)
    assert not missed, f"the tracer missed changes of {missed}"
    return Recording(before, operations)


def cuts(recording: Recording, chance: random.Random, count: int) -> Iterator[Cut]:
    """Yield power cuts in the order of their moments."""
    disk = Disk(recording.before)
    done = 0
    for place in _places(recording.operations, chance, count):
        disk.apply_all(each.operation for each in recording.operations[done:place])
        done = place
        # What was said is said, whatever became of the file.
        yield Cut(place, disk.cut(chance) | {PROMISES: disk.read(PROMISES) or b""})


def explore(
    recording: Recording,
    directory: Path,
    check: Callable[[Cut, Path], None],
    *,
    seed: int,
    count: int,
) -> Cut:
    """Check so many cuts, each on a disk of its own below `directory`; return the last one.

    Raises:
        AssertionError: A check failed; tells the seed and the place, and the disk is kept.
    """
    last = None
    for last in cuts(recording, random.Random(seed), count):
        materialise(last.tree, directory)
        try:
            check(last, directory)
        except Exception as error:
            error.add_note(f"after a power cut at {last.place}, seed {seed}; disk: {directory}")
            raise
    assert last is not None
    return last


def _places(operations: Sequence[Timed], chance: random.Random, count: int) -> list[int]:
    """Choose moments: half of them anywhere, half around changes of names and sizes.

    Writes and syncs are nearly all there is; what else happens is rare and delicate.
    """
    rare = [
        place
        for place, each in enumerate(operations)
        if not isinstance(each.operation, Wrote | SyncBegan | SyncEnded)
    ]
    return sorted(
        min(max(chance.choice(rare) + chance.randint(-1, 3), 0), len(operations))
        if rare and chance.random() < 0.5
        else chance.randint(0, len(operations))
        for _ in range(count)
    )

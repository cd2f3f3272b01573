"""Seeds of the raft simulation, and proof that it finds bugs: `make sim` runs thousands more."""

import pytest

from tests.simulation.raft.cluster import run_seed
from tests.simulation.raft.history import InvariantBrokenError
from tests.simulation.raft.mutations import MUTATIONS, Mutation

GROUPS = 8
SEEDS = 200


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_seed_breaks_an_invariant(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        try:
            run_seed(seed)
        except InvariantBrokenError as error:
            pytest.fail(f"python -m tests.simulation.run --only raft --seed {seed}: {error}")


def test_a_seed_is_reproducible() -> None:
    assert run_seed(3) == run_seed(3)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_bug_is_found(mutation: Mutation) -> None:
    for seed in range(mutation.seeds):
        try:
            run_seed(
                seed,
                core_class=mutation.core_class,
                lying_disks=mutation.lying_disks,
                members=mutation.members,
            )
        except InvariantBrokenError:
            return
    pytest.fail(f"{mutation.seeds} seeds did not find: {mutation.name}")

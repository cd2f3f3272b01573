"""Seeds of the cluster simulation, and proof that it finds bugs: `make sim` runs thousands more."""

import pytest

from tests.simulation.cluster.mutations import MUTATIONS, Mutation
from tests.simulation.cluster.oracle import InvariantBrokenError
from tests.simulation.cluster.world import run_seed

GROUPS = 6
SEEDS = 36


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_seed_breaks_an_invariant(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        try:
            run_seed(seed)
        except InvariantBrokenError as error:
            pytest.fail(f"python -m tests.simulation.run --only cluster --seed {seed}: {error}")


def test_a_seed_is_reproducible() -> None:
    assert run_seed(3).line == run_seed(3).line


def test_who_said_that_it_is_still_revoking_hands_over() -> None:
    """A member that repeated what it was giving up could never confirm that it had."""
    run_seed(385)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_bug_is_found(mutation: Mutation) -> None:
    with mutation.planted():
        for seed in range(mutation.seeds):
            try:
                run_seed(seed)
            except InvariantBrokenError:
                return
    pytest.fail(f"{mutation.seeds} seeds did not find: {mutation.name}")

"""Seeds of the cluster simulation, and proof that it finds bugs: `make sim` runs thousands more."""

import pytest

from odradek.protocol.errors import BrokerError
from tests.simulation.cluster.mutations import MUTATIONS, Mutation
from tests.simulation.cluster.oracle import InvariantBrokenError
from tests.simulation.cluster.world import run_seed

GROUPS = 6
SEEDS = 36
SEEDS_MAX = 60
"""So many find a planted bug at the latest."""
_LATE_REGISTRATION = "the late registration of a dead process replaced its successor's"
_LATE_TALE = "a late registration told of a loss that had been made good since"
_OLD_LINK = "the simulator: an older link overtook a newer one"
_TURNED = "the simulator: a move may turn round when the node it goes to is drained"
_STEPS = "the simulator: several steps of one command were looked at as one"
ONCE_BROKEN = {
    101: "members read no faster after the faults than during them, and had not caught up in time",
    454: _LATE_REGISTRATION,
    940: _LATE_TALE,
    719: "a coordinator told a member of its former membership: an answer before its image",
    **dict.fromkeys((259, 982, 1066), _OLD_LINK),
    **dict.fromkeys((888, 1118, 1133, 1153, 1678, 1908), _TURNED),
    **dict.fromkeys((736, 899, 1400, 1531, 1644), _STEPS),
}
"""Seeds that found something, and what it was."""


@pytest.mark.parametrize("group", range(GROUPS))
def test_no_seed_breaks_an_invariant(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        try:
            run_seed(seed)
        except InvariantBrokenError as error:
            pytest.fail(f"python -m tests.simulation.run --only cluster --seed {seed}: {error}")


@pytest.mark.parametrize("seed", ONCE_BROKEN)
def test_what_a_seed_found_stays_mended(seed: int) -> None:
    run_seed(seed)


def test_a_seed_is_reproducible() -> None:
    assert run_seed(3).line == run_seed(3).line


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_bug_is_found(mutation: Mutation) -> None:
    with mutation.planted():
        for seed in range(mutation.first, mutation.first + SEEDS_MAX):
            try:
                run_seed(seed)
            except (AssertionError, BrokerError):  # of the simulator, or of the cores themselves
                return
    pytest.fail(f"{SEEDS_MAX} seeds did not find: {mutation.name}")

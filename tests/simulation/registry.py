"""The simulations by name.

A simulation runs one seed, returns what it met, and raises if an invariant is broken. To add one: a
module with `run_seed(seed: int) -> Report` and `EVENTS`, and a line here.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

SIMULATIONS = {
    "raft": "tests.simulation.raft.cluster",
    "cluster": "tests.simulation.cluster.world",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What one seed met."""

    line: str
    met: Counter[str] = field(default_factory=Counter)


def simulation(name: str) -> Callable[[int], Report]:
    """Return the function that runs one seed of a simulation."""
    run_seed: Callable[[int], Report] = import_module(SIMULATIONS[name]).run_seed
    return run_seed


def events(name: str) -> tuple[str, ...]:
    """Return what a simulation must meet at least once in many seeds, or it proves little."""
    expected: tuple[str, ...] = import_module(SIMULATIONS[name]).EVENTS
    return expected

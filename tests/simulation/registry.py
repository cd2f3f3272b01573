"""The simulations by name.

A simulation runs one seed, returns a line about it, and raises if an invariant is broken. To add
one: a module with `run_seed(seed: int) -> str`, and a line here.
"""

from collections.abc import Callable
from importlib import import_module

SIMULATIONS = {
    "raft": "tests.simulation.raft.cluster",
}


def simulation(name: str) -> Callable[[int], str]:
    """Return the function that runs one seed of a simulation."""
    run_seed: Callable[[int], str] = import_module(SIMULATIONS[name]).run_seed
    return run_seed

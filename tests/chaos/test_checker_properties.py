"""Histories of a correct broker are clean; whatever is planted into them is found."""

import random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.chaos.anomalies import AnomalyKind
from tests.chaos.checker import check
from tests.chaos.model import Model
from tests.chaos.mutations import MUTATIONS, Mutation

SEEDS = st.integers(0, 1 << 32)


@given(seed=SEEDS, steps=st.integers(0, 300))
def test_whatever_a_correct_broker_does_is_clean(seed: int, steps: int) -> None:
    assert check(Model(random.Random(seed)).run(steps)).anomalies == ()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
@example(seed=68311)  # the member that shares a partition is killed in it
def test_whatever_is_planted_is_found(mutation: Mutation, seed: int) -> None:
    chance = random.Random(seed)
    mutated = mutation(Model(chance).run(200), chance)
    assume(mutated is not None)
    assert mutated is not None
    assert MUTATIONS[mutation] in check(mutated).counts


def test_every_kind_but_those_within_one_operation_is_planted() -> None:
    within = {AnomalyKind.INT_NONMONOTONIC_SEND, AnomalyKind.INT_SEND_SKIP}
    assert set(MUTATIONS.values()) == set(AnomalyKind) - within

"""Whoever asks the controllers is told with the image that holds the result, as in production."""

from typing import Any

import pytest

from odradek.controller.state.decide import AllocateProducerIds
from odradek.protocol.types import NodeId
from tests.simulation.cluster.node import SimulatedNode
from tests.simulation.cluster.world import World


@pytest.fixture
def node() -> SimulatedNode:
    """A node of a healthy cluster to which its metadata stream says nothing more."""
    world = World(1)
    world._begin()
    node = world.nodes[NodeId(1)]
    assert node._watch is not None
    node._watch.end = None
    return node


def _ask(node: SimulatedNode) -> list[Any]:
    told: list[Any] = []
    node.link.submit(AllocateProducerIds(), lambda answer, _: told.append(answer))
    return told


def _run(node: SimulatedNode, duration_s: float) -> None:
    node.scheduler.run_until(node.now_s + duration_s)


def test_an_answer_waits_for_the_image_that_holds_it(node: SimulatedNode) -> None:
    told = _ask(node)
    active = node.world.quorum.leader
    assert active is not None
    version = active.image.version
    while active.image.version == version:
        _run(node, 0.001)
    _run(node, 0.02)
    assert told == []
    node.on_metadata(active.metadata())
    (answer,) = told
    assert answer is not None


def test_the_outcome_is_unknown_when_the_image_does_not_come(node: SimulatedNode) -> None:
    told = _ask(node)
    _run(node, 1.0)
    assert told == [None]

"""Proposals that keep being refused."""

from odradek.node.replication.isr import PROPOSAL_RETRY_S, ProposeIsr
from odradek.node.replication.leader import Effect
from tests.node.replication.leader_world import N1, N2, N3, World, proposed


def _proposal(effects: list[Effect]) -> ProposeIsr:
    (found,) = (effect for effect in effects if isinstance(effect, ProposeIsr))
    return found


def test_two_that_are_refused_do_not_take_turns() -> None:
    """Each was left out for the other's sake, and the controller was asked without a pause."""
    world = World(isr=(N1,))
    first = _proposal(world.announce(N2, 0))
    world.announce(N3, 0)
    second = _proposal(world.core.on_proposal_answered(first, world.now_s))
    assert [member.node_id for member in second.isr] == [N1]
    assert world.core.on_proposal_answered(second, world.now_s) == []
    assert proposed(world.tick(PROPOSAL_RETRY_S)) == (N1, N2, N3)


def test_after_an_image_nobody_waits() -> None:
    world = World(isr=(N1,))
    first = _proposal(world.announce(N2, 0))
    world.core.on_proposal_answered(first, world.now_s)
    world.image(N1, N2)
    assert proposed(world.announce(N3, 0)) == (N1, N2, N3)

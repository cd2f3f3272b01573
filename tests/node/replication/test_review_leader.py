"""Proposals that keep being refused."""

from odradek.node.replication.isr import PROPOSAL_RETRY_S, ProposeIsr
from odradek.node.replication.leader import Diverging, Effect, PushDue
from tests.node.replication.leader_world import N1, N2, N3, World, epochs, proposed


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


def test_what_was_accepted_is_not_asked_for_again_before_its_image() -> None:
    """The image may come after the answer; a second proposal could only be refused."""
    world = World(isr=(N1,))
    first = _proposal(world.announce(N2, 0))
    assert world.core.on_proposal_answered(first, world.now_s, accepted=True) == []
    assert world.tick(PROPOSAL_RETRY_S / 2) == []
    assert proposed(world.tick(PROPOSAL_RETRY_S)) == (N1, N2), "no image came: nobody knows"


def test_an_accepted_member_counts_before_its_image_comes() -> None:
    world = World(isr=(N1,), log_end=5, durable_end=5, high_watermark=5)
    first = _proposal(world.announce(N2, 5, log_start=5))
    world.core.on_proposal_answered(first, world.now_s, accepted=True)
    world.append(6)
    assert world.core.on_durable(world.core.log_end_offset) == []
    assert world.core.high_watermark == 5


def test_a_log_that_ends_where_the_leaders_begins_must_not_be_of_a_later_epoch() -> None:
    """What follows would fall behind its last epoch, and never be appended."""
    known = epochs((3, 10), (5, 20))
    world = World(isr=(N1,), log_end=30, durable_end=30, high_watermark=30, epochs=known)
    (later,) = world.announce(N2, 10, 4, log_start=10)
    assert isinstance(later, Diverging)
    assert later.end.end_offset <= 20
    (unknown,) = world.announce(N2, 10, 6, log_start=10)
    assert isinstance(unknown, Diverging)
    for fitting in (-1, 2, 3):
        assert PushDue(N2) in world.announce(N2, 10, fitting, log_start=10)

"""A node knows how long it may still speak."""

import pytest

from odradek.node.cluster.session import HeartbeatClock, SentHeartbeat, Session
from odradek.protocol.errors import NotLeaderOrFollowerError
from odradek.protocol.types import Incarnation

FIRST = Incarnation(1)


def _session() -> Session:
    session = Session()
    session.on_registered(FIRST, timeout_s=6.0, sent_at_s=100.0)
    return session


def test_a_registration_counts_from_when_it_was_asked_for() -> None:
    session = _session()
    assert session.lapsed(106.0) is None
    assert isinstance(session.lapsed(106.1), NotLeaderOrFollowerError)


def test_nothing_may_be_said_before_the_first_registration() -> None:
    assert Session().lapsed(0.0) is not None


def test_contact_is_dated_by_the_heartbeat_not_by_its_answer() -> None:
    """A process paused for ten seconds reads an answer of before the pause."""
    session, clock = _session(), HeartbeatClock()
    clock.on_sent(SentHeartbeat(101.0, FIRST))
    answered = clock.on_answer()
    assert answered is not None
    session.on_contact(answered.at_s, fenced=False)
    assert session.lapsed(111.0) is not None


def test_answers_nobody_asked_for_bring_no_new_contact() -> None:
    clock = HeartbeatClock()
    assert clock.on_answer() is None
    clock.on_sent(SentHeartbeat(101.0, FIRST))
    clock.on_sent(SentHeartbeat(102.0, FIRST))
    dated = [clock.on_answer() for _ in range(4)]
    assert [each.at_s for each in dated if each] == [101.0, 102.0, 102.0, 102.0]


def test_contact_never_goes_backwards() -> None:
    session = _session()
    session.on_contact(105.0, fenced=False)
    session.on_contact(103.0, fenced=False)
    assert session.lapsed(111.0) is None


def test_a_new_registration_is_fenced_and_newer() -> None:
    session = _session()
    session.on_contact(101.0, fenced=False)
    session.on_registered(Incarnation(2), timeout_s=6.0, sent_at_s=103.0)
    assert session.fenced
    with pytest.raises(AssertionError):
        session.on_registered(Incarnation(2), timeout_s=6.0, sent_at_s=104.0)

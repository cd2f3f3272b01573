"""Who is alive: silence, broken streams, static members."""

import hypothesis.strategies as st
from hypothesis import given

from odradek.node.coordination.model import GroupTimes
from odradek.node.coordination.sessions import Deadlines, MemberKey, Sessions
from odradek.protocol.types import GroupId, MemberId

A = MemberKey(GroupId("g"), MemberId("a"))


def test_silence_ends_a_session_after_45_seconds() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant(A, 100.0)
    assert sessions.expired(144.9) == []
    assert sessions.expired(145.0) == [A]
    assert sessions.expired(1000.0) == []


def test_each_frame_prolongs_it() -> None:
    sessions = Sessions(GroupTimes())
    for now_s in range(0, 300, 3):
        sessions.grant(A, float(now_s))
        assert sessions.expired(float(now_s)) == []
    assert sessions.expired(297.0 + 45.0) == [A]


def test_a_broken_stream_leaves_five_seconds() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant(A, 0.0)
    sessions.stream_broke(A, 10.0, static=False)
    assert sessions.expired(14.9) == []
    assert sessions.expired(15.0) == [A]


def test_a_broken_stream_never_prolongs() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant(A, 0.0)
    sessions.stream_broke(A, 44.0, static=False)
    assert sessions.expired(45.0) == [A]


def test_reconnecting_restores_the_whole_session() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant(A, 0.0)
    sessions.stream_broke(A, 10.0, static=False)
    sessions.grant(A, 12.0)
    assert sessions.expired(56.9) == []
    assert sessions.expired(57.0) == [A]


def test_a_static_member_keeps_its_session_without_a_stream() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant(A, 0.0)
    sessions.stream_broke(A, 10.0, static=True)
    assert sessions.expired(44.9) == []
    assert sessions.expired(45.0) == [A]


def test_who_left_does_not_expire() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant(A, 0.0)
    sessions.end(A)
    assert sessions.expired(1000.0) == []


def test_a_member_known_from_the_controller_is_granted_once() -> None:
    sessions = Sessions(GroupTimes())
    sessions.grant_if_unknown(A, 0.0)
    sessions.grant_if_unknown(A, 30.0)
    assert sessions.expired(45.0) == [A]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), st.integers(0, 4), st.integers(0, 50)),
            st.tuples(st.just("clear"), st.integers(0, 4), st.just(0)),
            st.tuples(st.just("due"), st.just(0), st.integers(0, 20)),
        )
    )
)
def test_deadlines_behave_like_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    now_s = 0.0
    for action, key, number in steps:
        if action == "set":
            deadlines.set(key, now_s + number)
            model[key] = now_s + number
        elif action == "clear":
            deadlines.clear(key)
            model.pop(key, None)
        else:
            now_s += number
            due = {each for each, at_s in model.items() if at_s <= now_s}
            assert set(deadlines.due(now_s)) == due
            model = {each: at_s for each, at_s in model.items() if each not in due}
    assert {key: deadlines.get(key) for key in model} == model
    assert len(deadlines) == len(model)


def test_a_key_whose_deadline_moves_to_and_fro_takes_no_more_room_each_time() -> None:
    """A member that reconnects for weeks: each break brings its end near, each frame far."""
    deadlines = Deadlines[str]()
    for now_s in range(1000):
        deadlines.set("a", now_s + 5.0)
        deadlines.set("a", now_s + 45.0)
        assert deadlines.due(now_s) == []
    assert len(deadlines._heap) < 100
    assert deadlines.due(999 + 45.0) == ["a"]

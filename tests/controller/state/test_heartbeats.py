"""Who is taken for dead, and when."""

from dataclasses import replace

import pytest

from odradek.controller.state.heartbeats import Heartbeat, HeartbeatPolicy, Heartbeats
from odradek.controller.state.nodes import FenceNode, ReportStorage, RetireNode, UnfenceNode
from odradek.controller.state.records import Node
from odradek.protocol.types import Incarnation, NodeId

N1 = NodeId(1)
POLICY = HeartbeatPolicy(session_timeout_s=6.0, grace_s=0.2)
FENCE = [FenceNode(N1, Incarnation(5))]


def node(*, fenced: bool = False, incarnation: int = 5, version: int = 10) -> Node:
    """Return node 1 as the image has it."""
    return Node(
        node_id=N1,
        incarnation=Incarnation(incarnation),
        directory_id=b"d" * 16,
        process_id=b"p" * 16,
        host="h",
        port=1,
        fenced=fenced,
        fenced_version=version,
    )


def beat(*, incarnation: int = 5, version: int = 10, wants_shutdown: bool = False) -> Heartbeat:
    """Return a heartbeat of node 1."""
    return Heartbeat(N1, Incarnation(incarnation), version, wants_shutdown)


def active() -> Heartbeats:
    """Return the pulses of a controller active since time 0."""
    heartbeats = Heartbeats(POLICY)
    heartbeats.on_active(0.0)
    return heartbeats


def run_until(heartbeats: Heartbeats, to_s: float, *, from_s: float = 0.0) -> None:
    """Tick as the shell does, so that no pause is seen."""
    ticks = int((to_s - from_s) / 0.5)
    for tick in range(ticks + 1):
        heartbeats.due([], from_s + tick * 0.5)
    heartbeats.due([], to_s)


def test_a_broken_stream_fences_after_the_grace() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    run_until(heartbeats, 1.5)
    heartbeats.on_stream_closed(beat(), 1.5, registered=True)
    assert heartbeats.due([node()], 1.65) == []
    assert heartbeats.due([node()], 1.75) == FENCE


def test_a_reconnect_within_the_grace_is_forgiven() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.on_stream_closed(beat(), 1.5, registered=True)
    heartbeats.on_heartbeat(beat(), 1.6, first=True)
    assert heartbeats.due([node()], 2.4) == []


def test_silence_on_a_standing_stream_takes_a_session() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    run_until(heartbeats, 6.5)
    assert heartbeats.due([node()], 6.9) == []
    assert heartbeats.due([node()], 7.0) == FENCE


@pytest.mark.parametrize("active_at_s", [3.0, 6.9])
def test_a_new_controller_goes_on_with_the_session(active_at_s: float) -> None:
    heartbeats = Heartbeats(POLICY)
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    run_until(heartbeats, active_at_s, from_s=1.0)
    heartbeats.on_active(active_at_s)
    run_until(heartbeats, 6.9, from_s=active_at_s)
    assert heartbeats.due([node()], 6.9) == []
    assert heartbeats.due([node()], 7.0) == FENCE


def test_whom_the_active_controller_did_not_live_to_fence_the_next_one_fences_at_once() -> None:
    heartbeats = Heartbeats(POLICY)
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    run_until(heartbeats, 7.5, from_s=1.0)
    heartbeats.on_active(7.5)
    assert heartbeats.due([node()], 7.5) == FENCE


def test_a_new_controller_gives_an_incarnation_it_never_heard_a_session() -> None:
    heartbeats = Heartbeats(POLICY)
    heartbeats.on_heartbeat(beat(incarnation=4), 1.0, first=True)
    run_until(heartbeats, 100.0, from_s=1.0)
    heartbeats.on_active(100.0)
    run_until(heartbeats, 105.5, from_s=100.0)
    assert heartbeats.due([node()], 105.9) == []
    assert heartbeats.due([node()], 106.0) == FENCE


def test_a_node_that_died_with_the_active_controller_costs_no_session() -> None:
    heartbeats = Heartbeats(POLICY)
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.on_stream_closed(beat(), 2.0, registered=True)
    heartbeats.on_active(3.0)
    assert heartbeats.due([node()], 3.1) == []
    assert heartbeats.due([node()], 3.2) == FENCE


def test_a_node_never_heard_of_gets_a_session_too() -> None:
    heartbeats = active()
    run_until(heartbeats, 5.5)
    assert heartbeats.due([node()], 5.9) == []
    assert heartbeats.due([node()], 6.0) == FENCE


def test_a_pause_of_the_controller_is_not_the_nodes_silence() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.due([node()], 1.0)
    assert heartbeats.due([node()], 60.0) == []
    heartbeats.on_heartbeat(beat(), 60.1, first=False)
    assert heartbeats.due([node()], 60.5) == []


def test_a_pause_of_the_passive_controller_is_not_the_nodes_silence_either() -> None:
    heartbeats = Heartbeats(POLICY)
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.on_active(60.0)
    assert heartbeats.due([node()], 60.0) == []


def test_the_silence_before_a_pause_of_the_controller_counts_on() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    run_until(heartbeats, 5.0, from_s=1.0)
    heartbeats.due([node()], 60.0)  # a second of the pause counts: it may not have been one
    assert heartbeats.due([node()], 60.9) == []
    assert heartbeats.due([node()], 61.0) == FENCE


def test_a_passive_controller_judges_nobody() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.on_stream_closed(beat(), 1.0, registered=True)
    heartbeats.on_passive()
    assert heartbeats.due([node()], 50.0) == []


@pytest.mark.parametrize(
    ("heartbeat", "due"),
    [
        (beat(version=10), True),
        (beat(version=11), True),
        (beat(version=9), False),
        (beat(incarnation=4), False),
        (beat(wants_shutdown=True), False),
    ],
)
def test_a_fenced_node_may_lead_once_it_has_caught_up(heartbeat: Heartbeat, *, due: bool) -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(heartbeat, 1.0, first=True)
    expected = [UnfenceNode(N1, Incarnation(5), heartbeat.version)] if due else []
    assert heartbeats.due([node(fenced=True)], 1.0) == expected


def test_a_fenced_node_without_a_stream_stays_fenced() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.on_stream_closed(beat(), 1.0, registered=True)
    assert heartbeats.due([node(fenced=True)], 1.1) == []


def test_who_wants_to_stop_is_fenced_once_it_has_seen_that_others_lead() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(version=10, wants_shutdown=True), 1.0, first=True)
    assert heartbeats.due([node()], 1.0) == [RetireNode(N1, Incarnation(5))]
    stopping = replace(node(), stopping_version=12)
    assert heartbeats.due([stopping], 1.1) == []
    heartbeats.on_heartbeat(beat(version=11, wants_shutdown=True), 1.2, first=False)
    assert heartbeats.due([stopping], 1.2) == []
    heartbeats.on_heartbeat(beat(version=12, wants_shutdown=True), 1.3, first=False)
    assert heartbeats.due([stopping], 1.3) == FENCE


def test_who_wants_to_stop_and_never_sees_it_is_fenced_after_a_while() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(wants_shutdown=True), 1.0, first=True)
    run_until(heartbeats, 3.5)
    stopping = replace(node(), stopping_version=12)
    assert heartbeats.due([stopping], 3.9) == []
    assert heartbeats.due([stopping], 4.0) == FENCE


def test_a_full_disk_is_reported_when_it_changes() -> None:
    heartbeats = active()
    full = Heartbeat(N1, Incarnation(5), 10, storage_full=True)
    heartbeats.on_heartbeat(full, 1.0, first=True)
    assert heartbeats.due([node()], 1.0) == [ReportStorage(N1, Incarnation(5), full=True)]
    known = replace(node(), storage_full=True)
    assert heartbeats.due([known], 1.0) == []
    heartbeats.on_heartbeat(beat(), 1.5, first=False)
    assert heartbeats.due([known], 1.5) == [ReportStorage(N1, Incarnation(5), full=False)]


def test_the_end_of_a_grace_is_known_beforehand() -> None:
    heartbeats = active()
    assert heartbeats.next_due_s(0.0) is None
    heartbeats.on_heartbeat(beat(), 1.0, first=True)
    heartbeats.on_stream_closed(beat(), 1.5, registered=True)
    assert heartbeats.next_due_s(1.6) == pytest.approx(1.7)
    assert heartbeats.next_due_s(1.7) is None


def test_a_node_has_settled_once_it_was_up_for_a_while() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(), 0.5, first=True)
    heartbeats.due([node()], 0.5)
    assert heartbeats.settled(5.4) == ()
    assert heartbeats.settled(5.5) == (N1,)
    heartbeats.due([node(incarnation=6)], 6.0)  # it registered again
    assert heartbeats.settled(6.0) == ()
    heartbeats.due([node(incarnation=6)], 11.0)
    assert heartbeats.settled(11.0) == (N1,)
    heartbeats.due([node(incarnation=6, fenced=True)], 12.0)
    assert heartbeats.settled(20.0) == ()


def test_made_up_ids_leave_nothing_behind() -> None:
    heartbeats = active()
    for number in range(100):
        made_up = Heartbeat(NodeId(number), Incarnation(number), 1)
        heartbeats.on_heartbeat(made_up, 1.0, first=True)
        heartbeats.on_stream_closed(made_up, 1.0, registered=False)
    assert heartbeats.next_due_s(1.0) is None


def test_the_end_of_an_older_process_harms_no_newer_one() -> None:
    heartbeats = active()
    heartbeats.on_heartbeat(beat(incarnation=4), 1.0, first=True)
    heartbeats.on_heartbeat(beat(incarnation=5), 1.1, first=True)
    heartbeats.on_heartbeat(beat(incarnation=4), 1.2, first=False)
    heartbeats.on_stream_closed(beat(incarnation=4), 1.3, registered=True)
    assert heartbeats.due([node()], 1.9) == []
    heartbeats.on_stream_closed(beat(incarnation=5), 2.0, registered=True)
    assert heartbeats.due([node()], 2.2) == FENCE


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="grace_s"):
        HeartbeatPolicy(session_timeout_s=1.0, grace_s=2.0)

"""A leader whose process has ended is replaced at once; one that others still hear is not."""

from odradek.protocol.types import ControllerId
from tests.controller.raft.lab import Lab

LEADER = ControllerId(0)


def led() -> Lab:
    """Return three controllers, of which 0 leads and has just been heard."""
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    return lab


def test_nobody_waits_for_the_silence_of_a_leader_that_has_stopped() -> None:
    lab = led()
    began_s = lab.now_s
    for follower in (1, 2):
        lab.cores[follower].disconnected(LEADER)
    while not any(lab.cores[follower]._leads for follower in (1, 2)):
        lab.now_s += 0.01
        lab.exchange(1, 2, rounds=1)
        assert lab.now_s < began_s + lab.cores[1]._options.election_timeout_min_s


def test_a_cut_link_deposes_nobody() -> None:
    lab = led()
    term = lab.cores[0].term
    lab.cores[1].disconnected(LEADER)
    for _ in range(30):
        lab.now_s += 0.1
        lab.exchange(1, 2, rounds=1)  # 1 asks for votes
        lab.drop(0, 1)
        lab.exchange(0, 2, rounds=1)
    assert lab.cores[0]._leads
    assert [core.term for core in lab.cores.values()] == [term] * 3


def test_a_leader_that_is_heard_again_is_followed() -> None:
    lab = led()
    lab.cores[1].disconnected(LEADER)
    lab.cores[1].connected(LEADER)
    lab.heartbeat(0, 1, 2)
    assert lab.cores[0]._leads
    assert lab.cores[1].leadership().leader_id == LEADER
    assert lab.cores[1]._SyncObj__raftElectionDeadline > lab.now_s


def test_a_leader_that_hears_no_quorum_steps_down_when_it_was_told_to() -> None:
    lab = Lab(3, leader_contact_timeout_s=0.9)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    heard_s = lab.now_s
    while lab.cores[0]._leads:
        lab.now_s += 0.01
        lab.cores[0].step()
        assert lab.now_s < heard_s + 1.0
    assert lab.now_s >= heard_s + 0.9

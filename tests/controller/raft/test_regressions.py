"""The faults of stock pysyncobj, one scenario each: none may come back."""

import pytest

from odradek.controller.raft.core import Applied, Failure, Proposal, RaftCore
from odradek.controller.raft.messages import AppendEntries, InstallSnapshot, VoteAnswer
from odradek.protocol.types import ControllerId
from tests.controller.raft.lab import Lab, Outcomes
from tests.simulation.raft.history import RecordingMachine
from tests.simulation.raft.mutations import (
    TruncatingFollower,
    UnclampedSnapshotCommit,
    UntaggedAnswers,
)

FOLLOWER = 0


class BrokenMachine(RecordingMachine):
    """A bug in the state machine."""

    def apply(self, index: int, command: bytes) -> bytes:
        raise ZeroDivisionError


def stale_acknowledgement(core_class: type[RaftCore]) -> tuple[Outcomes, Outcomes]:
    """Five controllers; 1's acknowledgements of term 1 reach 0 when it leads term 3."""
    lab = Lab(5, core_class=core_class)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2, 3, 4)
    for number in range(10):
        lab.propose(0, b"term 1, %d" % number)
    for other in (2, 3, 4):
        lab.drop(0, other)
    lab.deliver(0, 1)
    held = list(lab.queues[1, 0])
    lab.drop(1, 0)
    lab.elect(2, 3, 4)
    lab.exchange(2, 3, 4, 0)
    lab.elect(0, 3, 4)
    lab.exchange(0, 3, 4)
    for other in (1, 2, 3, 4):
        lab.drop(0, other)
        lab.drop(other, 0)
    lab.now_s += 0.1
    outcome = lab.propose(0, b"in doubt")
    lab.deliver(0, 3)
    lab.deliver(3, 0)  # one genuine acknowledgement: two of five
    before = list(outcome)
    lab.queues[1, 0].extend(held)
    lab.deliver(1, 0)
    return before, outcome


def test_acknowledgements_of_an_earlier_term_do_not_commit() -> None:
    before, after = stale_acknowledgement(RaftCore)
    assert before == after == []


def test_that_scenario_catches_untagged_acknowledgements() -> None:
    with pytest.raises(AssertionError, match="next_index lies within the log"):
        stale_acknowledgement(UntaggedAnswers)


def snapshot_over_unverified_entries(core_class: type[RaftCore]) -> tuple[Outcomes, list[bytes]]:
    """A deposed leader with an uncommitted entry receives the first piece of a snapshot."""
    lab = Lab(3, core_class=core_class, snapshot_after_entries=5, retained_entries=0)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    outcome = lab.propose(0, b"uncommitted")
    lab.drop(0, 1)
    lab.drop(0, 2)
    lab.elect(1, 2)
    for number in range(30):
        lab.propose(1, b"term 2, %d" % number)
    lab.drop(1, 0)
    lab.exchange(1, 2)
    lab.executors[1].run()
    lab.heartbeat(1, 2)
    assert lab.storages[1].journal.first_index > 5
    lab.drop(0, 1)
    lab.drop(1, 0)
    while not (pieces := [m for m in lab.queues[1, 0] if isinstance(m, InstallSnapshot)]):
        lab.now_s += 0.1
        lab.cores[1].step()
        lab.cores[0]._SyncObj__raftElectionDeadline = lab.now_s + 1e6
        if not any(isinstance(m, InstallSnapshot) for m in lab.queues[1, 0]):
            lab.deliver(1, 0)
            lab.deliver(0, 1)
    piece = pieces[0]
    half = len(piece.data) // 2
    first = InstallSnapshot(
        piece.term, piece.last_index, piece.last_term, 0, piece.data[:half], piece.total_bytes
    )
    lab.cores[0].deliver(ControllerId(1), first)
    lab.cores[0].step()
    lab.exchange(0, 1, 2)
    return outcome, list(lab.history.applied.values())


def test_a_snapshot_message_commits_nothing_unverified() -> None:
    outcome, applied = snapshot_over_unverified_entries(RaftCore)
    assert outcome == [Failure.UNKNOWN]
    assert b"uncommitted" not in applied


def test_that_scenario_catches_an_unclamped_commit_index() -> None:
    _, applied = snapshot_over_unverified_entries(UnclampedSnapshotCommit)
    assert b"uncommitted" in applied


def late_append(core_class: type[RaftCore]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """An AppendEntries of the same term arrives again, long after later ones."""
    lab = Lab(3, core_class=core_class)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    lab.propose(0, b"first")
    old = next(m for m in lab.queues[0, 1] if isinstance(m, AppendEntries) and m.entries)
    for number in range(20):
        lab.propose(0, b"%d" % number)
    lab.deliver(0, 1)
    before = lab.log_of(1)
    lab.cores[1].deliver(ControllerId(0), old)
    lab.cores[1].step()
    return before, lab.log_of(1)


def test_a_late_duplicate_truncates_nothing() -> None:
    before, after = late_append(RaftCore)
    assert len(before) == 23
    assert after == before


def test_that_scenario_catches_truncation_of_matching_entries() -> None:
    before, after = late_append(TruncatingFollower)
    assert after != before


def test_a_stale_refusal_does_not_rewind_the_leader() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    lab.drop(0, 1)
    lab.cores[0].submit([])
    for number in range(5):
        lab.propose(0, b"%d" % number)
    lab.queues[0, 1].popleft()  # lost: what follows is refused
    lab.deliver(0, 1)
    refusals = list(lab.queues[1, 0])
    lab.exchange(0, 1, 2)
    progress = lab.cores[0]._progress[ControllerId(1)]
    matched, next_index = progress.match_index, progress.next_index
    lab.queues[1, 0].extend(refusals)
    lab.deliver(1, 0)
    assert (progress.match_index, progress.next_index) == (matched, next_index)


def test_a_repeated_vote_counts_once() -> None:
    lab = Lab(5)
    lab.elect(0, 1, 2)
    core = lab.cores[3]
    lab.now_s += 1
    core._SyncObj__raftElectionDeadline = 0
    core.step()
    term = core.term + 1
    for voter in (1, 2):
        core.deliver(ControllerId(voter), VoteAnswer(term, granted=True, pre_vote=True))
    core.step()
    assert core.term == term
    for _ in range(4):
        core.deliver(ControllerId(4), VoteAnswer(term, granted=True))
    assert not core._leads
    core.deliver(ControllerId(1), VoteAnswer(term, granted=True))
    assert core._leads


def test_a_controller_that_was_cut_off_does_not_depose_the_leader() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    term = lab.cores[0].term
    for _ in range(20):  # 2 hears nobody and asks for pre-votes in vain
        lab.heartbeat(0, 1)
        lab.cores[2].step()
    assert len(lab.queues[2, 0]) > 5
    lab.exchange(0, 1, 2)
    assert lab.cores[0]._leads
    assert {core.term for core in lab.cores.values()} == {term}


def test_a_longer_log_with_an_older_term_learns_the_newer_term() -> None:
    """Or else two controllers would refuse each other for ever."""
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    lab.propose(0, b"only here")
    lab.drop(0, 1)
    lab.drop(0, 2)
    lab.now_s += 1.0
    for _ in range(3):  # 1 raises its term, but its log is too short for 0
        lab.cores[1]._SyncObj__setCurrentTerm(lab.cores[1].term + 1, None)
    core = lab.cores[0]
    core._SyncObj__setState(FOLLOWER)
    lab.drop(1, 0)
    lab.now_s += 1.0
    for _ in range(6):
        core._SyncObj__raftElectionDeadline = lab.now_s - 1
        lab.cores[1]._SyncObj__raftElectionDeadline = lab.now_s + 1e6
        lab.now_s += 0.4
        core.step()
        lab.deliver(0, 1)
        lab.deliver(1, 0)
    assert core._leads


def test_a_command_fails_as_unknown_when_its_leader_is_deposed() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    outcome = lab.propose(0, b"in doubt")
    lab.drop(0, 1)
    lab.drop(0, 2)
    lab.elect(1, 2)
    lab.exchange(0, 1, 2)
    assert outcome == [Failure.UNKNOWN]
    assert not lab.cores[0]._SyncObj__commandsWaitingCommit


def test_a_leader_that_hears_no_quorum_steps_down() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    outcome = lab.propose(0, b"in doubt")
    lab.now_s += 2.1
    lab.cores[0].step()
    assert not lab.cores[0]._leads
    assert outcome == [Failure.UNKNOWN]


def test_a_leader_acts_only_after_its_own_no_op_is_applied() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    assert lab.cores[0]._leads
    assert not lab.cores[0].leadership().is_leader
    lab.heartbeat(0, 1, 2)
    leadership = lab.cores[0].leadership()
    assert (leadership.is_leader, leadership.leader_id) == (True, 0)
    assert lab.cores[1].leadership().leader_id == 0


def test_a_command_of_another_term_is_refused() -> None:
    lab = Lab(1)
    lab.elect(0)
    term = lab.cores[0].term
    assert lab.propose(0, b"stale", term=term - 1) == [Failure.NOT_LEADER]
    fresh = lab.propose(0, b"fresh", term=term)
    lab.cores[0].step()
    assert [type(one) for one in fresh] == [Applied]
    assert list(lab.history.applied.values()) == [b"fresh"]


def test_a_follower_refuses_and_forwards_nothing() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    assert lab.propose(1, b"x") == [Failure.NOT_LEADER]
    lab.exchange(0, 1, 2)
    assert lab.history.applied == {}


def test_barriers_that_wait_together_share_one_entry() -> None:
    lab = Lab(1)
    lab.elect(0)
    last = lab.storages[0].journal.last_index
    outcomes: Outcomes = []
    lab.cores[0].submit([Proposal(None, None, outcomes.append) for _ in range(50)])
    lab.cores[0].step()
    lab.cores[0].step()
    assert outcomes == [Applied(last + 1, b"")] * 50
    assert lab.storages[0].journal.last_index == last + 1


def test_an_exception_in_apply_is_not_retried() -> None:
    """It reaches the owner, which ends the process; stock pysyncobj applies it again for ever."""
    lab = Lab(1)
    lab.elect(0)

    lab.cores[0]._machine = BrokenMachine(lab.history)
    with pytest.raises(ZeroDivisionError):
        lab.propose(0, b"poison")

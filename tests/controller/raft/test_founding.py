"""A new cluster begins when all its controllers have met; a replaced disk never begins another."""

from typing import Any

import pytest

from odradek.controller.raft.core import Applied, RaftCore
from odradek.controller.raft.encoding import decode, encode
from odradek.controller.raft.messages import Introduction
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.types import ControllerId
from tests.controller.raft.lab import Lab, Outcomes
from tests.simulation.raft.mutations import FoundsAlone


def voters(lab: Lab) -> set[int]:
    return {i for i, core in lab.cores.items() if core.status().is_voter}


def originals(lab: Lab, who: int) -> dict[ControllerId, int]:
    return dict(lab.storages[who].hard_state.state.originals)


def nonce(lab: Lab, who: int) -> int:
    return lab.storages[who].hard_state.state.rejoin_nonce


def one_replaced_disk(core_class: type[RaftCore]) -> tuple[Lab, Outcomes]:
    """What 0 and 1 committed, while 2 was down, is on 0 alone; 1 and 2 start without it."""
    lab = Lab(3, core_class=core_class)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    outcome = lab.propose(0, b"precious")
    lab.exchange(0, 1)
    lab.replace_disk(1)
    lab.restart(2)
    for _ in range(30):
        lab.heartbeat(1, 2)
    return lab, outcome


def test_a_replaced_disk_elects_nobody_without_what_was_committed() -> None:
    lab, outcome = one_replaced_disk(RaftCore)
    assert [type(one) for one in outcome] == [Applied]
    assert not lab.cores[1]._leads
    assert not lab.cores[2]._leads
    assert voters(lab) == {0, 2}
    lab.restart(0)
    for _ in range(30):
        lab.heartbeat(0, 1, 2)
    assert voters(lab) == {0, 1, 2}  # admitted by a leader
    assert [machine.digest for machine in lab.machines.values()] == [lab.machines[0].digest] * 3
    assert lab.machines[0].last_index == outcome[0].index  # type: ignore[union-attr]
    assert originals(lab, 1) == {}


def test_that_scenario_catches_an_empty_disk_that_founds_alone() -> None:
    lab, outcome = one_replaced_disk(FoundsAlone)
    assert [type(one) for one in outcome] == [Applied]
    assert lab.cores[1]._leads or lab.cores[2]._leads


def test_a_controller_without_peers_votes_at_once() -> None:
    lab = Lab(1, founded=False)
    assert voters(lab) == {0}


def test_three_begin_once_they_have_met() -> None:
    lab = Lab(3, founded=False)
    for _ in range(20):
        lab.heartbeat(0, 1)
    assert voters(lab) == set()
    disks = [nonce(lab, i) for i in range(3)]
    assert all(disks)
    lab.heartbeat(0, 1, 2)
    assert voters(lab) == {0, 1, 2}
    assert originals(lab, 0).items() <= {1: disks[1], 2: disks[2]}.items()
    lab.elect(0, 1, 2)


def meet(lab: Lab, who: int, *others: int) -> None:
    """Let one controller meet the others, without their hearing that it has founded."""
    lab.now_s += 0.1
    for core in lab.cores.values():
        core.step()
    for other in others:
        lab.deliver(who, other)
        lab.deliver(other, who)
        lab.drop(who, other)
    for other in others:
        for third in others:
            if other != third:
                lab.drop(other, third)


def test_one_that_has_founded_confirms_the_others_again_and_again() -> None:
    lab = Lab(3, founded=False)
    disks = [nonce(lab, i) for i in range(3)]
    meet(lab, 0, 1, 2)
    assert voters(lab) == {0}
    assert originals(lab, 0) == {1: disks[1], 2: disks[2]}
    lab.restart(0)
    lab.now_s += 0.1
    lab.cores[1].step()
    lab.deliver(1, 0)
    assert Introduction(0, known_nonce=disks[1]) in lab.queues[0, 1]
    lab.drop(0, 1)  # its answer is lost
    lab.heartbeat(0, 1, 2)
    assert voters(lab) == {0, 1, 2}


def test_a_disk_replaced_before_the_others_have_founded_is_admitted() -> None:
    lab = Lab(3, founded=False)
    meet(lab, 0, 1, 2)
    lab.replace_disk(1)
    for _ in range(5):
        lab.heartbeat(0, 1, 2)
    assert voters(lab) == {0, 1, 2}
    assert originals(lab, 1) == {}


def test_a_majority_of_replaced_disks_waits_instead_of_beginning_anew() -> None:
    lab = Lab(3)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    lab.replace_disk(0)
    lab.replace_disk(2)
    for _ in range(30):
        lab.heartbeat(0, 1, 2)
    assert voters(lab) == {1}
    assert not any(core._leads for core in lab.cores.values())


def test_what_was_said_to_an_earlier_disk_confirms_nothing() -> None:
    lab = Lab(3, founded=False)
    old = nonce(lab, 0)
    core = lab.replace_disk(0)
    for known, votes in ((old, False), (nonce(lab, 0), True)):
        for other in (1, 2):
            core.deliver(ControllerId(other), Introduction(nonce(lab, other), known_nonce=known))
        assert core.status().is_voter is votes


@pytest.mark.parametrize("flags", [{"rejoin": True}, {"rejoin": False}])
def test_a_fresh_disk_stays_fresh_over_restarts(flags: dict[str, Any]) -> None:
    lab = Lab(3)
    lab.replace_disk(2, **flags)
    disk = nonce(lab, 2)
    assert disk
    lab.restart(2)
    assert nonce(lab, 2) == disk
    assert lab.storages[2].hard_state.state.may_found is not flags["rejoin"]
    for _ in range(10):
        lab.heartbeat(2, 0)
    assert voters(lab) == {0, 1}


def test_a_founder_and_an_admitted_controller_stay_voters_over_restarts() -> None:
    lab = Lab(3)
    known = originals(lab, 0)
    lab.restart(0)
    assert (nonce(lab, 0), originals(lab, 0)) == (0, known)
    lab.elect(0, 1, 2)
    lab.heartbeat(0, 1, 2)
    lab.replace_disk(2)
    for _ in range(5):
        lab.heartbeat(0, 1, 2)
    lab.restart(2)
    assert (nonce(lab, 2), originals(lab, 2)) == (0, {})
    assert not lab.storages[2].hard_state.state.may_found


def test_an_introduction_names_a_disk() -> None:
    for introduction in (Introduction(7, 0), Introduction(0, 7), Introduction(7, (1 << 64) - 1)):
        assert decode(encode(introduction)) == introduction
    with pytest.raises(InvalidRequestError, match="must name a disk"):
        decode(encode(Introduction(0, 0)))


def test_one_that_waits_says_for_whom(caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(3, founded=False)
    lab.cores[0].disconnected(ControllerId(2))
    for _ in range(120):
        lab.heartbeat(0, 1)
    told = [each for each in caplog.messages if each.startswith("controller 0 has a fresh disk")]
    assert 1 < len(told) < 4
    assert "Not reached: controllers [2]. Reached, but they do not know this disk: []." in told[0]

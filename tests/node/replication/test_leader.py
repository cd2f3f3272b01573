"""When a record can no longer be lost, and who is in sync."""

import pytest

from odradek.node.replication.isr import PROPOSAL_RETRY_S, IsrMember, ProposeIsr
from odradek.node.replication.leader import Diverging, PushDue, Refused
from odradek.node.replication.progress import Cursor
from odradek.node.storage.epochs import EpochEnd
from odradek.protocol.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    NotLeaderOrFollowerError,
    StaleBrokerEpochError,
    UnknownLeaderEpochError,
)
from odradek.protocol.types import Incarnation, LeaderEpoch, Offset, PartitionEpoch
from tests.node.replication.leader_world import (
    ALL,
    EPOCH,
    LAG_S,
    N1,
    N2,
    N3,
    N4,
    World,
    committed,
    epochs,
    proposed,
    state,
)

# The high watermark


def test_alone_a_record_commits_with_its_own_sync() -> None:
    world = World(isr=(N1,))
    assert world.append(5) == []
    assert world.core.on_durable(Offset(3)) == [committed(3)]
    assert world.core.on_durable(Offset(5)) == [committed(5)]


def test_every_member_must_have_it_on_disk() -> None:
    world = World()
    world.announce(N2, 0)
    world.announce(N3, 0)
    world.append(5)
    world.send(N2, 5)
    world.send(N3, 5)
    assert world.core.on_durable(Offset(5)) == []
    assert world.ack(N2, 5) == []
    assert world.ack(N3, 2) == [committed(2)]
    assert world.ack(N3, 5) == [committed(5)]


def test_the_leader_counts_only_once_its_own_sync_is_done() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    assert world.ack(N2, 5) == []
    assert world.core.on_durable(Offset(5)) == [committed(5)]


def test_acks_from_outside_the_isr_count_for_nothing() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    world.announce(N3, 0)
    world.append(5)
    world.send(N3, 5)
    world.core.on_durable(Offset(5))
    assert committed(5) not in world.ack(N3, 5)
    assert world.core.high_watermark == 0


def test_below_min_insync_nothing_commits_until_a_member_returns() -> None:
    world = World(isr=(N1,), min_insync=2)
    world.append(5)
    assert world.core.on_durable(Offset(5)) == []
    assert not world.core.has_enough_replicas
    assert proposed(world.announce(N2, 0)) == (N1, N2)
    world.send(N2, 5)
    assert world.ack(N2, 5) == []
    assert world.core.high_watermark == 0, "the ISR is still too small until the controller agrees"
    assert world.image(N1, N2) == [committed(5)]


def test_a_demand_that_falls_lets_the_watermark_go_on() -> None:
    world = World(isr=(N1,), min_insync=2)
    world.append(5)
    world.core.on_durable(Offset(5))
    world.min_insync = 1
    assert world.core.on_image(state((N1,)), world.live, 1, world.now_s) == [committed(5)]


def test_a_member_that_leaves_is_no_longer_waited_for() -> None:
    world = World(isr=(N1, N2))
    world.append(5)
    world.core.on_durable(Offset(5))
    assert world.image(N1) == [committed(5)]


def test_a_member_away_keeps_what_it_has() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    world.ack(N2, 5)
    world.core.on_disconnected(N2, world.live[N2])
    assert world.core.cursor(N2) is None
    assert world.core.on_durable(Offset(5)) == [committed(5)]


def test_a_new_leader_waits_for_proof_of_what_was_committed_before() -> None:
    world = World(log_end=9, durable_end=9, high_watermark=4, epochs=epochs((3, 0)))
    assert world.core.start() == []
    assert not world.core.reached_epoch_start
    world.announce(N2, 9, 3)
    assert committed(8) in world.announce(N3, 8, 3)
    assert not world.core.reached_epoch_start
    world.send(N3, 9)
    assert world.ack(N3, 9) == [committed(9)]
    assert world.core.reached_epoch_start


# Sessions and cursors


def test_a_prefix_is_pushed_to_from_its_end() -> None:
    world = World(log_end=9, durable_end=9, epochs=epochs((3, 0)))
    assert PushDue(N2) in world.announce(N2, 6, 3)
    assert world.core.cursor(N2) == Cursor(1, Offset(6), is_settled=True)
    world.send(N2, 9)
    assert world.append(12) == [PushDue(N2)]
    assert world.append(15) == [], "a push is due already"


def test_another_history_is_cut_where_it_parts() -> None:
    world = World(log_end=9, durable_end=9, epochs=epochs((3, 0), (5, 6)))
    assert world.announce(N2, 8, 3) == [Diverging(N2, 1, EpochEnd(LeaderEpoch(3), Offset(6)))]
    assert world.core.cursor(N2) is None
    assert world.announce(N2, 8, 4) == [Diverging(N2, 2, EpochEnd(LeaderEpoch(3), Offset(6)))]
    assert world.announce(N2, 11, 5) == [Diverging(N2, 3, EpochEnd(LeaderEpoch(5), Offset(9)))]
    assert PushDue(N2) in world.announce(N2, 6, 3)


def test_what_retention_took_is_not_sent() -> None:
    world = World(log_end=9, durable_end=9, epochs=epochs((5, 6)))
    nothing_in_common = EpochEnd(LeaderEpoch(-1), Offset(6))
    assert world.announce(N2, 4, 3, log_start=6) == [Diverging(N2, 1, nothing_in_common)]
    assert world.announce(N2, 8, 3, log_start=6) == [Diverging(N2, 2, nothing_in_common)]
    assert PushDue(N2) in world.announce(N2, 6, -1, log_start=6)
    assert world.core.on_cursor_lost(N2, 3, Offset(8)) == [
        Diverging(N2, 3, EpochEnd(LeaderEpoch(-1), Offset(8)))
    ]


def test_an_empty_follower_begins_at_the_start() -> None:
    world = World(log_end=9, durable_end=9, epochs=epochs((5, 0)))
    assert PushDue(N2) in world.announce(N2, 0)


def test_announcements_under_another_epoch_are_refused() -> None:
    world = World()
    for epoch, error in ((6, FencedLeaderEpochError), (8, UnknownLeaderEpochError)):
        (effect,) = world.announce(N2, 0, leader_epoch=LeaderEpoch(epoch))
        assert isinstance(effect, Refused)
        assert isinstance(effect.error, error)


def test_strangers_and_earlier_selves_are_refused() -> None:
    world = World()
    (stranger,) = world.announce(N4, 0)
    assert isinstance(stranger, Refused)
    assert isinstance(stranger.error, NotLeaderOrFollowerError)
    (earlier,) = world.announce(N2, 0, incarnation=11)
    assert isinstance(earlier, Refused)
    assert isinstance(earlier.error, StaleBrokerEpochError)


def test_frames_of_an_older_session_change_nothing() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    world.core.on_durable(Offset(5))
    world.announce(N2, 0)
    assert world.core.on_acked(N2, world.live[N2], 1, Offset(5), world.now_s) == []
    assert world.core.on_acked(N2, Incarnation(99), 2, Offset(5), world.now_s) == []
    world.core.on_sent(N2, 1, Offset(5), world.now_s)
    assert world.core.cursor(N2) == Cursor(2, Offset(0), is_settled=True)


def test_an_overtaken_announcement_changes_nothing() -> None:
    world = World()
    world.announce(N2, 0)
    world.sessions[N2] -= 1
    assert world.announce(N2, 0) == []


@pytest.mark.parametrize(("durable_end", "log_end"), [(5, 4), (-1, 4)])
def test_an_announcement_that_contradicts_itself_is_refused(durable_end: int, log_end: int) -> None:
    with pytest.raises(InvalidRequestError):
        World().announce(N2, log_end, durable_end=durable_end)


def test_an_ack_of_what_was_not_sent_is_refused() -> None:
    world = World()
    world.announce(N2, 0)
    world.append(5)
    with pytest.raises(InvalidRequestError):
        world.ack(N2, 5)


# The ISR


def test_whoever_caught_up_is_proposed_and_waited_for_at_once() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    world.core.on_durable(Offset(5))
    effects = world.announce(N3, 0)
    assert proposed(effects) == (N1, N2, N3), "nothing is committed that it lacks"
    assert world.ack(N2, 5) == [], "it may be in the ISR by now"
    world.send(N3, 5)
    assert world.ack(N3, 5) == [committed(5)]


def test_whoever_lacks_committed_records_or_the_epochs_start_must_wait() -> None:
    world = World(isr=(N1,), log_end=4, durable_end=4, epochs=epochs((3, 0)))
    world.core.start()
    assert proposed(world.announce(N3, 3, 3)) is None
    world.send(N3, 4)
    assert proposed(world.ack(N3, 4)) == (N1, N3)


def test_a_proposal_names_incarnations_and_both_epochs() -> None:
    world = World(isr=(N1, N2))
    effects = world.announce(N3, 0)
    members = tuple(IsrMember(node_id, Incarnation(10 + node_id)) for node_id in ALL)
    assert ProposeIsr(EPOCH, PartitionEpoch(0), members) in effects


def test_fenced_nodes_are_not_proposed_until_the_image_has_them_back() -> None:
    world = World(isr=(N1, N2))
    incarnation = world.live.pop(N3)
    assert proposed(world.announce(N3, 0, incarnation=incarnation)) is None
    world.live[N3] = incarnation
    effects = world.core.on_image(state((N1, N2)), world.live, 1, world.now_s)
    assert proposed(effects) == (N1, N2, N3)


def test_one_proposal_at_a_time() -> None:
    world = World(isr=(N1,))
    assert proposed(world.announce(N2, 0)) == (N1, N2)
    assert proposed(world.announce(N3, 0)) is None
    assert proposed(world.image(N1, N2)) == (N1, N2, N3)


def test_after_a_refusal_the_isr_as_it_is_ends_the_doubt() -> None:
    world = World(isr=(N1,))
    world.append(5)
    (proposal,) = (e for e in world.announce(N2, 0) if isinstance(e, ProposeIsr))
    assert world.core.on_durable(Offset(5)) == []
    effects = world.core.on_proposal_answered(proposal, world.now_s)
    assert proposed(effects) == (N1,), "at once, and without whoever was refused"
    assert world.core.high_watermark == 0, "a repeat of the first may still be accepted"
    assert committed(5) in world.image(N1)


def test_refused_again_it_asks_a_moment_later() -> None:
    world = World(isr=(N1,))
    (first,) = (e for e in world.announce(N2, 0) if isinstance(e, ProposeIsr))
    (second,) = world.core.on_proposal_answered(first, world.now_s)
    assert isinstance(second, ProposeIsr)
    assert world.core.on_proposal_answered(second, world.now_s) == []
    assert world.tick(PROPOSAL_RETRY_S / 2) == []
    assert proposed(world.tick(PROPOSAL_RETRY_S)) == (N1, N2)


def test_an_old_proposals_answer_does_not_end_a_newer_one() -> None:
    world = World(isr=(N1,))
    (first,) = (e for e in world.announce(N2, 0) if isinstance(e, ProposeIsr))
    world.announce(N3, 0)
    assert proposed(world.image(N1, N2)) == (N1, N2, N3)
    assert world.core.on_proposal_answered(first, world.now_s) == []
    assert world.tick(PROPOSAL_RETRY_S * 2) == []


def test_whom_the_controller_takes_out_is_left_to_it() -> None:
    world = World()
    world.live.pop(N3)
    assert world.core.on_image(state(ALL), world.live, 1, world.now_s) == []


def test_a_member_that_lags_is_proposed_to_leave_and_waited_for_until_it_has() -> None:
    world = World()
    world.announce(N2, 0)
    world.announce(N3, 0)
    world.append(5)
    world.core.on_durable(Offset(5))
    world.send(N2, 5)
    world.send(N3, 5)
    world.ack(N2, 5)
    assert world.tick(LAG_S) == []
    assert proposed(world.tick(1)) == (N1, N2)
    assert world.core.high_watermark == 0
    assert world.image(N1, N2) == [committed(5)]


def test_a_member_under_load_is_judged_by_what_it_was_sent() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    for step in range(1, 100):
        world.append(step * 10)
        world.send(N2, step * 10)
        world.append(step * 10 + 5)
        world.ack(N2, step * 10)
        assert proposed(world.tick(1)) is None


def test_an_idle_follower_stays() -> None:
    world = World(isr=(N1, N2))
    world.announce(N2, 0)
    for _ in range(5):
        assert world.tick(LAG_S) == []


def test_a_member_that_never_came_leaves() -> None:
    world = World(isr=(N1, N2))
    assert world.tick(LAG_S) == []
    assert proposed(world.tick(1)) == (N1,)


def test_a_fenced_leader_proposes_nothing() -> None:
    world = World(isr=(N1, N2))
    world.live.pop(N1)
    assert world.tick(LAG_S * 2) == []

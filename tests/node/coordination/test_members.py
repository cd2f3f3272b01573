"""The machine that turns frames, silence and the controller's word into proposals and replies."""

from collections.abc import Iterable

import pytest

from odradek.node.coordination.frames import (
    Effect,
    Frame,
    Proposed,
    Reply,
    ReplyDue,
    StreamEnded,
    StreamId,
)
from odradek.node.coordination.members import GroupMembers
from odradek.node.coordination.model import (
    GroupTimes,
    Joined,
    Left,
    Member,
    Owns,
    TopicIdPartition,
)
from odradek.protocol.errors import (
    BrokerError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from odradek.protocol.types import MemberId, TopicName

from .cluster import GROUP, gps, group_of, member_of

A_STREAM, B_STREAM, NEW_STREAM = StreamId(1), StreamId(2), StreamId(3)
TOPICS = frozenset([TopicName("gps")])


def frame(
    name: str,
    epoch: int,
    owned: Iterable[TopicIdPartition] | None = None,
    *,
    topics: frozenset[TopicName] | None = None,
    instance_id: str = "",
) -> Frame:
    return Frame(
        group=GROUP,
        member_id=MemberId(name),
        member_epoch=epoch,
        instance_id=instance_id,
        topics=topics,
        owned=None if owned is None else frozenset(owned),
    )


def first_frame(
    name: str, epoch: int, owned: Iterable[TopicIdPartition] = (), *, instance_id: str = ""
) -> Frame:
    return frame(name, epoch, owned, topics=TOPICS, instance_id=instance_id)


def proposals(effects: list[Effect]) -> list[object]:
    return [each.change for each in effects if isinstance(each, Proposed)]


def error_in(effects: list[Effect]) -> BrokerError | None:
    (ended,) = [each for each in effects if isinstance(each, StreamEnded)]
    return ended.error


def coordinator(*members: Member, now_s: float = 0.0) -> GroupMembers:
    """A coordinator just elected: it knows what the controller knows."""
    machine = GroupMembers(GroupTimes())
    machine.on_groups([group_of(*members)], [], now_s)
    return machine


def connected(*members: Member, now_s: float = 0.0) -> GroupMembers:
    """A coordinator to which the first two members have connected; both know what they own."""
    machine = coordinator(*members, now_s=now_s)
    for stream, member in zip((A_STREAM, B_STREAM), members, strict=False):
        hello = first_frame(member.member_id, member.member_epoch, member.assigned)
        assert machine.on_frame(stream, hello, now_s) == [ReplyDue(stream)]
        assert machine.reply(stream) is not None
    return machine


def test_the_first_member_is_proposed_at_once_and_the_next_ones_wait() -> None:
    machine = GroupMembers(GroupTimes())
    (first,) = machine.on_frame(A_STREAM, first_frame("a", 0), 10.0)
    (second,) = machine.on_frame(B_STREAM, first_frame("b", 0), 10.0)
    assert isinstance(first, Proposed)
    assert isinstance(second, Proposed)
    assert (first.due_s, second.due_s) == (10.0, 10.25)
    assert isinstance(first.change, Joined)
    assert first.change.topics == TOPICS
    assert machine.reply(A_STREAM) is None, "nothing is known yet"


def test_a_join_is_answered_once_the_controller_has_agreed_and_fed_it() -> None:
    machine = GroupMembers(GroupTimes())
    (proposed,) = machine.on_frame(A_STREAM, first_frame("a", 0), 0.0)
    assert isinstance(proposed, Proposed)
    assert machine.on_groups([group_of(member_of("a", {0: 5, 1: 5}))], [], 0.1) == []
    decided = machine.on_decided(GROUP, proposed.change, None, 0.1)
    assert decided == [ReplyDue(A_STREAM)]
    assert machine.reply(A_STREAM) == Reply(5, 5, frozenset([gps(0), gps(1)]))
    assert machine.on_frame(A_STREAM, frame("a", 5), 3.0) == [ReplyDue(A_STREAM)]
    assert machine.reply(A_STREAM) == Reply(5, 5, None), "nothing changed"


def test_a_refused_join_ends_the_stream_with_the_reason() -> None:
    machine = GroupMembers(GroupTimes())
    (proposed,) = machine.on_frame(A_STREAM, first_frame("a", 0), 0.0)
    assert isinstance(proposed, Proposed)
    refusal = GroupMaxSizeReachedError()
    effects = machine.on_decided(GROUP, proposed.change, refusal, 0.0)
    assert effects == [StreamEnded(A_STREAM, 0, refusal)]


def test_a_changed_assignment_is_pushed_without_waiting_for_a_frame() -> None:
    machine = connected(member_of("a", {0: 5}))
    changed = group_of(member_of("a", {0: 5, 1: 6}, epoch=6), epoch=6)
    assert machine.on_groups([changed], [], 1.0) == [ReplyDue(A_STREAM)]
    assert machine.reply(A_STREAM) == Reply(6, 6, frozenset([gps(0), gps(1)]))


def test_a_changed_epoch_alone_waits_for_the_next_frame() -> None:
    machine = connected(member_of("a", {0: 5}))
    assert machine.on_groups([group_of(member_of("a", {0: 5}, epoch=6), epoch=6)], [], 1.0) == []
    assert machine.on_frame(A_STREAM, frame("a", 5), 3.0) == [ReplyDue(A_STREAM)]
    assert machine.reply(A_STREAM) == Reply(6, 6, None)


def test_a_revocation_is_confirmed_by_what_is_owned_after_it_was_seen() -> None:
    machine = connected(member_of("a", {0: 5, 1: 5}))
    machine.on_groups([group_of(member_of("a", {0: 5}, {1: 5}, epoch=6), epoch=6)], [], 1.0)
    assert machine.reply(A_STREAM) == Reply(6, 6, frozenset([gps(0)]))
    assert proposals(machine.on_frame(A_STREAM, frame("a", 6), 2.0)) == [], "not yet given up"
    effects = machine.on_frame(A_STREAM, frame("a", 6, [gps(0)]), 2.0)
    assert proposals(effects) == [
        Owns(member_id=MemberId("a"), member_epoch=6, owned=frozenset([gps(0)]))
    ]
    assert proposals(machine.on_frame(A_STREAM, frame("a", 6), 5.0)) == [], "once is enough"


def test_a_frame_that_crossed_the_revocation_confirms_nothing() -> None:
    machine = connected(member_of("a", {0: 5}))
    machine.on_groups([group_of(member_of("a", {0: 5, 1: 5}))], [], 1.0)
    assert machine.reply(A_STREAM) is not None
    machine.on_groups([group_of(member_of("a", {0: 5}, {1: 5}, epoch=6), epoch=6)], [], 1.1)
    late = frame("a", 5, [gps(0)])  # sent before the member heard of partition 1
    assert proposals(machine.on_frame(A_STREAM, late, 1.2)) == []
    assert proposals(machine.on_frame(A_STREAM, frame("a", 6), 1.3)) == []


def test_who_says_that_it_is_still_revoking_can_confirm_later() -> None:
    machine = connected(member_of("a", {0: 5, 1: 5}))
    revoking = member_of("a", {0: 5}, revoking={1: 5}, epoch=6)
    machine.on_groups([group_of(revoking, epoch=6)], [], 1.0)
    machine.reply(A_STREAM)
    assert proposals(machine.on_frame(A_STREAM, frame("a", 6, [gps(0), gps(1)]), 1.1)) == []
    (owns,) = proposals(machine.on_frame(A_STREAM, frame("a", 6, [gps(0)]), 2.0))
    assert owns == Owns(member_id=MemberId("a"), member_epoch=6, owned=frozenset([gps(0)]))


def test_what_a_member_never_heard_of_it_need_not_give_up() -> None:
    machine = connected(member_of("a", {0: 5}))
    machine.on_groups([group_of(member_of("a", {0: 5, 1: 5}))], [], 1.0)
    # Before the stream could be written, the partition is revoked again.
    machine.on_groups([group_of(member_of("a", {0: 5}, {1: 5}, epoch=6), epoch=6)], [], 1.1)
    assert machine.reply(A_STREAM) == Reply(6, 6, None)
    effects = machine.on_frame(A_STREAM, frame("a", 6), 3.0)
    assert proposals(effects) == [
        Owns(member_id=MemberId("a"), member_epoch=6, owned=frozenset([gps(0)]))
    ]


def test_a_refused_confirmation_is_made_again() -> None:
    machine = connected(member_of("a", {0: 5, 1: 5}))
    machine.on_groups([group_of(member_of("a", {0: 5}, {1: 5}, epoch=6), epoch=6)], [], 1.0)
    machine.reply(A_STREAM)
    (owns,) = proposals(machine.on_frame(A_STREAM, frame("a", 6, [gps(0)]), 2.0))
    assert isinstance(owns, Owns)
    machine.on_decided(GROUP, owns, StaleMemberEpochError(), 2.1)
    assert proposals(machine.on_frame(A_STREAM, frame("a", 6), 3.0)) == [owns]


def test_a_silent_member_is_fenced_before_its_expulsion_is_proposed() -> None:
    machine = connected(member_of("a", {0: 5}), member_of("b", {1: 5}))
    machine.on_frame(B_STREAM, frame("b", 5), 40.0)
    effects = machine.on_tick(45.0)
    assert isinstance(error_in(effects), FencedMemberEpochError)
    assert proposals(effects) == [Left(member_id=MemberId("a"), expired=True)]
    assert machine.is_fenced(GROUP, "a")
    assert not machine.is_fenced(GROUP, "b")
    late = machine.on_frame(NEW_STREAM, first_frame("a", 5, [gps(0)]), 45.1)
    assert isinstance(error_in(late), FencedMemberEpochError)
    assert machine.on_tick(46.0) == [], "proposed once"


def test_a_fenced_member_may_join_anew() -> None:
    machine = connected(member_of("a", {0: 5}))
    (left,) = proposals(machine.on_tick(45.0))
    (joined,) = proposals(machine.on_frame(NEW_STREAM, first_frame("a", 0), 46.0))
    assert isinstance(left, Left)
    assert isinstance(joined, Joined)
    machine.on_groups([group_of(epoch=6)], [], 46.1)
    assert machine.on_decided(GROUP, left, None, 46.1) == []
    machine.on_groups([group_of(member_of("a", {0: 7}, epoch=7), epoch=7)], [], 46.2)
    assert machine.on_decided(GROUP, joined, None, 46.2) == [ReplyDue(NEW_STREAM)]
    assert not machine.is_fenced(GROUP, "a")


def test_a_broken_stream_has_five_seconds() -> None:
    machine = connected(member_of("a", {0: 5}))
    machine.on_stream_broken(A_STREAM, 10.0)
    assert machine.on_tick(14.9) == []
    assert proposals(machine.on_tick(15.0)) == [Left(member_id=MemberId("a"), expired=True)]


def test_reconnecting_in_time_keeps_everything() -> None:
    machine = connected(member_of("a", {0: 5}))
    machine.on_stream_broken(A_STREAM, 10.0)
    effects = machine.on_frame(NEW_STREAM, first_frame("a", 5, [gps(0)]), 14.0)
    assert effects == [ReplyDue(NEW_STREAM)]
    assert machine.reply(NEW_STREAM) == Reply(5, 5, frozenset([gps(0)]))
    assert machine.on_tick(58.9) == []


def test_a_newer_stream_replaces_an_older_one() -> None:
    machine = connected(member_of("a", {0: 5}))
    effects = machine.on_frame(NEW_STREAM, first_frame("a", 5, [gps(0)]), 1.0)
    assert effects == [StreamEnded(A_STREAM, 0, None), ReplyDue(NEW_STREAM)]
    machine.on_stream_broken(A_STREAM, 1.1)
    assert machine.on_tick(10.0) == [], "the old stream's end means nothing"


LATE = [first_frame("a", 0), first_frame("a", 5, [gps(0)]), frame("a", 5), frame("a", -1, [])]
"""What a member may have sent on a stream before it heard of its end."""


@pytest.mark.parametrize("late", LATE)
def test_frames_of_a_replaced_stream_are_void(late: Frame) -> None:
    machine = connected(member_of("a", {0: 5}))
    machine.on_frame(NEW_STREAM, first_frame("a", 5, [gps(0)]), 1.0)
    assert machine.reply(NEW_STREAM) is not None
    assert machine.on_frame(A_STREAM, late, 1.1) == []
    machine.on_stream_broken(A_STREAM, 1.2)
    assert machine.on_frame(NEW_STREAM, frame("a", 5), 2.0) == [ReplyDue(NEW_STREAM)]
    assert machine.reply(NEW_STREAM) == Reply(5, 5, None)


@pytest.mark.parametrize("late", LATE)
def test_frames_of_an_expelled_members_stream_are_void(late: Frame) -> None:
    machine = connected(member_of("a", {0: 5}))
    assert isinstance(error_in(machine.on_tick(45.0)), FencedMemberEpochError)
    assert machine.on_frame(A_STREAM, late, 45.1) == []
    machine.on_frame(NEW_STREAM, first_frame("a", 0), 45.2)
    assert machine.on_frame(A_STREAM, late, 45.3) == []
    assert machine.on_tick(90.1) == [], "the new membership's session began with its first frame"
    assert proposals(machine.on_tick(90.2)) == [Left(member_id=MemberId("a"), expired=True)]


def test_reconnecting_with_what_is_not_its_own_is_fenced() -> None:
    machine = coordinator(member_of("a", {0: 5}))
    effects = machine.on_frame(A_STREAM, first_frame("a", 5, [gps(0), gps(1)]), 0.0)
    assert isinstance(error_in(effects), FencedMemberEpochError)


def test_an_epoch_from_the_future_is_fenced() -> None:
    effects = connected(member_of("a", {0: 5})).on_frame(A_STREAM, frame("a", 6), 1.0)
    assert isinstance(error_in(effects), FencedMemberEpochError)


def test_a_stranger_is_unknown() -> None:
    effects = coordinator().on_frame(A_STREAM, first_frame("a", 3), 0.0)
    assert isinstance(error_in(effects), UnknownMemberIdError)


def test_leaving_is_answered_once_it_is_decided() -> None:
    machine = connected(member_of("a", {0: 5}), member_of("b", {1: 5}))
    effects = machine.on_frame(A_STREAM, frame("a", -1, []), 1.0)
    (left,) = proposals(effects)
    assert left == Left(member_id=MemberId("a"))
    assert isinstance(left, Left)
    assert machine.on_groups([group_of(member_of("b", {1: 5}))], [], 1.1) == []
    assert machine.on_decided(GROUP, left, None, 1.1) == [StreamEnded(A_STREAM, -1, None)]
    assert machine.on_tick(44.0) == []


def test_leaving_twice_is_answered() -> None:
    effects = coordinator().on_frame(A_STREAM, frame("a", -1, []), 0.0)
    assert effects == [StreamEnded(A_STREAM, -1, None)]


def test_a_static_member_goes_away_for_at_most_its_session() -> None:
    machine = connected(member_of("a", {0: 5}, instance_id="van"))
    (left,) = proposals(machine.on_frame(A_STREAM, frame("a", -2, []), 10.0))
    assert left == Left(member_id=MemberId("a"), away=True)
    assert isinstance(left, Left)
    away = group_of(member_of("a", {0: 5}, instance_id="van", away=True))
    machine.on_groups([away], [], 10.1)
    machine.on_decided(GROUP, left, None, 10.1)
    assert machine.on_tick(54.9) == []
    assert proposals(machine.on_tick(55.0)) == [Left(member_id=MemberId("a"), expired=True)]


def test_a_static_member_whose_session_ends_before_it_is_away_does_not_keep_its_place() -> None:
    machine = connected(member_of("a", {0: 5}, instance_id="van"))
    (left,) = proposals(machine.on_frame(A_STREAM, frame("a", -2), 10.0))
    assert isinstance(left, Left)
    assert machine.on_tick(56.0) == []  # no controller has answered
    away = group_of(member_of("a", {0: 5}, instance_id="van", away=True))
    machine.on_groups([away], [], 60.0)
    machine.on_decided(GROUP, left, None, 60.0)
    assert proposals(machine.on_tick(105.1)) == [Left(member_id=MemberId("a"), expired=True)]


def test_a_dynamic_member_cannot_go_away() -> None:
    effects = connected(member_of("a")).on_frame(A_STREAM, frame("a", -2, []), 0.0)
    assert isinstance(error_in(effects), InvalidRequestError)


def test_the_successor_of_a_static_member_fences_it() -> None:
    machine = connected(member_of("a1", {0: 5}, instance_id="van"))
    hello = first_frame("a2", 0, instance_id="van")
    (joined,) = proposals(machine.on_frame(B_STREAM, hello, 1.0))
    assert isinstance(joined, Joined)
    taken_over = group_of(member_of("a2", {0: 5}, instance_id="van"))
    fenced = machine.on_groups([taken_over], [], 1.1)
    assert isinstance(error_in(fenced), FencedInstanceIdError)
    assert machine.on_decided(GROUP, joined, None, 1.1) == [ReplyDue(B_STREAM)]
    late = machine.on_frame(NEW_STREAM, first_frame("a1", 5, [gps(0)], instance_id="van"), 2.0)
    assert isinstance(error_in(late), FencedInstanceIdError)


def test_who_does_not_revoke_in_time_is_expelled() -> None:
    machine = connected(member_of("a", {0: 5, 1: 5}))
    machine.on_groups([group_of(member_of("a", {0: 5}, {1: 5}, epoch=6), epoch=6)], [], 10.0)
    for now_s in range(12, 70, 3):
        machine.on_frame(A_STREAM, frame("a", 5), float(now_s))
        assert proposals(machine.on_tick(float(now_s))) == []
    assert proposals(machine.on_tick(70.0)) == [Left(member_id=MemberId("a"), expired=True)]


def test_who_revokes_in_time_is_not() -> None:
    machine = connected(member_of("a", {0: 5, 1: 5}))
    machine.on_groups([group_of(member_of("a", {0: 5}, {1: 5}, epoch=6), epoch=6)], [], 10.0)
    machine.on_groups([group_of(member_of("a", {0: 5}, epoch=6), epoch=6)], [], 20.0)
    for now_s in range(21, 120, 3):
        machine.on_frame(A_STREAM, frame("a", 6), float(now_s))
        assert machine.on_tick(float(now_s)) == []


def test_a_new_coordinator_grants_everybody_a_whole_session() -> None:
    machine = coordinator(member_of("a"), member_of("b", instance_id="v", away=True), now_s=100.0)
    assert machine.on_tick(144.9) == []
    assert {change.member_id for change in proposals(machine.on_tick(145.0))} == {"a", "b"}  # type: ignore[attr-defined]


def test_another_subscription_is_proposed_with_all_that_was_said_before() -> None:
    machine = connected(member_of("a", {0: 5}))
    orders = frozenset([TopicName("orders")])
    effects = machine.on_frame(A_STREAM, frame("a", 5, topics=orders), 1.0)
    (joined,) = proposals(effects)
    assert isinstance(joined, Joined)
    assert (joined.topics, joined.rebalance_timeout_s) == (orders, 60.0)
    assert proposals(machine.on_frame(A_STREAM, frame("a", 5, topics=orders), 2.0)) == []


def test_a_deleted_group_ends_its_streams() -> None:
    machine = connected(member_of("a"))
    assert isinstance(error_in(machine.on_groups([], [GROUP], 1.0)), UnknownMemberIdError)
    assert machine.groups == {}


@pytest.mark.parametrize("missing", ["topics", "owned"])
def test_a_first_frame_carries_everything(missing: str) -> None:
    hello = frame(
        "a",
        0,
        None if missing == "owned" else [],
        topics=None if missing == "topics" else TOPICS,
    )
    error = error_in(GroupMembers(GroupTimes()).on_frame(A_STREAM, hello, 0.0))
    assert isinstance(error, InvalidRequestError)


def test_a_stream_belongs_to_one_member() -> None:
    machine = connected(member_of("a"), member_of("b"))
    assert isinstance(error_in(machine.on_frame(A_STREAM, frame("b", 5), 1.0)), InvalidRequestError)

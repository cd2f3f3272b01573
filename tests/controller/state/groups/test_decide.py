"""The rules of membership, one at a time."""

import pytest

from odradek.controller.state.groups import (
    GroupChanges,
    GroupDeleted,
    MemberLeft,
    MemberOwns,
    MemberState,
    TopicIdPartition,
    decide,
)
from odradek.controller.state.groups.decide import GROUP_MEMBERS_MAX
from odradek.protocol.errors import (
    FencedMemberEpochError,
    GroupIdNotFoundError,
    GroupMaxSizeReachedError,
    InvalidRequestError,
    NonEmptyGroupError,
    NotCoordinatorError,
    StaleMemberEpochError,
    UnknownMemberIdError,
    UnsupportedAssignorError,
)
from odradek.protocol.types import MemberId, PartitionIndex, TopicName

from .world import COORDINATOR_PARTITION, GROUP, Topics, World, joined, partition_of

GPS = TopicName("gps")


def all_of(name: str, count: int) -> set[TopicIdPartition]:
    return {partition_of(name, index) for index in range(count)}


def world_with(*members: str, partitions: int = 6) -> World:
    world = World(Topics.of(gps=partitions))
    for member in members:
        world.join(member, "gps")
        world.settle()
    return world


def test_the_first_member_reads_everything_at_once() -> None:
    world = world_with("a")
    assert world.assigned("a") == all_of("gps", 6)
    assert world.member("a").state is MemberState.STABLE
    assert (world.member("a").member_epoch, world.group.group_epoch) == (1, 1)


def test_a_partition_moves_only_after_its_owner_confirmed() -> None:
    world = world_with("a")
    world.join("b", "gps")
    assert world.member("a").state is MemberState.UNREVOKED_PARTITIONS
    assert len(world.member("a").revoking) == 3
    assert world.member("b").state is MemberState.UNRELEASED_PARTITIONS
    assert world.assigned("b") == set()
    world.confirm("a")
    assert world.member("a").state is MemberState.STABLE
    assert world.member("b").state is MemberState.STABLE
    assert world.assigned("a") | world.assigned("b") == all_of("gps", 6)


def test_what_is_confirmed_first_moves_first() -> None:
    world = world_with("a")
    world.join("b", "gps")
    a = world.member("a")
    first, *others = sorted(a.revoking)
    still_owned = frozenset([*a.assigned, *others])
    world.submit_one(
        MemberOwns(
            group=GROUP, member_id=a.member_id, member_epoch=a.member_epoch, owned=still_owned
        )
    )
    assert world.assigned("b") == {first}
    assert world.member("a").state is MemberState.UNREVOKED_PARTITIONS


def test_a_confirmation_from_before_the_revocation_releases_nothing() -> None:
    world = world_with("a")
    epoch = world.member("a").member_epoch
    world.join("b", "gps")
    stale = MemberOwns(group=GROUP, member_id=MemberId("a"), member_epoch=epoch, owned=frozenset())
    with pytest.raises(StaleMemberEpochError):
        world.submit_one(stale)
    assert len(world.member("a").revoking) == 3


def test_a_confirmation_from_the_future_is_fenced() -> None:
    world = world_with("a")
    with pytest.raises(FencedMemberEpochError):
        world.submit_one(
            MemberOwns(group=GROUP, member_id=MemberId("a"), member_epoch=9, owned=frozenset())
        )


def test_joins_of_one_command_cost_one_epoch() -> None:
    world = world_with("a")
    epoch = world.group.group_epoch
    decision = world.submit(*(joined(name, "gps") for name in "bcdef"))
    assert decision.errors == (None,) * 5
    assert world.group.group_epoch == epoch + 1


def test_ten_members_on_six_partitions_leave_four_idle() -> None:
    world = world_with("a")
    world.submit(*(joined(name, "gps") for name in "bcdefghij"))
    world.settle()
    counts = sorted(len(each.assigned) for each in world.group.members.values())
    assert counts == [0] * 4 + [1] * 6
    assert all(each.state is MemberState.STABLE for each in world.group.members.values())


def test_a_member_without_change_advances_without_a_record() -> None:
    world = world_with("a", "b", "c", "d", "e", "f")
    world.log.clear()
    world.join("g", "gps")
    about_old = [each for each in world.log if getattr(each, "member_id", "g") != "g"]
    assert about_old == []
    assert world.member("a").member_epoch == world.group.group_epoch
    assert world.member("a").previous_member_epoch == world.group.group_epoch - 1


def test_who_leaves_is_replaced_at_once() -> None:
    world = world_with("a", "b")
    world.leave("a")
    assert world.assigned("b") == all_of("gps", 6)


def test_the_last_to_leave_leaves_an_empty_group_whose_epochs_go_on() -> None:
    world = world_with("a")
    world.leave("a")
    assert world.group.members == {}
    world.join("b", "gps")
    assert world.group.group_epoch == 3


def test_leaving_twice_is_an_unknown_member() -> None:
    world = world_with("a")
    world.leave("a")
    with pytest.raises(UnknownMemberIdError, match="'a'"):
        world.leave("a")


def test_an_away_static_member_keeps_its_place_and_takes_it_back() -> None:
    world = World(Topics.of(gps=6))
    world.join("a1", "gps", instance_id="van-a")
    world.join("b", "gps")
    world.settle()
    kept = world.assigned("a1")
    world.leave("a1", away=True)
    assert world.member("a1").profile.away
    assert world.assigned("b").isdisjoint(kept)
    epoch = world.group.group_epoch
    world.join("a2", "gps", instance_id="van-a")
    assert MemberId("a1") not in world.group.members
    assert world.assigned("a2") == kept
    assert world.group.group_epoch == epoch, "nobody else is concerned"


def test_an_away_member_releases_at_once_what_it_had_to_revoke() -> None:
    world = World(Topics.of(gps=6))
    world.join("a", "gps", instance_id="van-a")
    world.join("b", "gps")
    assert world.member("a").state is MemberState.UNREVOKED_PARTITIONS
    world.leave("a", away=True)
    assert len(world.assigned("b")) == 3


def test_a_new_process_takes_the_place_of_a_live_static_member() -> None:
    world = World(Topics.of(gps=6))
    world.join("a1", "gps", instance_id="van-a")
    world.join("a2", "gps", instance_id="van-a")
    assert list(world.group.members) == ["a2"]
    assert world.assigned("a2") == all_of("gps", 6)
    with pytest.raises(UnknownMemberIdError):
        world.leave("a1")


def test_a_static_member_that_comes_back_with_other_topics_gets_others() -> None:
    world = World(Topics.of(gps=2, orders=3))
    world.join("a1", "gps", instance_id="van-a")
    world.leave("a1", away=True)
    world.join("a2", "orders", instance_id="van-a")
    world.settle()
    assert world.assigned("a2") == all_of("orders", 3)


def test_a_member_cannot_change_its_instance_id() -> None:
    world = World(Topics.of(gps=1))
    world.join("a", "gps", instance_id="one")
    with pytest.raises(InvalidRequestError, match="instance id"):
        world.join("a", "gps", instance_id="two")


def test_joining_again_unchanged_changes_nothing() -> None:
    world = world_with("a")
    before = world.group
    world.join("a", "gps")
    assert world.group == before


def test_another_subscription_revokes_before_it_grants() -> None:
    world = World(Topics.of(gps=2, orders=2))
    world.join("a", "gps")
    world.join("a", "orders")
    assert world.assigned("a") == set()
    world.confirm("a")
    assert world.assigned("a") == all_of("orders", 2)


def test_a_topic_that_comes_to_exist_is_read() -> None:
    world = World(Topics.of())
    world.join("a", "gps")
    assert world.assigned("a") == set()
    world.topics.create("gps", 4)
    world.topics_changed("gps")
    assert len(world.assigned("a")) == 4


def test_added_partitions_are_read_and_move_nothing() -> None:
    world = world_with("a", "b", partitions=4)
    before = {name: world.assigned(name) for name in "ab"}
    world.topics = Topics.of(gps=6)
    world.topics_changed("gps")
    assert all(before[name] < world.assigned(name) for name in "ab")


def test_partitions_of_a_deleted_topic_need_no_confirmation() -> None:
    world = World(Topics.of(gps=2, orders=2))
    world.join("a", "gps", "orders")
    del world.topics.by_name[GPS]
    world.topics_changed("gps")
    assert world.assigned("a") == all_of("orders", 2)
    assert world.member("a").state is MemberState.STABLE


def test_a_deleted_topic_ends_the_revocation_of_its_partitions() -> None:
    world = world_with("a")
    world.join("b", "gps")
    world.join("a", "gone-too")
    world.join("b", "gone-too")
    assert world.member("a").revoking
    del world.topics.by_name[GPS]
    world.topics_changed("gps")
    assert not world.member("a").revoking


def test_a_recreated_topic_is_another() -> None:
    world = world_with("a")
    old = world.assigned("a")
    del world.topics.by_name[GPS]
    world.topics.create("gps", 6)
    world.topics_changed("gps")
    assert len(world.assigned("a")) == 6
    assert world.assigned("a").isdisjoint(old)


def test_topics_nobody_reads_change_no_group() -> None:
    world = world_with("a")
    before = len(world.log)
    world.topics.create("orders", 3)
    world.topics_changed("orders")
    assert len(world.log) == before


def test_only_an_empty_group_is_deleted() -> None:
    world = world_with("a")
    with pytest.raises(NonEmptyGroupError):
        world.submit_one(GroupDeleted(GROUP))
    world.leave("a")
    world.submit_one(GroupDeleted(GROUP))
    assert world.groups == {}
    with pytest.raises(GroupIdNotFoundError):
        world.submit_one(GroupDeleted(GROUP))


def test_an_unknown_assignor_is_refused_with_the_known_ones() -> None:
    world = World(Topics.of(gps=1))
    with pytest.raises(UnsupportedAssignorError, match="uniform, range") as refused:
        world.submit_one(joined("a", "gps", assignor="rang"))
    assert refused.value.suggestions == ("range",)
    assert world.groups == {}


def test_the_majority_chooses_the_assignor() -> None:
    world = World(Topics.of(gps=4))
    world.submit(*(joined(name, "gps", assignor="range") for name in "ab"), joined("c", "gps"))
    assert world.group.assignor == "range"
    assert {each.partition for each in world.member("a").target} == {0, 1}


def test_a_group_of_another_partition_is_refused() -> None:
    world = world_with("a")
    leave = MemberLeft(group=GROUP, member_id=MemberId("a"))
    elsewhere = PartitionIndex(COORDINATOR_PARTITION + 1)
    decision = decide(world.groups, GroupChanges(elsewhere, (leave,)), world.topics)
    assert decision.records == ()
    assert isinstance(decision.errors[0], NotCoordinatorError)


def test_a_refused_change_does_not_stop_the_others() -> None:
    world = world_with("a")
    decision = world.submit(
        MemberLeft(group=GROUP, member_id=MemberId("nobody")), joined("b", "gps")
    )
    assert isinstance(decision.errors[0], UnknownMemberIdError)
    assert decision.errors[1] is None
    assert MemberId("b") in world.group.members


def test_a_group_has_a_greatest_size() -> None:
    world = World(Topics.of(gps=1))
    names = [f"m{number:05}" for number in range(GROUP_MEMBERS_MAX)]
    world.submit(*(joined(name, "gps") for name in names))
    with pytest.raises(GroupMaxSizeReachedError):
        world.join("one-more", "gps")

"""Whatever happens to a group, one member at most reads a partition, and it settles in balance."""

from dataclasses import replace
from random import Random
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from odradek.controller import groups_wire
from odradek.controller.state.groups import (
    Group,
    MemberLeft,
    MemberOwns,
    MemberState,
    apply,
    snapshot,
)
from odradek.protocol.types import GroupId, MemberId
from odradek.v1 import group_record_pb2

from .world import GROUP, Topics, World, joined

Step = tuple[Any, ...]
MEMBERS = tuple("abcdef")
TOPICS = ("gps", "orders", "alerts")

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("join"),
            st.sampled_from(MEMBERS),
            st.sets(st.sampled_from(TOPICS), min_size=1),
            st.booleans(),
        ),
        st.tuples(st.just("leave"), st.sampled_from(MEMBERS), st.booleans()),
        st.tuples(st.just("owns"), st.sampled_from(MEMBERS), st.integers(0, 7), st.integers(-1, 1)),
        st.tuples(st.just("topic"), st.sampled_from(TOPICS), st.integers(0, 5)),
    ),
    max_size=25,
)


def perform(world: World, step: Step) -> None:
    match step:
        case ("join", name, topics, is_static):
            # A static member comes back under a new id now and then: capital letters.
            known = world.groups.get(GROUP)
            taken = known is not None and MemberId(name) in known.members
            member = name.upper() if is_static and taken else name
            world.submit(joined(member, *topics, instance_id=name if is_static else ""))
        case ("leave", name, away):
            world.submit(MemberLeft(group=GROUP, member_id=MemberId(name), away=away))
        case ("owns", name, keep, epoch_shift):
            known = world.groups.get(GROUP)
            member = known and known.members.get(MemberId(name))
            if member:
                kept = sorted(member.revoking)[:keep]
                world.submit(
                    MemberOwns(
                        group=GROUP,
                        member_id=member.member_id,
                        member_epoch=member.member_epoch + epoch_shift,
                        owned=frozenset([*member.assigned, *kept]),
                    )
                )
        case ("topic", name, 0):
            world.topics.by_name.pop(name, None)
            world.topics_changed(name)
        case ("topic", name, count):
            topic = world.topics.by_name.get(name)
            if topic is None or topic.partition_count >= count:
                world.topics.create(name, count)
            else:
                world.topics.by_name[name] = replace(topic, partition_count=count)
            world.topics_changed(name)


def run(history: list[Step]) -> World:
    world = World(Topics.of(gps=6, orders=3))
    for step in history:
        perform(world, step)  # the world checks its invariants after every decision
    return world


@given(steps)
@settings(max_examples=200, deadline=None)
def test_it_settles_in_balance_with_every_partition_read(history: list[Step]) -> None:
    world = run(history)
    if GROUP not in world.groups:
        return
    world.settle()
    members = list(world.group.members.values())
    assert all(each.state is MemberState.STABLE for each in members)
    subscribed = {name for each in members for name in each.profile.topics}
    expected = {
        partition
        for name in subscribed
        if (topic := world.topics.topic_by_name(name)) is not None
        for partition in topic.partitions()
    }
    assert world.group.owners().keys() == expected
    for one in members:
        for other in members:
            if one.profile.topics == other.profile.topics:
                assert abs(len(one.assigned) - len(other.assigned)) <= 1


@given(steps)
@settings(max_examples=100, deadline=None)
def test_log_and_snapshot_make_the_same_groups(history: list[Step]) -> None:
    world = run(history)
    replayed: dict[GroupId, Group] = {}
    for record in world.log:
        logged = groups_wire.record_to_proto(record).SerializeToString()
        restored = groups_wire.record_from_proto(group_record_pb2.GroupRecord.FromString(logged))
        assert restored is not None
        apply(replayed, restored)
    assert replayed == world.groups
    restarted: dict[GroupId, Group] = {}
    for record in snapshot(world.groups):
        apply(restarted, record)
    assert restarted == world.groups


@given(steps, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_apply_is_total(history: list[Step], random: Random) -> None:
    """Any record over any state: nothing raises."""
    records = run(history).log
    random.shuffle(records)
    groups: dict[GroupId, Group] = {}
    for record in records:
        apply(groups, record)

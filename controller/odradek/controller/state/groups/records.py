"""What the log says of groups, and what it does to them.

Each record says how something is from now on. `apply` is the only way a group ever changes, the
same live and on replay; it is total: a record of a group or member that is gone changes nothing.

Records of one decision belong into one command of the log: between them a group may stand half-way.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

from odradek.controller.state.groups.model import (
    Assignment,
    Group,
    Member,
    MemberProfile,
    TopicIdPartition,
)
from odradek.protocol.types import GroupId, MemberId, PartitionIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupChanged:
    """A group began, or its epochs grew. Who has nothing to revoke advances without a record."""

    group: GroupId
    coordinator_partition: PartitionIndex
    group_epoch: int
    assignment_epoch: int
    assignor: str


@dataclass(frozen=True, slots=True)
class GroupRemoved:
    """A group ended, with all its members."""

    group: GroupId


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member joined, or says something else of itself."""

    group: GroupId
    profile: MemberProfile


@dataclass(frozen=True, slots=True)
class MemberRemoved:
    """A member is gone, with its target and its assignment."""

    group: GroupId
    member_id: MemberId


@dataclass(frozen=True, slots=True)
class TargetChanged:
    """A member is to own something else."""

    group: GroupId
    member_id: MemberId
    target: frozenset[TopicIdPartition]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentChanged:
    """A member owns something else."""

    group: GroupId
    member_id: MemberId
    member_epoch: int
    previous_member_epoch: int
    assigned: Assignment
    revoking: Assignment


GroupRecord: TypeAlias = (
    GroupChanged | GroupRemoved | MemberChanged | MemberRemoved | TargetChanged | AssignmentChanged
)


def apply(groups: MutableMapping[GroupId, Group], record: GroupRecord) -> None:
    """Do what a record says. Total: never raises, whatever the state."""
    group = groups.get(record.group)
    match record:
        case GroupChanged():
            groups[record.group] = _group_changed(group, record)
        case GroupRemoved():
            groups.pop(record.group, None)
        case _ if group is None:
            return
        case MemberRemoved():
            members = {key: each for key, each in group.members.items() if key != record.member_id}
            groups[record.group] = replace(group, members=members)
        case MemberChanged():
            _replace_member(groups, group, record.profile.member_id, record)
        case TargetChanged() | AssignmentChanged():
            _replace_member(groups, group, record.member_id, record)
        case _:
            assert_never(record)


def snapshot(groups: Mapping[GroupId, Group]) -> Iterator[GroupRecord]:
    """Return the records that make exactly these groups from nothing."""
    for group in groups.values():
        yield GroupChanged(
            group=group.group,
            coordinator_partition=group.coordinator_partition,
            group_epoch=group.group_epoch,
            assignment_epoch=group.assignment_epoch,
            assignor=group.assignor,
        )
        for member in group.members.values():
            yield MemberChanged(group.group, member.profile)
            yield TargetChanged(group.group, member.member_id, member.target)
            yield AssignmentChanged(
                group=group.group,
                member_id=member.member_id,
                member_epoch=member.member_epoch,
                previous_member_epoch=member.previous_member_epoch,
                assigned=member.assigned,
                revoking=member.revoking,
            )


def _group_changed(group: Group | None, record: GroupChanged) -> Group:
    members = {} if group is None else group.members
    if group is not None and group.assignment_epoch != record.assignment_epoch:
        members = {
            key: each if each.revoking else _advanced(each, record.assignment_epoch)
            for key, each in members.items()
        }
    return Group(
        group=record.group,
        coordinator_partition=record.coordinator_partition,
        group_epoch=record.group_epoch,
        assignment_epoch=record.assignment_epoch,
        assignor=record.assignor,
        members=members,
    )


def _advanced(member: Member, epoch: int) -> Member:
    return replace(member, member_epoch=epoch, previous_member_epoch=member.member_epoch)


def _replace_member(
    groups: MutableMapping[GroupId, Group],
    group: Group,
    member_id: MemberId,
    record: MemberChanged | TargetChanged | AssignmentChanged,
) -> None:
    member = _member_after(group.members.get(member_id), record)
    if member is not None:
        groups[group.group] = replace(group, members={**group.members, member_id: member})


def _member_after(
    member: Member | None, record: MemberChanged | TargetChanged | AssignmentChanged
) -> Member | None:
    match record:
        case MemberChanged():
            known = member or Member(profile=record.profile)
            return replace(known, profile=record.profile)
        case TargetChanged():
            return member and replace(member, target=record.target)
        case AssignmentChanged():
            return member and replace(
                member,
                member_epoch=record.member_epoch,
                previous_member_epoch=record.previous_member_epoch,
                assigned=record.assigned,
                revoking=record.revoking,
            )

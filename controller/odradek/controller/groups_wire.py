"""Consumer groups between the pure core and protobuf: commands in, records and the feed out.

Times are milliseconds on the wire and seconds inside. Everything repeated is sorted, so that equal
values have equal bytes. What comes from the log was written by this module and is trusted.
"""

from collections.abc import Iterable, Mapping
from typing import assert_never

from odradek.controller.state.groups import (
    Assignment,
    AssignmentChanged,
    Group,
    GroupChange,
    GroupChanged,
    GroupChanges,
    GroupDecision,
    GroupDeleted,
    GroupRecord,
    GroupRemoved,
    Member,
    MemberChanged,
    MemberJoined,
    MemberLeft,
    MemberOwns,
    MemberProfile,
    MemberRemoved,
    MemberState,
    TargetChanged,
    TopicIdPartition,
)
from odradek.protocol.errors import InvalidRequestError, error_to_proto
from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName
from odradek.v1 import controller_pb2, error_pb2, group_pb2, group_record_pb2

_MEMBER_STATES = {
    MemberState.STABLE: group_pb2.MEMBER_STATE_STABLE,
    MemberState.UNREVOKED_PARTITIONS: group_pb2.MEMBER_STATE_UNREVOKED_PARTITIONS,
    MemberState.UNRELEASED_PARTITIONS: group_pb2.MEMBER_STATE_UNRELEASED_PARTITIONS,
}


def command_from_proto(command: controller_pb2.ChangeGroupsCommand) -> GroupChanges:
    """Return a coordinator's command in domain form; its leader epoch is the caller's to check.

    Raises:
        InvalidRequestError: A change that says nothing.
    """
    return GroupChanges(
        PartitionIndex(command.coordinator_partition),
        tuple(_change_from_proto(each) for each in command.changes),
    )


def _change_from_proto(change: controller_pb2.GroupChange) -> GroupChange:
    group = GroupId(change.group)
    match change.WhichOneof("change"):
        case "joined":
            return MemberJoined(group, _profile_from_proto(change.joined))
        case "left":
            member_id = MemberId(change.left.member_id)
            return MemberLeft(group=group, member_id=member_id, away=change.left.away)
        case "owns":
            owned = frozenset(
                TopicIdPartition(TopicId(each.topic_id), PartitionIndex(each.partition))
                for each in change.owns.owned
            )
            return MemberOwns(
                group=group,
                member_id=MemberId(change.owns.member_id),
                member_epoch=change.owns.member_epoch,
                owned=owned,
            )
        case "deleted":
            return GroupDeleted(group)
        case _:
            raise InvalidRequestError(
                f"a change of group {change.group!r} says nothing this release knows",
                field="changes.change",
                value=change.group,
            )


def _profile_from_proto(
    said: controller_pb2.MemberJoined | group_record_pb2.GroupMemberChangedRecord,
) -> MemberProfile:
    return MemberProfile(
        member_id=MemberId(said.member_id),
        instance_id=said.instance_id,
        rack=said.rack,
        client_id=said.client_id,
        client_host=said.client_host,
        rebalance_timeout_s=said.rebalance_timeout_ms / 1000,
        topics=frozenset(TopicName(each) for each in said.topics),
        assignor=said.assignor,
        away=isinstance(said, group_record_pb2.GroupMemberChangedRecord) and said.away,
    )


def result_to_proto(decision: GroupDecision) -> controller_pb2.ChangeGroupsResult:
    """Return the answer to a command."""
    return controller_pb2.ChangeGroupsResult(
        errors=[
            error_pb2.Error() if error is None else error_to_proto(error)
            for error in decision.errors
        ]
    )


def record_to_proto(record: GroupRecord) -> group_record_pb2.GroupRecord:
    """Return a record as it is logged."""
    match record:
        case GroupChanged():
            return group_record_pb2.GroupRecord(
                group_changed=group_record_pb2.GroupChangedRecord(
                    group=record.group,
                    coordinator_partition=record.coordinator_partition,
                    group_epoch=record.group_epoch,
                    assignment_epoch=record.assignment_epoch,
                    assignor=record.assignor,
                )
            )
        case GroupRemoved():
            removed = group_record_pb2.GroupRemovedRecord(group=record.group)
            return group_record_pb2.GroupRecord(group_removed=removed)
        case MemberChanged():
            changed = _profile_to_proto(record.group, record.profile)
            return group_record_pb2.GroupRecord(member_changed=changed)
        case MemberRemoved():
            gone = group_record_pb2.GroupMemberRemovedRecord(
                group=record.group, member_id=record.member_id
            )
            return group_record_pb2.GroupRecord(member_removed=gone)
        case TargetChanged():
            target = group_record_pb2.GroupTargetChangedRecord(
                group=record.group,
                member_id=record.member_id,
                target=_topics_to_proto(record.target),
            )
            return group_record_pb2.GroupRecord(target_changed=target)
        case AssignmentChanged():
            assignment = group_record_pb2.GroupAssignmentChangedRecord(
                group=record.group,
                member_id=record.member_id,
                member_epoch=record.member_epoch,
                previous_member_epoch=record.previous_member_epoch,
                assigned=_topics_to_proto(record.assigned),
                revoking=_topics_to_proto(record.revoking),
            )
            return group_record_pb2.GroupRecord(assignment_changed=assignment)
        case _:
            assert_never(record)


def record_from_proto(record: group_record_pb2.GroupRecord) -> GroupRecord | None:
    """Return a logged record; None for a kind that only a newer release knows."""
    match record.WhichOneof("change"):
        case "group_changed":
            group = record.group_changed
            return GroupChanged(
                group=GroupId(group.group),
                coordinator_partition=PartitionIndex(group.coordinator_partition),
                group_epoch=group.group_epoch,
                assignment_epoch=group.assignment_epoch,
                assignor=group.assignor,
            )
        case "group_removed":
            return GroupRemoved(GroupId(record.group_removed.group))
        case "member_changed":
            changed = record.member_changed
            return MemberChanged(GroupId(changed.group), _profile_from_proto(changed))
        case "member_removed":
            gone = record.member_removed
            return MemberRemoved(GroupId(gone.group), MemberId(gone.member_id))
        case "target_changed":
            target = record.target_changed
            return TargetChanged(
                GroupId(target.group),
                MemberId(target.member_id),
                frozenset(_assignment_from_proto(target.target)),
            )
        case "assignment_changed":
            assignment = record.assignment_changed
            return AssignmentChanged(
                group=GroupId(assignment.group),
                member_id=MemberId(assignment.member_id),
                member_epoch=assignment.member_epoch,
                previous_member_epoch=assignment.previous_member_epoch,
                assigned=_assignment_from_proto(assignment.assigned),
                revoking=_assignment_from_proto(assignment.revoking),
            )
        case _:
            return None


def _profile_to_proto(
    group: GroupId, profile: MemberProfile
) -> group_record_pb2.GroupMemberChangedRecord:
    return group_record_pb2.GroupMemberChangedRecord(
        group=group,
        member_id=profile.member_id,
        instance_id=profile.instance_id,
        rack=profile.rack,
        client_id=profile.client_id,
        client_host=profile.client_host,
        rebalance_timeout_ms=round(profile.rebalance_timeout_s * 1000),
        topics=sorted(profile.topics),
        assignor=profile.assignor,
        away=profile.away,
    )


def _topics_to_proto(
    partitions: Assignment | frozenset[TopicIdPartition],
) -> list[group_record_pb2.GroupTopicPartitions]:
    by_topic: dict[TopicId, group_record_pb2.GroupTopicPartitions] = {}
    for each in sorted(partitions):
        topic = by_topic.setdefault(
            each.topic_id, group_record_pb2.GroupTopicPartitions(topic_id=each.topic_id)
        )
        topic.partitions.append(each.partition)
        if isinstance(partitions, Mapping):
            topic.assignment_epochs.append(partitions[each])
    return list(by_topic.values())


def _assignment_from_proto(
    topics: Iterable[group_record_pb2.GroupTopicPartitions],
) -> Assignment:
    return {
        TopicIdPartition(TopicId(topic.topic_id), PartitionIndex(partition)): (
            topic.assignment_epochs[position] if topic.assignment_epochs else 0
        )
        for topic in topics
        for position, partition in enumerate(topic.partitions)
    }


def group_to_proto(group: Group) -> controller_pb2.ConsumerGroup:
    """Return a group as its coordinator is fed it."""
    return controller_pb2.ConsumerGroup(
        group=group.group,
        coordinator_partition=group.coordinator_partition,
        group_epoch=group.group_epoch,
        assignment_epoch=group.assignment_epoch,
        assignor=group.assignor,
        members=[_member_to_proto(group.members[each]) for each in sorted(group.members)],
    )


def _member_to_proto(member: Member) -> controller_pb2.ConsumerGroupMember:
    profile = member.profile
    return controller_pb2.ConsumerGroupMember(
        member_id=profile.member_id,
        instance_id=profile.instance_id,
        rack=profile.rack,
        client_id=profile.client_id,
        client_host=profile.client_host,
        member_epoch=member.member_epoch,
        previous_member_epoch=member.previous_member_epoch,
        state=_MEMBER_STATES[member.state],
        topics=sorted(profile.topics),
        rebalance_timeout_ms=round(profile.rebalance_timeout_s * 1000),
        assigned=_assigned_to_proto(member.assigned),
        revoking=_assigned_to_proto(member.revoking),
        target=_assigned_to_proto(dict.fromkeys(member.target, 0)),
        away=profile.away,
    )


def _assigned_to_proto(assignment: Assignment) -> list[controller_pb2.AssignedPartition]:
    return [
        controller_pb2.AssignedPartition(
            topic_id=each.topic_id,
            partition=each.partition,
            assignment_epoch=assignment[each],
        )
        for each in sorted(assignment)
    ]

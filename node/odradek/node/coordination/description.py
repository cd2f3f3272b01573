"""Groups for people who look at them. Pure but for the messages it makes."""

from collections.abc import Mapping

from odradek.node.coordination.model import Group, Member
from odradek.node.coordination.translation import partitions_to_proto
from odradek.protocol.types import NodeId, TopicId, TopicName
from odradek.v1 import group_pb2 as pb


def state_of(group: Group) -> "pb.GroupState.ValueType":
    """Return what a group is doing."""
    if not group.members:
        return pb.GROUP_STATE_EMPTY
    if group.assignment_epoch < group.group_epoch:
        return pb.GROUP_STATE_ASSIGNING
    if all(_state_of(each) == pb.MEMBER_STATE_STABLE for each in group.members.values()):
        return pb.GROUP_STATE_STABLE
    return pb.GROUP_STATE_RECONCILING


def listing(group: Group) -> pb.GroupListing:
    """Describe a group in a list."""
    return pb.GroupListing(
        group=group.group, state=state_of(group), member_count=len(group.members)
    )


def description(
    group: Group, name_of: Mapping[TopicId, TopicName], coordinator_id: NodeId
) -> pb.GroupDescription:
    """Describe a group, whole."""
    return pb.GroupDescription(
        group=group.group,
        state=state_of(group),
        group_epoch=group.group_epoch,
        assignment_epoch=group.assignment_epoch,
        assignor=group.assignor,
        members=[_member(group.members[each], name_of) for each in sorted(group.members)],
        coordinator_id=coordinator_id,
    )


def _member(member: Member, name_of: Mapping[TopicId, TopicName]) -> pb.GroupMemberDescription:
    return pb.GroupMemberDescription(
        member_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        member_epoch=member.member_epoch,
        state=_state_of(member),
        topics=sorted(member.topics),
        assigned=partitions_to_proto(member.assigned, name_of),
        target=partitions_to_proto(member.target, name_of),
        rack=member.rack,
    )


def _state_of(member: Member) -> "pb.MemberState.ValueType":
    if member.revoking:
        return pb.MEMBER_STATE_UNREVOKED_PARTITIONS
    if member.target - member.assigned.keys():
        return pb.MEMBER_STATE_UNRELEASED_PARTITIONS
    return pb.MEMBER_STATE_STABLE

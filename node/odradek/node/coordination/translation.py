"""Groups between the contract's messages and the values of this package.

Frames come from clients and are checked; groups come from the controller and are trusted.
"""

from collections.abc import Iterable, Mapping
from typing import Final, assert_never

from odradek.node.coordination.frames import Frame, Reply
from odradek.node.coordination.model import (
    LEAVE_STATIC_EPOCH,
    Assignment,
    Change,
    Deleted,
    Group,
    GroupTimes,
    Joined,
    Left,
    Member,
    Owns,
    TopicIdPartition,
)
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    InvalidTopicError,
    error_to_proto,
)
from odradek.protocol.names import (
    INTERNAL_TOPICS,
    check_group_id,
    check_identifier,
    check_topic_name,
)
from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName
from odradek.v1 import controller_pb2, group_pb2

_TOPIC_ID_BYTES: Final = 16
_TOPICS_MAX: Final = 10_000
_REBALANCE_TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000


def frame_from_proto(request: group_pb2.GroupServiceHeartbeatRequest, client_host: str) -> Frame:
    """Read a frame.

    Raises:
        InvalidGroupIdError, InvalidTopicError, InvalidRequestError: Naming the field.
    """
    if not request.member_id:
        raise InvalidRequestError("a member has an id", field="member_id", value="")
    if request.member_epoch < LEAVE_STATIC_EPOCH:
        raise InvalidRequestError(
            f"member epoch {request.member_epoch} means nothing",
            field="member_epoch",
            value=request.member_epoch,
            limit=LEAVE_STATIC_EPOCH,
        )
    if request.rebalance_timeout_ms > _REBALANCE_TIMEOUT_MS_MAX:
        raise InvalidRequestError(
            f"a rebalance time-out of {request.rebalance_timeout_ms} ms is too long",
            field="rebalance_timeout_ms",
            value=request.rebalance_timeout_ms,
            limit=_REBALANCE_TIMEOUT_MS_MAX,
        )
    return Frame(
        group=check_group_id(request.group),
        member_id=MemberId(check_identifier(request.member_id, field="member_id")),
        member_epoch=request.member_epoch,
        instance_id=check_identifier(request.instance_id, field="instance_id"),
        rack=check_identifier(request.rack, field="rack"),
        client_id=check_identifier(request.client_id, field="client_id"),
        client_host=client_host,
        rebalance_timeout_s=request.rebalance_timeout_ms / 1000 or None,
        topics=_topics(request.topics) if request.subscription_changed else None,
        assignor=check_identifier(request.assignor, field="assignor"),
        owned=_owned(request.owned) if request.owned_changed else None,
    )


def _topics(names: Iterable[str]) -> frozenset[TopicName]:
    topics = frozenset(check_topic_name(name, field="topics") for name in names)
    if internal := sorted(topics & INTERNAL_TOPICS):
        raise InvalidTopicError(
            f"topic {internal[0]!r} is internal and cannot be subscribed",
            field="topics",
            value=internal[0],
        )
    if len(topics) > _TOPICS_MAX:
        raise InvalidRequestError(
            f"{len(topics)} topics are too many for one member",
            field="topics",
            value=len(topics),
            limit=_TOPICS_MAX,
        )
    return topics


def _owned(topics: Iterable[group_pb2.TopicPartitions]) -> frozenset[TopicIdPartition]:
    return frozenset(each for topic in topics for each in partitions_from_proto(topic))


def partitions_from_proto(topic: group_pb2.TopicPartitions) -> list[TopicIdPartition]:
    """Read partitions a client names by topic id.

    Raises:
        InvalidRequestError: Bytes that are no topic id.
    """
    if len(topic.topic_id) != _TOPIC_ID_BYTES:
        raise InvalidRequestError(
            f"a topic id has {_TOPIC_ID_BYTES} bytes, not {len(topic.topic_id)}",
            field="topic_id",
            value=topic.topic_id.hex(),
            limit=_TOPIC_ID_BYTES,
        )
    topic_id = TopicId(topic.topic_id)
    return [TopicIdPartition(topic_id, PartitionIndex(index)) for index in topic.partitions]


def partitions_to_proto(
    partitions: Iterable[TopicIdPartition], name_of: Mapping[TopicId, TopicName]
) -> list[group_pb2.TopicPartitions]:
    """Write partitions, by topic and sorted; a topic just deleted has no name."""
    by_topic: dict[TopicId, group_pb2.TopicPartitions] = {}
    for topic_id, index in sorted(partitions):
        if topic_id not in by_topic:
            by_topic[topic_id] = group_pb2.TopicPartitions(
                topic_id=topic_id, topic=name_of.get(topic_id, "")
            )
        by_topic[topic_id].partitions.append(index)
    return list(by_topic.values())


def reply_to_proto(
    reply: Reply, times: GroupTimes, name_of: Mapping[TopicId, TopicName]
) -> group_pb2.GroupServiceHeartbeatResponse:
    """Write a reply."""
    return group_pb2.GroupServiceHeartbeatResponse(
        member_epoch=reply.member_epoch,
        heartbeat_interval_ms=round(times.heartbeat_interval_s * 1000),
        session_timeout_ms=round(times.session_timeout_s * 1000),
        assignment_changed=reply.assignment is not None,
        assignment=partitions_to_proto(reply.assignment or (), name_of),
        group_epoch=reply.group_epoch,
    )


def last_reply_to_proto(
    member_epoch: int, error: BrokerError | None
) -> group_pb2.GroupServiceHeartbeatResponse:
    """Write the reply after which a stream is closed."""
    return group_pb2.GroupServiceHeartbeatResponse(
        member_epoch=member_epoch, error=None if error is None else error_to_proto(error)
    )


def group_from_proto(group: controller_pb2.ConsumerGroup) -> Group:
    """Read a group as the controller feeds it."""
    return Group(
        group=GroupId(group.group),
        coordinator_partition=PartitionIndex(group.coordinator_partition),
        group_epoch=group.group_epoch,
        assignment_epoch=group.assignment_epoch,
        assignor=group.assignor,
        members={MemberId(each.member_id): _member_from_proto(each) for each in group.members},
    )


def _member_from_proto(member: controller_pb2.ConsumerGroupMember) -> Member:
    return Member(
        member_id=MemberId(member.member_id),
        instance_id=member.instance_id,
        rack=member.rack,
        client_id=member.client_id,
        client_host=member.client_host,
        rebalance_timeout_s=member.rebalance_timeout_ms / 1000,
        topics=frozenset(map(TopicName, member.topics)),
        member_epoch=member.member_epoch,
        assigned=_assignment_from_proto(member.assigned),
        revoking=_assignment_from_proto(member.revoking),
        target=frozenset(_assignment_from_proto(member.target)),
        away=member.away,
    )


def _assignment_from_proto(
    assigned: Iterable[controller_pb2.AssignedPartition],
) -> Assignment:
    return {
        TopicIdPartition(TopicId(each.topic_id), PartitionIndex(each.partition)): (
            each.assignment_epoch
        )
        for each in assigned
    }


def change_to_proto(group: GroupId, change: Change) -> controller_pb2.GroupChange:
    """Write a change for the controller."""
    match change:
        case Joined():
            joined = controller_pb2.MemberJoined(
                member_id=change.member_id,
                instance_id=change.instance_id,
                rack=change.rack,
                client_id=change.client_id,
                client_host=change.client_host,
                rebalance_timeout_ms=round(change.rebalance_timeout_s * 1000),
                topics=sorted(change.topics),
                assignor=change.assignor,
            )
            return controller_pb2.GroupChange(group=group, joined=joined)
        case Left():
            left = controller_pb2.MemberLeft(
                member_id=change.member_id, away=change.away, expired=change.expired
            )
            return controller_pb2.GroupChange(group=group, left=left)
        case Owns():
            owns = controller_pb2.MemberOwns(
                member_id=change.member_id,
                member_epoch=change.member_epoch,
                owned=[
                    controller_pb2.AssignedPartition(
                        topic_id=each.topic_id, partition=each.partition
                    )
                    for each in sorted(change.owned)
                ],
            )
            return controller_pb2.GroupChange(group=group, owns=owns)
        case Deleted():
            return controller_pb2.GroupChange(group=group, deleted=controller_pb2.GroupDeleted())
        case _:
            assert_never(change)

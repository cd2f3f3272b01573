"""Questions about offsets that leaders answer: the ends of a log, and its records by time.

One attempt over all leaders at once. A partition that cannot be answered carries its error, so that
one moving leader does not hold up the others; whoever asks decides about repeating.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from odradek.client.cluster.connections import unary
from odradek.client.cluster.image import ClusterImage
from odradek.client.cluster.scope import Scope
from odradek.client.config import Isolation
from odradek.client.consuming.fetch_plan import Leader
from odradek.client.consuming.positions import (
    Anchor,
    AtTimestamp,
    LogPosition,
    Target,
    TopicIdPartition,
)
from odradek.protocol.errors import (
    LeaderNotAvailableError,
    OdradekError,
    UnknownServerError,
    error_from_proto,
)
from odradek.protocol.types import LeaderEpoch, NodeId, Offset
from odradek.v1 import broker_pb2

ISOLATION_LEVELS: Final = {
    Isolation.READ_COMMITTED: broker_pb2.ISOLATION_LEVEL_READ_COMMITTED,
    Isolation.READ_UNCOMMITTED: broker_pb2.ISOLATION_LEVEL_READ_UNCOMMITTED,
}


def at_time(moment: datetime | timedelta, now_s: float) -> AtTimestamp:
    """Return the target of a moment (local, when it names no zone), or of so long ago.

    No record is older than 1970: a moment before it asks for the first one.

    Args:
        moment: Any that can be written.
        now_s: Seconds since the epoch.
    """
    if isinstance(moment, timedelta):
        at_s = now_s - moment.total_seconds()
    else:
        try:
            at_s = moment.timestamp()
        except (ValueError, OverflowError):  # local, and its UTC is beyond an end of the calendar
            at_s = moment.replace(tzinfo=UTC).timestamp()
    return AtTimestamp(max(0, round(at_s * 1000)))


def leader_of(image: ClusterImage, partition: TopicIdPartition) -> Leader | None:
    """Return who leads a partition of this very topic; None when nobody does, or it is gone."""
    info = image.topics.get(partition.topic)
    if info is None or info.topic_id != partition.topic_id:
        return None
    if partition.partition >= len(info.partitions):
        return None
    known = info.partitions[partition.partition]
    return Leader(known.leader_id, known.leader_epoch) if known.leader_id in image.nodes else None


async def list_offsets(
    scope: Scope, questions: Mapping[TopicIdPartition, Target], isolation: Isolation
) -> dict[TopicIdPartition, LogPosition | OdradekError]:
    """Return where each target lies; a timestamp younger than every record means the end.

    Args:
        scope: The client.
        questions: Anchors must be EARLIEST or LATEST.
        isolation: What "the end" means.
    """
    by_time: dict[TopicIdPartition, Target] = {
        partition: Anchor.LATEST
        for partition, target in questions.items()
        if isinstance(target, AtTimestamp)
    }
    # Asked first: a record that comes between the two questions may be the one that is sought.
    ends = await _ask_leaders(scope, by_time, isolation)
    answers = await _ask_leaders(scope, questions, isolation)
    for partition, end in ends.items():
        answer = answers[partition]
        if isinstance(answer, LogPosition) and answer.offset < 0:
            answers[partition] = end
    return answers


async def _ask_leaders(
    scope: Scope, questions: Mapping[TopicIdPartition, Target], isolation: Isolation
) -> dict[TopicIdPartition, LogPosition | OdradekError]:
    answers: dict[TopicIdPartition, LogPosition | OdradekError] = {}
    by_node: dict[NodeId, list[tuple[TopicIdPartition, LeaderEpoch]]] = {}
    for partition in questions:
        leader = leader_of(scope.metadata.image, partition)
        if leader is None:
            answers[partition] = LeaderNotAvailableError(f"{partition} has no leader right now")
        else:
            by_node.setdefault(leader.node, []).append((partition, leader.epoch))
    asked = await asyncio.gather(
        *(
            _ask_node(scope, node, [(*each, questions[each[0]]) for each in led], isolation)
            for node, led in by_node.items()
        )
    )
    for some in asked:
        answers |= some
    return answers


async def _ask_node(
    scope: Scope,
    node: NodeId,
    questions: Sequence[tuple[TopicIdPartition, LeaderEpoch, Target]],
    isolation: Isolation,
) -> dict[TopicIdPartition, LogPosition | OdradekError]:
    info = scope.metadata.node(node)
    assert info is not None, "leader_of names registered nodes only"
    request = broker_pb2.ListOffsetsRequest(
        isolation_level=ISOLATION_LEVELS[isolation],
        partitions=[_question(*question) for question in questions],
    )
    try:
        answer = await unary(
            scope.connections.to(info.address).broker.ListOffsets,
            request,
            timeout_s=scope.options.request_timeout_s,
        )
    except OdradekError as error:
        scope.metadata.suspect()
        return {partition: error for partition, _, _ in questions}
    if len(answer.partitions) != len(questions):
        wrong = UnknownServerError(f"node {node} answered another number of questions than asked")
        return {partition: wrong for partition, _, _ in questions}
    return {
        partition: error_from_proto(result.error)
        if result.HasField("error")
        else LogPosition(Offset(result.offset), LeaderEpoch(result.leader_epoch))
        for (partition, _, _), result in zip(questions, answer.partitions, strict=True)
    }


def _question(
    partition: TopicIdPartition, epoch: LeaderEpoch, target: Target
) -> broker_pb2.ListOffsetsPartition:
    question = broker_pb2.ListOffsetsPartition(
        topic_id=partition.topic_id,
        topic=partition.topic,
        partition=partition.partition,
        current_leader_epoch=epoch,
    )
    match target:
        case AtTimestamp(timestamp_ms):
            question.timestamp_ms = timestamp_ms
        case Anchor.EARLIEST:
            question.spec = broker_pb2.OFFSET_SPEC_EARLIEST
        case Anchor.LATEST:
            question.spec = broker_pb2.OFFSET_SPEC_LATEST
        case _:
            raise AssertionError(f"{target} is resolved before anybody is asked")
    return question

"""Committed offsets of the groups of one internal partition, and which commits are valid. Pure.

Problem: a member that hung, was expelled and woke up must not move back the position of those who
read on. Idea (KIP-1251): a commit names the member epoch it was made under, and is valid while the
partition has been that member's without a break: assignment epoch of the partition <= epoch of the
commit <= epoch of the group. A member that merely lags behind an unrelated rebalance still commits.

Nor must a commit move it back that comes late, after a later one of the same member: it was sent on
a connection that broke, or to a node that stood still. Members count their commits, and a record
says whose it is and which; so a coordinator that takes over knows too. An application that goes
back on purpose does so with a new commit.

Invariants: `apply` is the only mutation of what is committed, the same live and on replay; it is
total. The counted commits of one member stand in the log in their order.

Source: KIP-848, KIP-1251; Kafka's OffsetMetadataManager; SEMANTICS.md, "Groups".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from odradek.node.cluster.image import ClusterImage
from odradek.node.coordination.model import NO_MEMBER_EPOCH, Group, Member, TopicIdPartition
from odradek.node.coordination.records import (
    GroupEmptied,
    GroupRevived,
    OffsetCommitted,
    OffsetForgotten,
    OffsetsRecord,
)
from odradek.protocol.errors import (
    FencedMemberEpochError,
    InvalidRequestError,
    NonEmptyGroupError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from odradek.protocol.types import GroupId, LeaderEpoch, MemberId, Offset, PartitionIndex

METADATA_BYTES_MAX = 4096


@dataclass(slots=True)
class CommittedOffsets:
    """The materialised partition."""

    by_group: dict[GroupId, dict[TopicIdPartition, OffsetCommitted]] = field(default_factory=dict)
    emptied_at_ms: dict[GroupId, int] = field(default_factory=dict)
    """Since when a group has no members, as far as that was written."""
    _accepted: dict[tuple[GroupId, TopicIdPartition], OffsetCommitted] = field(default_factory=dict)
    """The newest commit of a partition that was accepted and, as far as is known, not committed."""

    def accept(self, record: OffsetCommitted) -> OffsetCommitted:
        """Return a commit that is to be appended now, having taken note of it.

        Raises:
            InvalidRequestError: A later commit of its member was accepted before.
        """
        known = self.newest(record.group, record.partition)
        is_of_same = known is not None and known.member_id == record.member_id
        if known is not None and is_of_same and 0 < record.sequence < known.sequence:
            raise InvalidRequestError(
                f"commit {record.sequence} of member {record.member_id!r} comes late: its commit"
                f" {known.sequence} was accepted before",
                field="sequence",
                value=record.sequence,
                limit=known.sequence,
            )
        self._accepted[record.group, record.partition] = record
        return record

    def newest(self, group: GroupId, partition: TopicIdPartition) -> OffsetCommitted | None:
        """Return the newest commit that was accepted, whether it is committed or not."""
        return self._accepted.get((group, partition)) or self.of(group).get(partition)

    def apply(self, record: OffsetsRecord) -> None:
        """Do what a record says."""
        match record:
            case OffsetCommitted():
                self.by_group.setdefault(record.group, {})[record.partition] = record
                if self._accepted.get((record.group, record.partition)) is record:
                    del self._accepted[record.group, record.partition]
            case OffsetForgotten():
                offsets = self.by_group.get(record.group, {})
                offsets.pop(record.partition, None)
                if not offsets:
                    self.by_group.pop(record.group, None)
            case GroupEmptied():
                self.emptied_at_ms[record.group] = record.at_ms
            case GroupRevived():
                self.emptied_at_ms.pop(record.group, None)
            case _:
                assert_never(record)

    def of(self, group: GroupId) -> Mapping[TopicIdPartition, OffsetCommitted]:
        """Return the offsets of a group; empty when it has none."""
        return self.by_group.get(group, {})

    def forget(self, group: GroupId) -> Iterator[OffsetsRecord]:
        """Return the records that delete everything about a group."""
        for partition in self.of(group):
            yield OffsetForgotten(group, partition)
        if group in self.emptied_at_ms:
            yield GroupRevived(group)


@dataclass(frozen=True, slots=True)
class Commit:
    """One position to be committed, as requested."""

    topic_id: bytes
    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str
    sequence: int = 0
    """Which of the member's commits it belongs to; 0: not counted."""


@dataclass(frozen=True, slots=True)
class Committer:
    """Who commits, after `check_committer`; no member: a tool, or manual assignment."""

    group: GroupId
    member: Member | None
    member_epoch: int


def check_committer(
    group_id: GroupId,
    group: Group | None,
    member_id: str,
    member_epoch: int,
    *,
    fenced: bool,
) -> Committer:
    """Prove that somebody may commit in a group, or read its offsets, at all.

    Args:
        group_id: The group's name.
        group: As the controller has it; None when it has no such group.
        member_id: Empty for nobody.
        member_epoch: The epoch it spoke with.
        fenced: This coordinator has expelled the member, though the controller may not know yet.

    Raises:
        NonEmptyGroupError: Nobody commits while the group has members.
        UnknownMemberIdError: The member left or expired.
        FencedMemberEpochError: The member was expelled, or its epoch is not of this group.
    """
    if not member_id:
        if group is not None and group.members:
            raise NonEmptyGroupError(
                f"group {group_id!r} has {len(group.members)} members: only they commit",
                field="member_id",
                value=member_id,
            )
        return Committer(group_id, None, NO_MEMBER_EPOCH)
    member = None if group is None else group.members.get(MemberId(member_id))
    if group is None or member is None:
        raise UnknownMemberIdError(
            f"group {group_id!r} has no member {member_id!r}: it left, or its session ended",
            field="member_id",
            value=member_id,
        )
    if fenced or member.away or not 0 < member_epoch <= group.group_epoch:
        raise FencedMemberEpochError(
            f"member {member_id!r} of group {group_id!r} was fenced; it spoke with epoch"
            f" {member_epoch}, the group is at {group.group_epoch}",
            field="member_epoch",
            value=member_epoch,
            limit=group.group_epoch,
        )
    return Committer(group_id, member, member_epoch)


def accept_commit(
    committer: Committer, commit: Commit, image: ClusterImage, now_ms: int
) -> OffsetCommitted:
    """Return the record that commits one position.

    Raises:
        UnknownTopicIdError, UnknownTopicOrPartitionError, InconsistentTopicIdError: No such
            partition; near names are suggested.
        InvalidRequestError: A negative offset, or too much metadata.
        StaleMemberEpochError: The partition is not, or not yet, or no longer, the member's.
    """
    topic = image.topic(commit.topic_id, commit.topic)
    image.partition(topic, commit.partition)
    where = f"{topic.name}-{commit.partition}"
    if commit.offset < 0 or commit.leader_epoch < -1:
        name = "offset" if commit.offset < 0 else "leader_epoch"
        value = commit.offset if commit.offset < 0 else commit.leader_epoch
        raise InvalidRequestError(
            f"{name} {value} cannot be committed for {where}",
            field=f"offsets.{name}",
            value=value,
            limit=0 if commit.offset < 0 else -1,
        )
    metadata_bytes = len(commit.metadata.encode())
    if metadata_bytes > METADATA_BYTES_MAX:
        raise InvalidRequestError(
            f"the metadata committed for {where} has {metadata_bytes} bytes;"
            f" at most {METADATA_BYTES_MAX} are allowed",
            field="offsets.metadata",
            value=metadata_bytes,
            limit=METADATA_BYTES_MAX,
        )
    partition = TopicIdPartition(topic.topic_id, PartitionIndex(commit.partition))
    _check_ownership(committer, partition, where)
    is_counted = committer.member is not None and commit.sequence > 0
    return OffsetCommitted(
        group=committer.group,
        partition=partition,
        offset=Offset(commit.offset),
        leader_epoch=LeaderEpoch(commit.leader_epoch),
        metadata=commit.metadata,
        commit_time_ms=now_ms,
        member_id=committer.member.member_id if committer.member and is_counted else "",
        sequence=commit.sequence if is_counted else 0,
    )


def _check_ownership(committer: Committer, partition: TopicIdPartition, where: str) -> None:
    if committer.member is None:
        return
    assignment_epoch = committer.member.epoch_of(partition)
    if assignment_epoch is None or assignment_epoch > committer.member_epoch:
        raise StaleMemberEpochError(
            f"{where} is not assigned to member {committer.member.member_id!r}"
            f" at epoch {committer.member_epoch}",
            field="member_epoch",
            value=committer.member_epoch,
            limit="" if assignment_epoch is None else assignment_epoch,
        )


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What is due."""

    records: tuple[OffsetsRecord, ...]
    groups: tuple[GroupId, ...]
    """Empty groups of which nothing is left, to be deleted at the controller."""


def cleanup(
    offsets: CommittedOffsets,
    groups: Mapping[GroupId, Group],
    image: ClusterImage,
    now_ms: int,
    retention_ms: int,
) -> Cleanup:
    """Return what time and deleted topics leave to be removed.

    Offsets go `retention_ms` after the later of their commit and the end of their last reader, and
    with their topic.
    """
    records: list[OffsetsRecord] = []
    ended: list[GroupId] = []
    for group in {**offsets.by_group, **groups, **offsets.emptied_at_ms}:
        known = groups.get(group)
        is_alive = known is not None and bool(known.members)
        emptied_at_ms = offsets.emptied_at_ms.get(group)
        if is_alive and emptied_at_ms is not None:
            records.append(GroupRevived(group))
        elif not is_alive and emptied_at_ms is None:
            emptied_at_ms = now_ms
            records.append(GroupEmptied(group, now_ms))
        left = 0
        for partition, committed in offsets.of(group).items():
            # A newer one may be on its way, and must not be forgotten with this one.
            newest = offsets.newest(group, partition) or committed
            last_used_ms = max(newest.commit_time_ms, emptied_at_ms or 0)
            overdue = not is_alive and now_ms - last_used_ms >= retention_ms
            if overdue or partition.topic_id not in image.topics:
                records.append(OffsetForgotten(group, partition))
            else:
                left += 1
        if not is_alive and not left and now_ms - (emptied_at_ms or 0) >= retention_ms:
            records.append(GroupRevived(group))
            if known is not None:
                ended.append(group)
    return Cleanup(tuple(records), tuple(ended))

"""How far each member of a group can go towards its target at this moment.

First everybody is told what to give up; then whoever has nothing to give up receives what is free.
A partition is free when no member reads it or may still be reading it. So a partition is moved in
two decisions: one that revokes it, and one, after its owner's confirmation, that hands it over.

A member's epoch advances when it is told to revoke, and once more when all of it is confirmed.
KIP-848 keeps the old epoch meanwhile; with streams instead of request and response that would allow
a confirmation sent *before* the member learned of a partition to release it.

Invariant: a partition that leaves `assigned` of a live topic stands in `revoking` until confirmed,
unless its member is away or was replaced.

Source: KIP-848, "Reconciliation of the group".
"""

from collections.abc import Callable
from dataclasses import replace

from odradek.controller.state.groups.model import (
    Assignment,
    Group,
    Member,
    TopicIdPartition,
    TopicsView,
)
from odradek.controller.state.groups.records import AssignmentChanged
from odradek.protocol.types import MemberId, TopicId


def reconcile(group: Group, topics: TopicsView) -> list[AssignmentChanged]:
    """Return what changes for members; empty when nobody can go on."""
    exists = _existence(topics)
    before = [group.members[member_id] for member_id in sorted(group.members)]
    revoked = [_revoke(member, group.assignment_epoch, exists) for member in before]
    owners: dict[TopicIdPartition, MemberId] = {
        partition: member.member_id
        for member in revoked
        for partition in (*member.assigned, *member.revoking)
    }
    records = []
    for member, draft in zip(before, revoked, strict=True):
        after = _receive(draft, owners, group.assignment_epoch)
        if after != member:
            records.append(_record(group, member, after))
    return records


def _existence(topics: TopicsView) -> Callable[[TopicIdPartition], bool]:
    known: dict[TopicId, bool] = {}

    def exists(partition: TopicIdPartition) -> bool:
        topic_id = partition.topic_id
        if topic_id not in known:
            known[topic_id] = topics.topic_by_id(topic_id) is not None
        return known[topic_id]

    return exists


def _revoke(member: Member, epoch: int, exists: Callable[[TopicIdPartition], bool]) -> Member:
    keeps: Assignment = {
        each: since
        for each, since in member.assigned.items()
        if each in member.target and exists(each)
    }
    gives_up: Assignment = {
        each: since
        for each, since in member.assigned.items()
        if each not in member.target and exists(each)
    }
    still_revoking: Assignment = {
        each: since for each, since in member.revoking.items() if exists(each)
    }
    if member.profile.away:
        return replace(member, member_epoch=epoch, assigned=keeps, revoking={})
    revoking = {**still_revoking, **gives_up}
    if revoking and not gives_up:
        epoch = member.member_epoch
    return replace(member, member_epoch=epoch, assigned=keeps, revoking=revoking)


def _receive(member: Member, owners: dict[TopicIdPartition, MemberId], epoch: int) -> Member:
    if member.revoking:
        return member
    received = [each for each in member.target - member.assigned.keys() if each not in owners]
    if not received:
        return member
    owners.update(dict.fromkeys(received, member.member_id))
    return replace(member, assigned={**member.assigned, **dict.fromkeys(received, epoch)})


def _record(group: Group, before: Member, after: Member) -> AssignmentChanged:
    advanced = after.member_epoch != before.member_epoch
    return AssignmentChanged(
        group=group.group,
        member_id=after.member_id,
        member_epoch=after.member_epoch,
        previous_member_epoch=before.member_epoch if advanced else before.previous_member_epoch,
        assigned=after.assigned,
        revoking=after.revoking,
    )

"""What a change of groups means: records that make it so, and an error for each change refused.

Idea: a decision works on a draft of the groups it touches and applies each record to it as it is
made, so that the next change of the same command sees it, and what is decided is by construction
what `apply` will do. Targets are computed once, after the last change.

Invariant: `decide` and `on_topics_changed` are functions of their arguments; nothing is changed.

Source: KIP-848; KIP-345 for static members.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from odradek.controller.state.groups.assignors import Assignor, Subscriber, assign
from odradek.controller.state.groups.commands import (
    GroupChange,
    GroupChanges,
    GroupDeleted,
    MemberJoined,
    MemberLeft,
    MemberOwns,
)
from odradek.controller.state.groups.model import (
    Group,
    Member,
    MemberProfile,
    SubscribedTopic,
    TopicsView,
)
from odradek.controller.state.groups.reconcile import reconcile
from odradek.controller.state.groups.records import (
    AssignmentChanged,
    GroupChanged,
    GroupRecord,
    GroupRemoved,
    MemberChanged,
    MemberRemoved,
    TargetChanged,
    apply,
)
from odradek.protocol.errors import (
    BrokerError,
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
from odradek.protocol.names import near_names
from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName

GROUP_MEMBERS_MAX = 5_000
"""A decision costs time in proportion to a group's members, and all groups share one controller."""


@dataclass(frozen=True, slots=True)
class GroupDecision:
    """What was decided."""

    records: tuple[GroupRecord, ...]
    """To be applied in order, all or none."""
    errors: tuple[BrokerError | None, ...]
    """One entry a change, in the command's order; None: done."""


def decide(
    groups: Mapping[GroupId, Group], command: GroupChanges, topics: TopicsView
) -> GroupDecision:
    """Decide a coordinator's changes in order, as one step.

    Args:
        groups: The present (draft) state; not changed.
        command: From a coordinator that is known to lead the partition at this moment.
        topics: The topics that exist.
    """
    draft = _Draft.of(groups, [change.group for change in command.changes])
    errors: list[BrokerError | None] = []
    for change in command.changes:
        try:
            _change(draft, change, command.coordinator_partition)
        except BrokerError as error:
            errors.append(error)
        else:
            errors.append(None)
    _settle(draft, topics)
    return GroupDecision(tuple(draft.records), tuple(errors))


def on_topics_changed(
    groups: Mapping[GroupId, Group], topics: TopicsView, changed: Collection[TopicName]
) -> tuple[GroupRecord, ...]:
    """Give groups new targets because topics were created, deleted, or got more partitions.

    Args:
        groups: The present (draft) state; not changed.
        topics: The topics as they are after the change.
        changed: Which names to look for in subscriptions.
    """
    names = frozenset(changed)
    touched = [
        group.group
        for group in groups.values()
        if group.subscribes(names) or _revokes_what_is_gone(group, topics)
    ]
    draft = _Draft.of(groups, touched)
    draft.resubscribed.update(dict.fromkeys(touched))
    _settle(draft, topics)
    return tuple(draft.records)


@dataclass(slots=True)
class _Draft:
    groups: dict[GroupId, Group]
    records: list[GroupRecord] = field(default_factory=list)
    moved: dict[GroupId, None] = field(default_factory=dict)
    """Groups in which somebody can go on; a dict, for its order."""
    resubscribed: dict[GroupId, None] = field(default_factory=dict)
    """Groups that need a new target."""

    @classmethod
    def of(cls, groups: Mapping[GroupId, Group], touched: Collection[GroupId]) -> "_Draft":
        return cls({each: groups[each] for each in touched if each in groups})

    def emit(self, record: GroupRecord) -> None:
        self.records.append(record)
        apply(self.groups, record)

    def member(self, group: GroupId, member_id: MemberId) -> Member:
        known = self.groups.get(group)
        member = None if known is None else known.members.get(member_id)
        if member is None:
            raise UnknownMemberIdError(
                f"group {group!r} has no member {member_id!r}", field="member_id", value=member_id
            )
        return member


def _change(draft: _Draft, change: GroupChange, coordinator_partition: PartitionIndex) -> None:
    group = draft.groups.get(change.group)
    if group is not None and group.coordinator_partition != coordinator_partition:
        raise NotCoordinatorError(
            f"group {change.group!r} belongs to partition {group.coordinator_partition}",
            field="coordinator_partition",
            value=coordinator_partition,
            limit=group.coordinator_partition,
        )
    match change:
        case MemberJoined():
            _join(draft, change, coordinator_partition)
        case MemberLeft():
            _leave(draft, change)
        case MemberOwns():
            _confirm(draft, change)
        case GroupDeleted():
            _delete(draft, change)
        case _:
            assert_never(change)


def _join(draft: _Draft, change: MemberJoined, coordinator_partition: PartitionIndex) -> None:
    profile = replace(change.profile, away=False)
    group = draft.groups.get(change.group)
    _check_profile(group, profile)
    if group is None:
        begun = GroupChanged(
            group=change.group,
            coordinator_partition=coordinator_partition,
            group_epoch=0,
            assignment_epoch=0,
            assignor=Assignor.UNIFORM.value,
        )
        draft.emit(begun)
        group = draft.groups[change.group]
    known = group.members.get(profile.member_id)
    predecessor = _holder_of(group, profile.instance_id)
    if known is None and predecessor is not None:
        _replace_member(draft, group, predecessor, profile)
        known = predecessor
    elif known is None or known.profile != profile:
        draft.emit(MemberChanged(group.group, profile))
    draft.moved[group.group] = None
    if known is None or _asks_for(known.profile) != _asks_for(profile):
        draft.resubscribed[group.group] = None


def _check_profile(group: Group | None, profile: MemberProfile) -> None:
    names = [each.value for each in Assignor]
    if profile.assignor and profile.assignor not in names:
        raise UnsupportedAssignorError(
            f"assignor {profile.assignor!r} is unknown; there are {', '.join(names)}",
            field="assignor",
            value=profile.assignor,
            limit=", ".join(names),
            suggestions=near_names(profile.assignor, names),
        )
    if group is None:
        return
    known = group.members.get(profile.member_id)
    if known is not None and known.profile.instance_id != profile.instance_id:
        raise InvalidRequestError(
            f"member {profile.member_id!r} cannot change its instance id",
            field="instance_id",
            value=profile.instance_id,
            limit=known.profile.instance_id,
        )
    joins = known is None and _holder_of(group, profile.instance_id) is None
    if joins and len(group.members) >= GROUP_MEMBERS_MAX:
        raise GroupMaxSizeReachedError(
            f"group {group.group!r} has {len(group.members)} members already",
            field="group",
            value=group.group,
            limit=GROUP_MEMBERS_MAX,
        )


def _holder_of(group: Group, instance_id: str) -> Member | None:
    if not instance_id:
        return None
    return next(
        (each for each in group.members.values() if each.profile.instance_id == instance_id), None
    )


def _asks_for(profile: MemberProfile) -> tuple[object, ...]:
    """Return what a target depends on."""
    return profile.topics, profile.rack, profile.assignor


def _replace_member(draft: _Draft, group: Group, old: Member, profile: MemberProfile) -> None:
    """Give a static member's place to its new process, which owns nothing yet."""
    draft.emit(MemberRemoved(group.group, old.member_id))
    draft.emit(MemberChanged(group.group, profile))
    draft.emit(TargetChanged(group.group, profile.member_id, old.target))
    taken_over = AssignmentChanged(
        group=group.group,
        member_id=profile.member_id,
        member_epoch=group.assignment_epoch,
        previous_member_epoch=old.member_epoch,
        assigned=old.assigned,
        revoking={},
    )
    draft.emit(taken_over)


def _leave(draft: _Draft, change: MemberLeft) -> None:
    member = draft.member(change.group, change.member_id)
    draft.moved[change.group] = None
    if change.away and member.profile.instance_id:
        draft.emit(MemberChanged(change.group, replace(member.profile, away=True)))
        return
    draft.emit(MemberRemoved(change.group, change.member_id))
    draft.resubscribed[change.group] = None


def _confirm(draft: _Draft, change: MemberOwns) -> None:
    member = draft.member(change.group, change.member_id)
    if change.member_epoch < member.member_epoch:
        raise StaleMemberEpochError(
            f"member {change.member_id!r} spoke with epoch {change.member_epoch}, before it knew"
            f" what epoch {member.member_epoch} revokes",
            field="member_epoch",
            value=change.member_epoch,
            limit=member.member_epoch,
        )
    if change.member_epoch > member.member_epoch:
        raise FencedMemberEpochError(
            f"member {change.member_id!r} is at epoch {member.member_epoch}",
            field="member_epoch",
            value=change.member_epoch,
            limit=member.member_epoch,
        )
    revoking = {
        partition: epoch
        for partition, epoch in member.revoking.items()
        if partition in change.owned
    }
    if len(revoking) == len(member.revoking):
        return
    confirmed = AssignmentChanged(
        group=change.group,
        member_id=change.member_id,
        member_epoch=member.member_epoch,
        previous_member_epoch=member.previous_member_epoch,
        assigned=member.assigned,
        revoking=revoking,
    )
    draft.emit(confirmed)
    draft.moved[change.group] = None


def _delete(draft: _Draft, change: GroupDeleted) -> None:
    group = draft.groups.get(change.group)
    if group is None:
        raise GroupIdNotFoundError(
            f"there is no group {change.group!r}", field="group", value=change.group
        )
    if group.members:
        raise NonEmptyGroupError(
            f"group {change.group!r} has {len(group.members)} members",
            field="group",
            value=change.group,
            limit=0,
        )
    draft.emit(GroupRemoved(change.group))


def _settle(draft: _Draft, topics: TopicsView) -> None:
    """Compute new targets where they are due, and let members go towards them."""
    for group_id in draft.resubscribed:
        group = draft.groups.get(group_id)
        if group is not None:
            _retarget(draft, group, topics)
    for group_id in draft.moved | draft.resubscribed:
        group = draft.groups.get(group_id)
        if group is not None:
            for record in reconcile(group, topics):
                draft.emit(record)


def _retarget(draft: _Draft, group: Group, topics: TopicsView) -> None:
    names = sorted({name for each in group.members.values() for name in each.profile.topics})
    found = {name: topics.topic_by_name(name) for name in names}
    known: dict[TopicName, SubscribedTopic] = {
        name: topic for name, topic in found.items() if topic is not None
    }
    subscribers = [
        Subscriber(
            member_id=member.member_id,
            instance_id=member.profile.instance_id,
            rack=member.profile.rack,
            topics=frozenset(
                known[name].topic_id for name in member.profile.topics if name in known
            ),
            current=member.target,
        )
        for member in group.members.values()
    ]
    partition_counts: dict[TopicId, int] = {
        topic.topic_id: topic.partition_count for topic in known.values()
    }
    assignor = _assignor_of(group)
    targets = assign(assignor, subscribers, partition_counts, topics.racks)
    for member in group.members.values():
        if targets[member.member_id] != member.target:
            draft.emit(TargetChanged(group.group, member.member_id, targets[member.member_id]))
    epoch = group.group_epoch + 1
    advanced = GroupChanged(
        group=group.group,
        coordinator_partition=group.coordinator_partition,
        group_epoch=epoch,
        assignment_epoch=epoch,
        assignor=assignor.value,
    )
    draft.emit(advanced)


def _assignor_of(group: Group) -> Assignor:
    """Return what most members ask for; in doubt the first of the enumeration."""
    votes = Counter(
        each.profile.assignor or Assignor.UNIFORM.value for each in group.members.values()
    )
    return max(Assignor, key=lambda assignor: votes[assignor.value])


def _revokes_what_is_gone(group: Group, topics: TopicsView) -> bool:
    return any(
        topics.topic_by_id(partition.topic_id) is None
        for member in group.members.values()
        for partition in member.revoking
    )

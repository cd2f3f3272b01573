"""A consumer group as the controller keeps it. Immutable: changes make new values.

A group has three clocks. Its *group epoch* grows with each change of members, subscriptions or
subscribed topics. The *assignment epoch* is the group epoch its targets were computed for. A
*member epoch* is the assignment epoch a member's assignment belongs to.

Invariants:
    No partition stands in `assigned` or `revoking` of two members, or in both of one.
    assignment epoch of a partition <= member epoch <= assignment epoch of the group <= group epoch.

Source: KIP-848 (epochs, states), KIP-1251 (assignment epoch for each partition).
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName


class TopicIdPartition(NamedTuple):
    """One partition of one incarnation of a topic."""

    topic_id: TopicId
    partition: PartitionIndex


Assignment = Mapping[TopicIdPartition, int]
"""Partitions, each with the member epoch at which it was assigned. Never changed in place."""


class MemberState(enum.Enum):
    """Where a member stands between its assignment and its target."""

    STABLE = "stable"
    UNREVOKED_PARTITIONS = "unrevoked partitions"
    """It has yet to confirm that it gave something up."""
    UNRELEASED_PARTITIONS = "unreleased partitions"
    """It waits for others to give something up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberProfile:
    """What a member says of itself."""

    member_id: MemberId
    instance_id: str = ""
    """Set by static members."""
    rack: str = ""
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_s: float = 60.0
    """How long it may take to revoke; the coordinator expels it then."""
    topics: frozenset[TopicName] = frozenset()
    """What it subscribes; a topic that does not exist may come to exist."""
    assignor: str = ""
    """The assignor it asks for; empty: no preference."""
    away: bool = False
    """A static member that left with epoch -2: it owns nothing, its place is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member."""

    profile: MemberProfile
    member_epoch: int = 0
    """While it has to revoke: the assignment epoch that told it so. A confirmation carries at
    least this epoch, which proves that it was sent by a member that knew what to revoke."""
    previous_member_epoch: int = 0
    assigned: Assignment = field(default_factory=dict)
    """What it may read."""
    revoking: Assignment = field(default_factory=dict)
    """What it was told to give up and may still be reading."""
    target: frozenset[TopicIdPartition] = frozenset()
    """What it will own."""

    @property
    def member_id(self) -> MemberId:
        """Its id."""
        return self.profile.member_id

    @property
    def state(self) -> MemberState:
        """Where it stands."""
        if self.revoking:
            return MemberState.UNREVOKED_PARTITIONS
        if self.target - self.assigned.keys():
            return MemberState.UNRELEASED_PARTITIONS
        return MemberState.STABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group; an empty one is kept until it is deleted, so that its epochs go on growing."""

    group: GroupId
    coordinator_partition: PartitionIndex
    group_epoch: int = 0
    assignment_epoch: int = 0
    assignor: str = ""
    members: Mapping[MemberId, Member] = field(default_factory=dict)

    def subscribes(self, topics: frozenset[TopicName]) -> bool:
        """Tell whether any member subscribes any of these topics."""
        return any(not topics.isdisjoint(each.profile.topics) for each in self.members.values())

    def owners(self) -> dict[TopicIdPartition, MemberId]:
        """Return who may be reading each partition at this moment."""
        owners: dict[TopicIdPartition, MemberId] = {}
        for member in self.members.values():
            for partition in (*member.assigned, *member.revoking):
                assert partition not in owners, f"{partition} has two owners"
                owners[partition] = member.member_id
        return owners


@dataclass(frozen=True, slots=True)
class SubscribedTopic:
    """What groups need to know of a topic."""

    topic_id: TopicId
    name: TopicName
    partition_count: int

    def partitions(self) -> Iterable[TopicIdPartition]:
        """Return its partitions in order."""
        for index in range(self.partition_count):
            yield TopicIdPartition(self.topic_id, PartitionIndex(index))


class TopicsView(Protocol):
    """The topics as groups see them; the controller's (draft) image answers."""

    def topic_by_name(self, name: TopicName) -> SubscribedTopic | None:
        """Return the topic of this name that may be subscribed; None when there is none."""
        ...

    def topic_by_id(self, topic_id: TopicId) -> SubscribedTopic | None:
        """Return the topic with this id; None when there is none, or no longer."""
        ...

    def racks(self, partition: TopicIdPartition) -> frozenset[str]:
        """Return the racks of the nodes that hold a replica; empty when none is known."""
        ...

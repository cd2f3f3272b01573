"""Groups as their coordinator sees them, and what it may tell the controller. Pure.

A `Group` is the controller's word; the coordinator never changes one, it is fed another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeAlias

from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName

JOIN_EPOCH = 0
LEAVE_EPOCH = -1
LEAVE_STATIC_EPOCH = -2
NO_MEMBER_EPOCH = -1
"""The epoch of commits and reads by nobody: tools, manual assignment."""


class TopicIdPartition(NamedTuple):
    """One partition of one incarnation of a topic."""

    topic_id: TopicId
    partition: PartitionIndex


Assignment = Mapping[TopicIdPartition, int]
"""Partitions, each with the member epoch at which it was assigned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member, as the controller has it."""

    member_id: MemberId
    instance_id: str = ""
    rack: str = ""
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_s: float = 60.0
    topics: frozenset[TopicName] = frozenset()
    member_epoch: int = 0
    assigned: Assignment = field(default_factory=dict)
    """What it may read."""
    revoking: Assignment = field(default_factory=dict)
    """What it was told to give up and has not confirmed."""
    target: frozenset[TopicIdPartition] = frozenset()
    """What it will own."""
    away: bool = False
    """A static member that left and may come back."""

    def epoch_of(self, partition: TopicIdPartition) -> int | None:
        """Return the epoch at which a partition was assigned; None: it is not this member's."""
        return self.assigned.get(partition, self.revoking.get(partition))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group, as the controller has it."""

    group: GroupId
    coordinator_partition: PartitionIndex
    group_epoch: int = 0
    assignment_epoch: int = 0
    assignor: str = ""
    members: Mapping[MemberId, Member] = field(default_factory=dict)

    def holder_of(self, instance_id: str) -> Member | None:
        """Return the member with an instance id."""
        if not instance_id:
            return None
        found = (each for each in self.members.values() if each.instance_id == instance_id)
        return next(found, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A member joined, came back, or subscribes something else."""

    member_id: MemberId
    instance_id: str
    rack: str
    client_id: str
    client_host: str
    rebalance_timeout_s: float
    topics: frozenset[TopicName]
    assignor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A member is gone."""

    member_id: MemberId
    away: bool = False
    """It is static and will come back."""
    expired: bool = False
    """It did not say goodbye."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owns:
    """A member confirmed what it owns."""

    member_id: MemberId
    member_epoch: int
    owned: frozenset[TopicIdPartition]


@dataclass(frozen=True, slots=True)
class Deleted:
    """An empty group is to be deleted."""


Change: TypeAlias = Joined | Left | Owns | Deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTimes:
    """How long things take; all in seconds."""

    session_timeout_s: float = 45.0
    """How long a silent member is kept."""
    heartbeat_interval_s: float = 3.0
    """How often members are asked to send a frame."""
    reconnect_grace_s: float = 5.0
    """How long a dynamic member whose stream broke is kept."""
    join_debounce_s: float = 0.25
    """How long a join into a group with members waits for others."""
    rebalance_timeout_s: float = 60.0
    """How long a member may take to revoke unless it says otherwise."""
    offsets_retention_s: float = 7 * 24 * 3600.0
    """How long the offsets of an empty group are kept."""

    def __post_init__(self) -> None:
        assert 0 < self.heartbeat_interval_s * 3 <= self.session_timeout_s
        assert 0 < self.reconnect_grace_s <= self.session_timeout_s

    @classmethod
    def of_session(cls, session_timeout_s: float) -> Self:
        """Return the times around a session, which a short one shortens too."""
        default = cls()
        return cls(
            session_timeout_s=session_timeout_s,
            heartbeat_interval_s=min(default.heartbeat_interval_s, session_timeout_s / 3),
            reconnect_grace_s=min(default.reconnect_grace_s, session_timeout_s),
        )

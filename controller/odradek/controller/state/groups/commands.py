"""What a coordinator tells the controller of the groups it coordinates."""

from dataclasses import dataclass
from typing import TypeAlias

from odradek.controller.state.groups.model import MemberProfile, TopicIdPartition
from odradek.protocol.types import GroupId, MemberId, PartitionIndex


@dataclass(frozen=True, slots=True)
class MemberJoined:
    """A member joined, came back, or says something else of itself.

    With the instance id of another member it takes that member's place; the other one is fenced.
    """

    group: GroupId
    profile: MemberProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberLeft:
    """A member is gone."""

    group: GroupId
    member_id: MemberId
    away: bool = False
    """A static member that will come back keeps its place until its session ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberOwns:
    """A member says what it owns; of what it had to revoke, the rest may move on."""

    group: GroupId
    member_id: MemberId
    member_epoch: int
    """The epoch the member spoke with."""
    owned: frozenset[TopicIdPartition]


@dataclass(frozen=True, slots=True)
class GroupDeleted:
    """An empty group is to be deleted."""

    group: GroupId


GroupChange: TypeAlias = MemberJoined | MemberLeft | MemberOwns | GroupDeleted


@dataclass(frozen=True, slots=True)
class GroupChanges:
    """Changes of groups in one partition of `__consumer_offsets`, decided in order, as one step."""

    coordinator_partition: PartitionIndex
    changes: tuple[GroupChange, ...]

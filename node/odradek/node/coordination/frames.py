"""What passes between a member and its coordinator, and what the coordinator wants done. Pure."""

from dataclasses import dataclass
from typing import NewType, TypeAlias

from odradek.node.coordination.model import Change, TopicIdPartition
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import GroupId, MemberId, TopicName

StreamId = NewType("StreamId", int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A sign of life; None stands for what did not change."""

    group: GroupId
    member_id: MemberId
    member_epoch: int
    instance_id: str = ""
    rack: str = ""
    client_id: str = ""
    client_host: str = ""
    rebalance_timeout_s: float | None = None
    topics: frozenset[TopicName] | None = None
    assignor: str = ""
    owned: frozenset[TopicIdPartition] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a member should know; no assignment: as before."""

    member_epoch: int
    group_epoch: int
    assignment: frozenset[TopicIdPartition] | None


@dataclass(frozen=True, slots=True)
class Proposed:
    """The controller is to be told."""

    group: GroupId
    change: Change
    due_s: float


@dataclass(frozen=True, slots=True)
class ReplyDue:
    """Call `reply` once the stream can be written, then write what it returns."""

    stream: StreamId


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """Write a last reply with the error, or the epoch of the goodbye, then close the stream.

    With neither, the member has opened a newer stream, and this one is closed without a word.
    """

    stream: StreamId
    member_epoch: int
    error: BrokerError | None


Effect: TypeAlias = Proposed | ReplyDue | StreamEnded

"""One member as its coordinator sees it, and why it may be refused. Pure.

What a frame does, by where its member stands (`Status`; *unknown*: no frame of it came here yet). A
first frame comes on a new stream, which replaces the member's stream if it has one; a later one
comes on the member's stream. Frames on a stream that was ended do nothing.

    status    first, epoch 0   first, epoch > 0          later               leave
    unknown   join             stay, or refused (*)      -                   leave, or goodbye (**)
    JOINING   join anew        stay, or refused          prolongs            leave
    PRESENT   join anew        stay, or refused          stay, or refused    leave
    LEAVING   join             refused                   nothing             goodbye
    FENCED    join             refused                   -                   goodbye

    (*)  Refused: the controller has no such member, or a successor holds its instance id; the
         frame's epoch is ahead; it owns what is not its own; or the member is going.
    (**) Goodbye: the stream ends with the epoch of the leave, since there is nobody to remove.
"""

import enum
from dataclasses import dataclass, field

from odradek.node.coordination.frames import Frame, StreamId
from odradek.node.coordination.model import (
    JOIN_EPOCH,
    Group,
    GroupTimes,
    Joined,
    Member,
    TopicIdPartition,
)
from odradek.node.coordination.sessions import MemberKey
from odradek.protocol.errors import (
    BrokerError,
    FencedInstanceIdError,
    FencedMemberEpochError,
    InvalidRequestError,
    UnknownMemberIdError,
)

NOT_TOLD = -1
"""In place of the epoch of a reply: only the member said so, and its next frame may unsay it."""


class Status(enum.Enum):
    """Where a member stands with its coordinator."""

    JOINING = "joining"
    PRESENT = "present"
    LEAVING = "leaving"
    FENCED = "fenced"


@dataclass(slots=True)
class Presence:
    """What a coordinator knows of a member beyond the controller's word."""

    status: Status
    stream: StreamId | None
    profile: Joined | None = None
    """What was last proposed of it; None: what the controller says."""
    admitted: bool = False
    """While joining: the controller has agreed."""
    leave_epoch: int = 0
    told: frozenset[TopicIdPartition] | None = None
    """The last assignment written to this stream."""
    may_own: dict[TopicIdPartition, int] = field(default_factory=dict)
    """What the member may be reading, as far as this stream tells, and the epoch that told it."""
    releasing: frozenset[TopicIdPartition] = frozenset()
    """What a proposal under way releases."""

    @property
    def instance_id(self) -> str:
        """Its instance id, as far as it was proposed here."""
        return "" if self.profile is None else self.profile.instance_id

    @property
    def is_alive(self) -> bool:
        """Whether its frames prolong its session."""
        return self.status in {Status.JOINING, Status.PRESENT}

    def learn(self, frame: Frame) -> None:
        """Take note of what the member says it owns.

        What was told under the frame's epoch or a later one may have crossed it on its way.
        """
        if frame.owned is None:
            return
        crossing = {
            each: epoch for each, epoch in self.may_own.items() if epoch >= frame.member_epoch
        }
        self.may_own = {**dict.fromkeys(frame.owned, NOT_TOLD), **crossing}


def profile_of(
    frame: Frame, member: Member | None, said: Joined | None, times: GroupTimes
) -> Joined:
    """Return what a frame says of its member, completed by what was known of it."""
    known: Joined | Member | None = said or member
    timeout_s = known.rebalance_timeout_s if known else times.rebalance_timeout_s
    return Joined(
        member_id=frame.member_id,
        instance_id=frame.instance_id or (known.instance_id if known else ""),
        rack=frame.rack or (known.rack if known else ""),
        client_id=frame.client_id or (known.client_id if known else ""),
        client_host=frame.client_host,
        rebalance_timeout_s=frame.rebalance_timeout_s or timeout_s,
        topics=frame.topics or frozenset(),
        assignor=frame.assignor or (said.assignor if said else ""),
    )


def departed(key: MemberKey, group: Group | None, instance_id: str) -> BrokerError:
    """Make the error for a member that is none any more."""
    successor = None if group is None else group.holder_of(instance_id)
    if successor is not None and successor.member_id != key.member_id:
        return FencedInstanceIdError(
            f"another process joined group {key.group!r} with instance id {instance_id!r}",
            field="instance_id",
            value=instance_id,
        )
    return UnknownMemberIdError(
        f"group {key.group!r} has no member {key.member_id!r}: it left, or its session ended",
        field="member_id",
        value=key.member_id,
    )


def fenced(key: MemberKey, why: str, limit: int) -> FencedMemberEpochError:
    """Make the error for a member that must join again."""
    return FencedMemberEpochError(
        f"member {key.member_id!r} of group {key.group!r} was fenced: {why}",
        field="member_epoch",
        limit=limit,
    )


def malformed(bound: MemberKey | None, frame: Frame) -> InvalidRequestError | None:
    """Make the error for a frame that no member sends on a stream of this one; None: it is good.

    Args:
        bound: Whose stream it is; None before its first frame.
        frame: The frame.
    """
    if bound is not None:
        if bound == (frame.group, frame.member_id):
            return None
        return InvalidRequestError(
            f"this stream belongs to member {bound.member_id!r} of group {bound.group!r}",
            field="member_id",
            value=frame.member_id,
            limit=bound.member_id,
        )
    if frame.member_epoch < JOIN_EPOCH or None not in {frame.topics, frame.owned}:
        return None
    field = "subscription_changed" if frame.topics is None else "owned_changed"
    return InvalidRequestError(
        "the first frame of a stream carries topics and owned partitions", field=field, value=False
    )


def away_without_instance(frame: Frame) -> InvalidRequestError:
    """Make the error for a dynamic member that wants to come back."""
    return InvalidRequestError(
        "only a member with an instance id can leave to come back",
        field="member_epoch",
        value=frame.member_epoch,
    )

"""The members of the groups of one internal partition, as they come, stay, and go. Pure.

The controller owns memberships and assignments; the coordinator owns liveness. It turns frames,
silence and broken streams into proposals for the controller, and the controller's word into
replies. A reply is composed when it can be written, from what is true then, so that a slow
stream needs no queue.

Rules of the file:
    A member whose session ended is fenced here *before* its expulsion is proposed: from that moment
    its frames and commits are refused, whatever the controller knows.
    A revocation is confirmed by a frame that (1) carries at least the member's epoch, which grew
    when it was told to revoke, and (2) says that the partition is not owned, or belongs to a stream
    on which the partition was never heard of. The member's side of the bargain: what it owns
    includes what it is about to take over; a frame's epoch is that of the last reply it has seen.
    The newest stream of a member is its only one. A stream is new, then its member's, then ended,
    once; frames on an ended stream, sent before its end was heard of, are void.

Invariants: `_streams[presence.stream]` is the presence's key; a fenced or leaving member has no
session; each presence that is joining, leaving or fenced has a proposal under way.

Source: KIP-848, KIP-1251; Kafka's GroupMetadataManager.consumerGroupHeartbeat.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from odradek.node.coordination.frames import (
    Effect,
    Frame,
    Proposed,
    Reply,
    ReplyDue,
    StreamEnded,
    StreamId,
)
from odradek.node.coordination.model import (
    JOIN_EPOCH,
    LEAVE_STATIC_EPOCH,
    Change,
    Group,
    GroupTimes,
    Joined,
    Left,
    Member,
    Owns,
)
from odradek.node.coordination.presence import (
    Presence,
    Status,
    away_without_instance,
    departed,
    fenced,
    malformed,
    profile_of,
)
from odradek.node.coordination.sessions import Deadlines, MemberKey, Sessions
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import GroupId, MemberId


@dataclass(slots=True)
class GroupMembers:
    """The machine. Times are of one monotonic clock; effects are to be performed in order."""

    times: GroupTimes
    groups: dict[GroupId, Group] = field(default_factory=dict)
    """As the controller has them."""
    _sessions: Sessions = field(init=False)
    _revocations: Deadlines[MemberKey] = field(default_factory=Deadlines)
    _revoking_epoch: dict[MemberKey, int] = field(default_factory=dict)
    _presences: dict[MemberKey, Presence] = field(default_factory=dict)
    _streams: dict[StreamId, MemberKey] = field(default_factory=dict)
    _ended: set[StreamId] = field(default_factory=set)
    """Streams that were ended here and not yet reported as broken."""
    _begun: set[GroupId] = field(default_factory=set)
    """Groups whose first join is under way."""

    def __post_init__(self) -> None:
        self._sessions = Sessions(self.times)

    def is_fenced(self, group: GroupId, member_id: str) -> bool:
        """Tell whether a member was expelled here."""
        presence = self._presences.get(MemberKey(group, MemberId(member_id)))
        return presence is not None and presence.status is Status.FENCED

    # What members do

    def on_frame(self, stream: StreamId, frame: Frame, now_s: float) -> list[Effect]:
        """A member gave a sign of life."""
        if stream in self._ended:
            return []
        key = MemberKey(frame.group, frame.member_id)
        bound = self._streams.get(stream)
        wrong = malformed(bound, frame)
        if wrong is not None:
            return self._end(stream, wrong)
        if frame.member_epoch < JOIN_EPOCH:
            return self._on_leave(key, stream, frame, now_s)
        is_first = bound is None
        if is_first and frame.member_epoch == JOIN_EPOCH:
            return self._on_join(key, stream, frame, now_s)
        presence = self._presences.get(key)
        is_between = presence and presence.status in {Status.JOINING, Status.LEAVING}
        if presence is not None and is_between and not is_first:
            if presence.is_alive:
                self._sessions.grant(key, now_s)
            return []
        try:
            member = self._standing(key, frame, presence, check_owned=is_first)
        except BrokerError as error:
            return self._end(stream, error)
        effects: list[Effect] = []
        if is_first or presence is None:
            effects += self._bind(key, stream)
            presence = Presence(Status.PRESENT, stream)
            self._presences[key] = presence
        self._sessions.grant(key, now_s)
        effects += self._on_profile(key, presence, member, frame, now_s)
        presence.learn(frame)
        if frame.member_epoch >= member.member_epoch:
            effects += self._release(key, presence, member, now_s)
        return [*effects, ReplyDue(stream)]

    def on_stream_broken(self, stream: StreamId, now_s: float) -> None:
        """A stream ended without a word, or was closed by us."""
        self._ended.discard(stream)
        key = self._streams.pop(stream, None)
        if key is None:
            return
        presence = self._presences.get(key)
        if presence is None or presence.stream != stream:
            return
        presence.stream = None
        member = self._member(key)
        static = bool(member.instance_id if member else presence.instance_id)
        if presence.is_alive:
            self._sessions.stream_broke(key, now_s, static=static)

    def reply(self, stream: StreamId) -> Reply | None:
        """Compose what is to be written now; None: nothing."""
        key = self._streams.get(stream)
        presence = None if key is None else self._presences.get(key)
        member = None if key is None else self._member(key)
        if key is None or presence is None or member is None:
            return None
        if presence.stream != stream or presence.status is not Status.PRESENT:
            return None
        assignment = frozenset(member.assigned)
        group_epoch = self.groups[key.group].group_epoch
        if assignment == presence.told:
            return Reply(member.member_epoch, group_epoch, None)
        presence.told = assignment
        presence.may_own.update(dict.fromkeys(assignment, member.member_epoch))
        return Reply(member.member_epoch, group_epoch, assignment)

    # What the controller says

    def on_groups(
        self, groups: Iterable[Group], removed: Iterable[GroupId], now_s: float
    ) -> list[Effect]:
        """The controller's word on some groups, in the order of its log."""
        effects: list[Effect] = []
        for group in groups:
            effects += self._on_group(group, now_s)
        for group_id in removed:
            known = self.groups.get(group_id)
            if known is not None:
                effects += self._on_group(replace(known, members={}), now_s)
                del self.groups[group_id]
        return effects

    def on_decided(
        self, group: GroupId, change: Change, error: BrokerError | None, now_s: float
    ) -> list[Effect]:
        """The controller has decided a proposal, and what it said of it has been seen here."""
        match change:
            case Joined():
                self._begun.discard(group)
                return self._on_join_decided(
                    MemberKey(group, change.member_id), change, error, now_s
                )
            case Left():
                return self._on_leave_decided(MemberKey(group, change.member_id), now_s)
            case Owns():
                presence = self._presences.get(MemberKey(group, change.member_id))
                if error is not None and presence is not None:
                    presence.releasing = frozenset()
                return []
            case _:
                return []

    def on_tick(self, now_s: float) -> list[Effect]:
        """Expel whose session, or whose time to revoke, has ended."""
        effects: list[Effect] = []
        for key in (*self._sessions.expired(now_s), *self._revocations.due(now_s)):
            effects += self._expel(key, now_s)
        return effects

    # Joining

    def _on_join(
        self, key: MemberKey, stream: StreamId, frame: Frame, now_s: float
    ) -> list[Effect]:
        effects = self._bind(key, stream)
        profile = profile_of(frame, None, None, self.times)
        self._presences[key] = Presence(Status.JOINING, stream, profile)
        self._sessions.grant(key, now_s)
        return [*effects, self._propose_join(key, profile, now_s)]

    def _propose_join(self, key: MemberKey, profile: Joined, now_s: float) -> Proposed:
        group = self.groups.get(key.group)
        is_alone = (group is None or not group.members) and key.group not in self._begun
        self._begun.add(key.group)
        due_s = now_s if is_alone else now_s + self.times.join_debounce_s
        return Proposed(key.group, profile, due_s)

    def _on_join_decided(
        self, key: MemberKey, change: Joined, error: BrokerError | None, now_s: float
    ) -> list[Effect]:
        presence = self._presences.get(key)
        if presence is None or presence.profile is not change:
            return []
        if error is None:
            presence.admitted = True
            return self._admit(key, presence, now_s)
        if not presence.is_alive:
            return []
        if self._member(key) is None:
            self._sessions.end(key)
        del self._presences[key]
        return self._end(presence.stream, error)

    def _admit(self, key: MemberKey, presence: Presence, now_s: float) -> list[Effect]:
        """Begin to talk to a member that has joined: it owns nothing yet."""
        member = self._member(key)
        if member is None or not presence.admitted or presence.status is not Status.JOINING:
            return []
        presence.status = Status.PRESENT
        released = self._release(key, presence, member, now_s)
        return released if presence.stream is None else [*released, ReplyDue(presence.stream)]

    # Staying

    def _standing(
        self, key: MemberKey, frame: Frame, presence: Presence | None, *, check_owned: bool
    ) -> Member:
        """Return the member a frame speaks for.

        Raises:
            UnknownMemberIdError, FencedMemberEpochError, FencedInstanceIdError: It is none.
        """
        member = self._member(key)
        if member is None:
            raise departed(key, self.groups.get(key.group), frame.instance_id)
        is_out = member.away or (presence is not None and not presence.is_alive)
        if is_out or frame.member_epoch > member.member_epoch:
            raise fenced(key, f"it spoke with epoch {frame.member_epoch}", member.member_epoch)
        if check_owned and frame.owned is not None:
            foreign = [each for each in frame.owned if member.epoch_of(each) is None]
            if foreign:
                raise fenced(
                    key, f"{len(foreign)} partitions it owns are not its own", member.member_epoch
                )
        return member

    def _on_profile(
        self, key: MemberKey, presence: Presence, member: Member, frame: Frame, now_s: float
    ) -> list[Effect]:
        """Pass on what a member says of itself, when it is news."""
        if frame.topics is None:
            return []
        said = member.topics if presence.profile is None else presence.profile.topics
        if frame.topics == said:
            return []
        presence.profile = profile_of(frame, member, presence.profile, self.times)
        return [self._propose_join(key, presence.profile, now_s)]

    def _release(
        self, key: MemberKey, presence: Presence, member: Member, now_s: float
    ) -> list[Effect]:
        """Tell the controller what a member does not own any more of what it had to give up."""
        released = member.revoking.keys() - presence.may_own.keys()
        if released <= presence.releasing:
            return []
        presence.releasing = frozenset(released)
        still_owned = frozenset([*member.assigned, *member.revoking]) - released
        owns = Owns(member_id=key.member_id, member_epoch=member.member_epoch, owned=still_owned)
        return [Proposed(key.group, owns, now_s)]

    # Going

    def _on_leave(
        self, key: MemberKey, stream: StreamId, frame: Frame, now_s: float
    ) -> list[Effect]:
        member, presence = self._member(key), self._presences.get(key)
        is_away = frame.member_epoch == LEAVE_STATIC_EPOCH
        if is_away and not (member.instance_id if member else frame.instance_id):
            return self._end(stream, away_without_instance(frame))
        effects = self._bind(key, stream)
        if member is None if presence is None else not presence.is_alive:
            return [*effects, *self._end(stream, None, frame.member_epoch)]
        self._presences[key] = Presence(Status.LEAVING, stream, leave_epoch=frame.member_epoch)
        self._forget_times(key)
        if is_away:
            self._sessions.grant(key, now_s)
        left = Left(member_id=key.member_id, away=is_away)
        return [*effects, Proposed(key.group, left, now_s)]

    def _on_leave_decided(self, key: MemberKey, now_s: float) -> list[Effect]:
        """Say goodbye; an error means that the member was gone already."""
        presence = self._presences.get(key)
        if presence is None or presence.is_alive:
            return []
        del self._presences[key]
        if self._member(key) is not None:  # it is away, and its session may have ended meanwhile
            self._sessions.grant_if_unknown(key, now_s)
        return self._end(presence.stream, None, presence.leave_epoch)

    def _expel(self, key: MemberKey, now_s: float) -> list[Effect]:
        presence = self._presences.get(key)
        self._forget_times(key)
        if presence is not None and not presence.is_alive:
            return []
        stream = None if presence is None else presence.stream
        effects = self._end(stream, fenced(key, "its time ran out", 0))
        self._presences[key] = Presence(Status.FENCED, None)
        left = Left(member_id=key.member_id, expired=True)
        return [*effects, Proposed(key.group, left, now_s)]

    def _forget_times(self, key: MemberKey) -> None:
        self._sessions.end(key)
        self._revocations.clear(key)
        self._revoking_epoch.pop(key, None)

    # Groups

    def _on_group(self, group: Group, now_s: float) -> list[Effect]:
        before = self.groups.get(group.group)
        self.groups[group.group] = group
        effects: list[Effect] = []
        known = {} if before is None else before.members
        for member_id in sorted(known.keys() - group.members.keys()):
            effects += self._on_gone(MemberKey(group.group, member_id), known[member_id])
        for member in group.members.values():
            effects += self._on_member(MemberKey(group.group, member.member_id), member, now_s)
        return effects

    def _on_member(self, key: MemberKey, member: Member, now_s: float) -> list[Effect]:
        presence = self._presences.get(key)
        if presence is not None and not presence.is_alive:
            return []
        self._sessions.grant_if_unknown(key, now_s)
        if not member.revoking or member.away:
            self._revocations.clear(key)
            self._revoking_epoch.pop(key, None)
        elif self._revoking_epoch.get(key) != member.member_epoch:
            self._revoking_epoch[key] = member.member_epoch
            self._revocations.set(key, now_s + member.rebalance_timeout_s)
        if presence is None:
            return []
        presence.releasing &= member.revoking.keys()
        if presence.status is Status.JOINING:
            return self._admit(key, presence, now_s)
        # A change of the epoch alone can wait for the next frame.
        if presence.stream is not None and frozenset(member.assigned) != presence.told:
            return [ReplyDue(presence.stream)]
        return []

    def _on_gone(self, key: MemberKey, member: Member) -> list[Effect]:
        presence = self._presences.get(key)
        if presence is not None and presence.status is Status.JOINING:
            return []  # the next incarnation is under way
        self._forget_times(key)
        if presence is None or presence.status is Status.LEAVING:
            return []
        del self._presences[key]
        gone = departed(key, self.groups.get(key.group), member.instance_id)
        return self._end(presence.stream, gone)

    # Streams

    def _member(self, key: MemberKey) -> Member | None:
        group = self.groups.get(key.group)
        return None if group is None else group.members.get(key.member_id)

    def _bind(self, key: MemberKey, stream: StreamId) -> list[Effect]:
        """Make a stream the member's only one."""
        self._streams[stream] = key
        presence = self._presences.get(key)
        if presence is None or presence.stream in {None, stream}:
            return []
        return self._end(presence.stream, None)

    def _end(
        self, stream: StreamId | None, error: BrokerError | None, member_epoch: int = 0
    ) -> list[Effect]:
        if stream is None:
            return []
        self._ended.add(stream)
        return [StreamEnded(stream, member_epoch, error)]

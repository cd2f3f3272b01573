"""The groups of one internal partition, while this node leads it.

Performs what `members`, `offsets` and `outbox` decide: carries proposals to the controller one
command at a time, wakes streams that have something to be told, appends commits and answers them
once they are committed. Decides nothing itself.

Invariants: nothing is answered from offsets before the whole log was replayed; once deposed, by the
controller's word or the cluster's, nothing is answered at all.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, count
from typing import Final, assert_never

import structlog

from odradek.node.coordination.boundaries import (
    Clock,
    ClusterSource,
    GroupController,
    InternalPartition,
)
from odradek.node.coordination.frames import (
    Effect,
    Frame,
    Proposed,
    Reply,
    ReplyDue,
    StreamEnded,
    StreamId,
)
from odradek.node.coordination.members import GroupMembers
from odradek.node.coordination.model import Change, Deleted, Group, GroupTimes
from odradek.node.coordination.offset_log import OffsetLog
from odradek.node.coordination.offsets import (
    Commit,
    Committer,
    accept_commit,
    check_committer,
    cleanup,
)
from odradek.node.coordination.outbox import Outbox
from odradek.node.coordination.records import OffsetCommitted, OffsetsRecord
from odradek.node.coordination.submission import submit
from odradek.protocol.errors import (
    BrokerError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    CorruptMessageError,
    GroupIdNotFoundError,
    NonEmptyGroupError,
    NotCoordinatorError,
    NotLeaderOrFollowerError,
)
from odradek.protocol.names import near_names
from odradek.protocol.types import GroupId, PartitionIndex

_log = structlog.get_logger()

_RETRY_S: Final = 0.5


@dataclass(slots=True, eq=False)
class MemberStream:
    """One Heartbeat call, as seen from here: whether something is to be written."""

    stream_id: StreamId
    ended: StreamEnded | None = None
    _due: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Have the writer ask for a reply."""
        self._due.set()

    def end(self, ended: StreamEnded) -> None:
        """Have the writer say goodbye; the first goodbye counts."""
        self.ended = self.ended or ended
        self._due.set()

    async def due(self) -> None:
        """Wait until something is to be written."""
        await self._due.wait()
        self._due.clear()


class PartitionGroups:
    """The coordinator of one partition's groups. Use from the loop's thread only."""

    def __init__(
        self,
        partition: PartitionIndex,
        internal: InternalPartition,
        *,
        controller: GroupController,
        cluster: ClusterSource,
        times: GroupTimes,
        clock: Clock,
    ) -> None:
        self.partition = partition
        self._internal = internal
        self._leader_epoch = internal.leader_epoch
        self._controller = controller
        self._cluster = cluster
        self._times = times
        self._clock = clock
        self._members = GroupMembers(times)
        self._log = OffsetLog(internal, clock)
        self._outbox = Outbox()
        self._outbox_changed = asyncio.Event()
        self._deletions: dict[GroupId, list[asyncio.Future[BrokerError | None]]] = {}
        self._streams: dict[StreamId, MemberStream] = {}
        self._stream_ids = count(1)
        self._refusal: BrokerError | None = CoordinatorLoadInProgressError()

    async def run(self) -> None:
        """Replay, then serve, until cancelled; returns early when it cannot, or was deposed."""
        try:
            await self._load()
        except BrokerError as error:
            _log.error("cannot coordinate", partition=self.partition, reason=error.message)
            self.close(error)
            return
        async with asyncio.TaskGroup() as tasks:
            appends = tasks.create_task(self._log.run())
            try:
                await self._send_proposals()
            except NotCoordinatorError as error:
                _log.info("deposed", partition=self.partition, reason=error.message)
                self.close(error)
                appends.cancel()

    def close(self, error: BrokerError) -> None:
        """Answer nothing any more; every member is sent to look for its coordinator."""
        self._refusal = error
        self._log.close(error)
        for stream in self._streams.values():
            stream.end(StreamEnded(stream.stream_id, 0, error))
        for group in list(self._deletions):
            self._on_deleted(group, Deleted(), error)

    @property
    def is_ready(self) -> bool:
        """Whether this coordinator may answer."""
        return self._refusal is None

    def check_ready(self) -> None:
        """Raise unless this coordinator may answer.

        Raises:
            CoordinatorLoadInProgressError: It has not replayed its log yet.
            NotCoordinatorError: It was deposed.
        """
        if self._refusal is not None:
            raise self._refusal

    # Members

    @contextmanager
    def stream(self) -> Iterator[MemberStream]:
        """Open the coordinator's end of a Heartbeat call; leaving it counts as a broken stream."""
        self.check_ready()
        stream = MemberStream(StreamId(next(self._stream_ids)))
        self._streams[stream.stream_id] = stream
        try:
            yield stream
        finally:
            del self._streams[stream.stream_id]
            self._members.on_stream_broken(stream.stream_id, self._clock.now_s())

    def on_frame(self, stream: MemberStream, frame: Frame) -> None:
        """A frame came in on a stream."""
        if self._refusal is None:
            now_s = self._clock.now_s()
            self._perform(self._members.on_frame(stream.stream_id, frame, now_s))

    def reply(self, stream: MemberStream) -> Reply | None:
        """Return what is to be written on a stream now."""
        return self._members.reply(stream.stream_id)

    def on_groups(
        self, groups: Iterable[Group], removed: Iterable[GroupId], *, snapshot: bool
    ) -> None:
        """The controller's word; with `snapshot`, groups it does not name have ended."""
        changed = list(groups)
        gone = set(removed)
        if snapshot:
            gone |= self._members.groups.keys()
        gone -= {group.group for group in changed}
        now_s = self._clock.now_s()
        self._perform(self._members.on_groups(changed, sorted(gone), now_s))

    def tick(self) -> None:
        """Expel those whose time ran out."""
        if self._refusal is None:
            self._perform(self._members.on_tick(self._clock.now_s()))

    # Offsets

    def committer(self, group: GroupId, member_id: str, member_epoch: int) -> Committer:
        """Prove that somebody may commit or read offsets; see `check_committer`."""
        self.check_ready()
        return check_committer(
            group,
            self._members.groups.get(group),
            member_id,
            member_epoch,
            fenced=self._members.is_fenced(group, member_id),
        )

    def accept(self, committer: Committer, commit: Commit) -> OffsetCommitted:
        """Return the record of a valid commit, to be appended now; see `accept_commit`."""
        record = accept_commit(committer, commit, self._cluster.image, self._clock.wall_ms())
        return self._log.offsets.accept(record)

    async def append(self, records: Sequence[OffsetsRecord]) -> None:
        """Append accepted commits or tombstones; return once they are committed."""
        self.check_ready()
        # Who gives up must not end the wait of those who read after these are committed.
        await asyncio.shield(self._log.append(records))

    async def committed(self, group: GroupId) -> list[OffsetCommitted]:
        """Return a group's offsets, after all commits that were here first."""
        self.check_ready()
        await self._log.settled()
        await self._confirm_leadership()
        self.check_ready()
        topics = self._cluster.image.topics
        offsets = self._log.offsets.of(group).values()
        return [each for each in offsets if each.partition.topic_id in topics]

    # Groups

    def groups(self) -> list[Group]:
        """Return every group there is here; those that only have offsets are empty."""
        self.check_ready()
        known = self._members.groups
        only_offsets = self._log.offsets.by_group.keys() - known.keys()
        return [*known.values(), *(self._without_members(each) for each in sorted(only_offsets))]

    def group(self, group: GroupId) -> Group:
        """Return a group.

        Raises:
            GroupIdNotFoundError: With near names.
        """
        self.check_ready()
        known = self._members.groups.get(group)
        if known is not None:
            return known
        if self._log.offsets.of(group):
            return self._without_members(group)
        members, offsets = self._members.groups, self._log.offsets.by_group
        near = near_names(group, chain(members, (each for each in offsets if each not in members)))
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise GroupIdNotFoundError(
            f"there is no group {group!r}{hint}", field="group", value=group, suggestions=near
        )

    async def delete_group(self, group_id: GroupId) -> None:
        """Delete an empty group with its offsets.

        Raises:
            GroupIdNotFoundError, NonEmptyGroupError: Nothing was deleted.
        """
        group = self.group(group_id)
        if group.members:
            raise NonEmptyGroupError(
                f"group {group_id!r} has {len(group.members)} members",
                field="group",
                value=group_id,
                limit=0,
            )
        if group_id in self._members.groups:
            deletion: asyncio.Future[BrokerError | None] = (
                asyncio.get_running_loop().create_future()
            )
            self._deletions.setdefault(group_id, []).append(deletion)
            self._propose(Proposed(group_id, Deleted(), self._clock.now_s()))
            error = await deletion
            if error is not None and not isinstance(error, GroupIdNotFoundError):
                raise error
        await self.append(list(self._log.offsets.forget(group_id)))

    def clean_up(self) -> None:
        """Remove what retention and deleted topics leave behind; in the background."""
        if self._refusal is not None:
            return
        due = cleanup(
            self._log.offsets,
            self._members.groups,
            self._cluster.image,
            self._clock.wall_ms(),
            round(self._times.offsets_retention_s * 1000),
        )
        try:
            self._log.append(due.records)
        except BrokerError as error:
            _log.info("clean-up waits", partition=self.partition, reason=error.message)
            return
        for group in due.groups:
            self._propose(Proposed(group, Deleted(), self._clock.now_s()))

    # Inside

    def _without_members(self, group: GroupId) -> Group:
        return Group(group=group, coordinator_partition=self.partition)

    async def _load(self) -> None:
        while True:
            try:
                await self._log.load()
                break
            except BrokerError as error:
                # Whoever leads no more is cancelled; until then a lapsed session may come back.
                if isinstance(error, CorruptMessageError) or not error.retriable:
                    # Guessing what a damaged log says would move consumers back or forward.
                    raise CoordinatorNotAvailableError(
                        f"the offsets of this group cannot be read: {error.message}"
                    ) from error
                _log.warning("replay failed", partition=self.partition, reason=error.message)
                await asyncio.sleep(_RETRY_S)
        groups = self._members.groups
        # Nobody could be heard while the log was replayed: sessions begin now.
        self._members = GroupMembers(self._times)
        self._refusal = None
        self.on_groups(groups.values(), (), snapshot=True)
        _log.info("coordinating", partition=self.partition, groups=len(groups))

    async def _confirm_leadership(self) -> None:
        try:
            await self._internal.confirm_leadership()
        except NotLeaderOrFollowerError as error:
            raise NotCoordinatorError(error.message) from error

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Proposed():
                    self._propose(effect)
                case ReplyDue():
                    if effect.stream in self._streams:
                        self._streams[effect.stream].wake()
                case StreamEnded():
                    if effect.stream in self._streams:
                        self._streams[effect.stream].end(effect)
                case _:
                    assert_never(effect)

    def _propose(self, proposed: Proposed) -> None:
        self._outbox.add(proposed.group, proposed.change, proposed.due_s)
        self._outbox_changed.set()

    async def _send_proposals(self) -> None:
        """Tell the controller what is due, one command at a time, in order.

        Raises:
            NotCoordinatorError: The controller knows another coordinator.
        """
        change_groups = partial(self._controller.change_groups, self.partition, self._leader_epoch)
        while True:
            changes = self._outbox.take(self._clock.now_s())
            if changes:
                errors = await submit(change_groups, changes)
                now_s = self._clock.now_s()
                for (group, change), error in zip(changes, errors, strict=True):
                    self._perform(self._members.on_decided(group, change, error, now_s))
                    self._on_deleted(group, change, error)
            else:
                await self._until_due()

    async def _until_due(self) -> None:
        due_s = self._outbox.next_due_s
        delay_s = None if due_s is None else max(0.0, due_s - self._clock.now_s())
        self._outbox_changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._outbox_changed.wait()

    def _on_deleted(self, group: GroupId, change: Change, error: BrokerError | None) -> None:
        if not isinstance(change, Deleted):
            return
        for deletion in self._deletions.pop(group, ()):
            if not deletion.done():
                deletion.set_result(error)

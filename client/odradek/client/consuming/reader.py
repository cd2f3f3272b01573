"""Reads the assigned partitions: finds positions, fetches, hands out. Knows nothing about groups.

The composition of `Positions`, `Fetcher` and `Handout`, and the only place where all three change
together. A position that has to be looked up (committed offset, an end of the log, a timestamp) is
found by one task, which repeats what is retriable for as long as the partition is assigned.

Invariant: a partition is fetched exactly while it has a position, under the generation of that
position; every change of generation drops what was fetched under the one before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final, Generic, TypeAlias, TypeVar

from odradek.client.cluster.background import Background
from odradek.client.cluster.log_offsets import at_time, list_offsets
from odradek.client.cluster.scope import Scope
from odradek.client.config import ConsumerOptions, Start
from odradek.client.consuming.fetch_plan import Accepted
from odradek.client.consuming.fetched import Chunk
from odradek.client.consuming.fetcher import Fetcher
from odradek.client.consuming.group_member import EXPULSIONS
from odradek.client.consuming.handout import Handout
from odradek.client.consuming.positions import (
    Anchor,
    LogPosition,
    Lookup,
    Positions,
    Target,
    TopicIdPartition,
)
from odradek.client.errors import LogTruncatedError, NoCommittedOffsetError
from odradek.client.serdes import Serde
from odradek.protocol.errors import BrokerError, OdradekError, OffsetOutOfRangeError
from odradek.protocol.hot import EpochEnd
from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, Offset, TopicPartition
from odradek.rpc.backoff import delays

K = TypeVar("K")
V = TypeVar("V")

ReadCommitted: TypeAlias = Callable[
    [Iterable[TopicIdPartition]], Awaitable[Mapping[TopicIdPartition, LogPosition | None]]
]

_REFETCHES_MAX: Final = 3  # of the same bytes, before damage is reported

_log = logging.getLogger(__name__)


class Reader(Generic[K, V]):
    """What one consumer reads.

    Args:
        scope: The client.
        options: The consumer's.
        background: Owns the tasks.
        key: Decodes keys.
        value: Decodes values.
        read_committed: Reads the group's committed offsets; None without a group.
        clock_s: Seconds since the epoch, for `start` as a duration.
        let_go: Has the application give back what it was handed and did not look at yet.
    """

    def __init__(
        self,
        scope: Scope,
        options: ConsumerOptions,
        background: Background,
        key: Serde[K],
        value: Serde[V],
        *,
        read_committed: ReadCommitted | None,
        clock_s: Callable[[], float],
        let_go: Callable[[Iterable[TopicPartition]], None],
    ) -> None:
        self.positions = Positions()
        self.handout: Handout[K, V] = Handout(
            self.positions, key, value, release=self._release, on_damaged=self.on_damaged
        )
        self._scope = scope
        self._options = options
        self._background = background
        self._fetcher = Fetcher(scope, options, background, self)
        self._read_committed = read_committed
        self._clock_s = clock_s
        self._let_go = let_go
        self._wanted = asyncio.Event()
        self._located = asyncio.Event()
        self._refetches: dict[TopicPartition, tuple[Offset, int]] = {}
        self._known_counts: dict[bytes, int] = {}

    def start(self) -> None:
        """Begin to work."""
        self._fetcher.start()
        self._background.spawn(self._locate(), name="locate")

    # ------------------------------------------------------------------ orders

    def assign(self, partitions: Iterable[TopicIdPartition], *, held: bool = False) -> None:
        """Read more partitions, from their committed offset or else by the start rule."""
        for partition in partitions:
            info = self._scope.metadata.image.topics.get(partition.topic)
            if info is not None:
                self._known_counts.setdefault(info.topic_id, len(info.partitions))
            target = Anchor.START if self._read_committed is None else Anchor.COMMITTED
            self.positions.assign([partition], target, held=held)
        self._wanted.set()

    def unassign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read some partitions no longer."""
        names = list(partitions)
        self.positions.unassign(names)
        self._forget(names)

    def release_hold(self, partitions: Iterable[TopicPartition]) -> None:
        """Let records of these partitions reach the application."""
        self.positions.release_hold(partitions)
        self.handout.wake()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo a pause."""
        self.positions.resume(partitions)
        self.handout.wake()

    def seek(
        self, partition: TopicPartition, offset: Offset, epoch: LeaderEpoch = NO_LEADER_EPOCH
    ) -> None:
        """Read on from an offset."""
        self._forget([partition])
        state = self.positions.seek(partition, offset, epoch)
        self._fetcher.read(state.id, state.generation, offset, epoch)
        self.handout.wake()

    def seek_to(self, partition: TopicPartition, target: Target) -> None:
        """Read on from a place that is looked up first."""
        self._forget([partition])
        self.positions.seek_to(partition, target)
        self._wanted.set()

    async def located(self) -> None:
        """Wait until a position was found, or a failure noted."""
        located = self._located
        await located.wait()

    def buffered_bytes(self) -> int:
        """Return how much is fetched and not handed out."""
        return self._fetcher.buffered_bytes()

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        for name in partitions:
            self._fetcher.stop(name)
            self.handout.drop([name])

    def _release(self, push: Accepted) -> None:
        self._fetcher.release(push)

    # ------------------------------------------------------------------ finding positions

    async def _locate(self) -> None:
        pauses = delays(self._scope.chance)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self._locate_committed()
            await self._locate_targets()
            self._located.set()
            self._located = asyncio.Event()
            if self._lookups():
                self._wanted.set()
                await asyncio.sleep(next(pauses))
            else:
                pauses = delays(self._scope.chance)

    async def _locate_committed(self) -> None:
        lookups = [each for each in self._lookups() if each.target is Anchor.COMMITTED]
        if not lookups or self._read_committed is None:
            return
        try:
            found = await self._read_committed(each.partition for each in lookups)
        except OdradekError as error:
            for lookup in lookups:
                self._on_unanswered(lookup, error)
            return
        for lookup in lookups:
            if self.positions.on_commit_found(lookup, found[lookup.partition]):
                self._begin(lookup)

    async def _locate_targets(self) -> None:
        questions: dict[TopicIdPartition, tuple[Lookup, Target]] = {}
        for lookup in self._lookups():
            if lookup.target is not Anchor.COMMITTED:
                target = self._resolve(lookup)
                if target is not None:
                    questions[lookup.partition] = (lookup, target)
        if not questions:
            return
        asked = {partition: target for partition, (_, target) in questions.items()}
        answers = await list_offsets(self._scope, asked, self._options.isolation)
        for partition, answer in answers.items():
            lookup, _ = questions[partition]
            if isinstance(answer, OdradekError):
                self._on_unanswered(lookup, answer)
            elif self.positions.on_located(lookup, answer.offset, answer.leader_epoch):
                self._begin(lookup)

    def _lookups(self) -> list[Lookup]:
        return [
            each
            for each in self.positions.lookups()
            if not self.handout.has_failed(each.partition.name, each.generation)
        ]

    def _resolve(self, lookup: Lookup) -> Target | None:
        """Turn the start rule into something a leader can answer; None when there is no rule."""
        if lookup.target is not Anchor.START:
            return lookup.target
        known_count = self._known_counts.get(lookup.partition.topic_id, 1 << 31)
        if self._options.start == "latest" and lookup.partition.partition >= known_count:
            # Its first records came after this consumer did: they are new to it.
            return Anchor.EARLIEST
        target = resolve_start(self._options.start, self._clock_s())
        if target is None:
            self.handout.fail_partition(
                lookup.partition,
                lookup.generation,
                NoCommittedOffsetError(
                    lookup.partition.topic, lookup.partition.partition, self._options.group
                ),
            )
        return target

    def _begin(self, lookup: Lookup) -> None:
        state = self.positions.current(lookup.partition.name, lookup.generation)
        assert state is not None, "just placed"
        assert state.position is not None, "just placed"
        self._fetcher.read(state.id, state.generation, state.position, state.position_epoch)
        self.handout.wake()

    def _on_unanswered(self, lookup: Lookup, error: OdradekError) -> None:
        if error.retriable or isinstance(error, EXPULSIONS):
            # Who was expelled hears it on its heartbeats too, and gives the partition up.
            _log.debug("position of %s not found yet: %s", lookup.partition, error)
        else:
            self.handout.fail_partition(lookup.partition, lookup.generation, error)

    # ------------------------------------------------------------------ what the fetcher says

    def on_chunk(self, chunk: Chunk) -> None:
        """Records came."""
        self.handout.add(chunk)

    def on_out_of_range(self, partition: TopicIdPartition, generation: int) -> None:
        """Apply the start rule; without one the application decides."""
        state = self.positions.current(partition.name, generation)
        if state is None:
            return
        if self._options.start == "none":
            self.handout.fail_partition(
                partition,
                generation,
                OffsetOutOfRangeError(
                    f"offset {state.position} of {partition} is not in the log any more",
                    field="offset",
                    value=state.position,
                ),
            )
            return
        _log.warning(
            "offset %s of %s is out of range: going on by start=%s",
            state.position,
            partition,
            self._options.start,
        )
        self.seek_to(partition.name, Anchor.START)

    def on_diverged(self, partition: TopicIdPartition, generation: int, end: EpochEnd) -> None:
        """The log lost what was fetched: go on at the cut, or let the application decide.

        What the application has not looked at does not count as read. When only such records are
        gone, reading goes on as if they had never been fetched. What it is at work on is never
        passed: it is read again where it is gone in part.
        """
        self._let_go([partition.name])
        state = self.positions.current(partition.name, generation)
        if state is None or state.position is None or state.processed is None:
            return
        if state.position <= end.end_offset:
            _log.info("%s was truncated at %d, beyond what was read", partition, end.end_offset)
            self.handout.drop_ahead(partition.name)
            self._fetcher.read(partition, generation, state.position, state.position_epoch)
            return
        if self._options.start == "none":
            error = LogTruncatedError(
                partition.topic,
                partition.partition,
                position=state.position,
                end_offset=end.end_offset,
            )
            self.handout.fail_partition(partition, generation, error)
            return
        _log.warning(
            "%s was truncated at %d: records up to %d that were read are gone",
            partition,
            end.end_offset,
            state.position,
        )
        if end.end_offset < 0:
            self.seek_to(partition.name, Anchor.START)
        elif state.processed < end.end_offset:
            self.seek(partition.name, state.processed, state.processed_epoch)
        else:
            self.seek(partition.name, end.end_offset, end.leader_epoch)

    def on_refused(self, partition: TopicIdPartition, generation: int, error: BrokerError) -> None:
        """Nothing but the application's decision helps."""
        self.handout.fail_partition(partition, generation, error)

    def on_damaged(self, partition: TopicIdPartition, generation: int, error: BrokerError) -> None:
        """Fetch it again: damage on the way heals. Damage at the source is the application's."""
        state = self.positions.current(partition.name, generation)
        if state is None or state.position is None:
            return
        where, attempts = self._refetches.get(partition.name, (state.position, 0))
        attempts = attempts + 1 if where == state.position else 1
        self._refetches[partition.name] = (state.position, attempts)
        self._fetcher.stop(partition.name)
        if attempts > _REFETCHES_MAX:
            self.handout.fail_partition(partition, generation, error)
        else:
            self._fetcher.read(partition, generation, state.position, state.position_epoch)


def resolve_start(start: Start, now_s: float) -> Target | None:
    """Return where a start rule points; None for "none"."""
    match start:
        case "earliest":
            return Anchor.EARLIEST
        case "latest":
            return Anchor.LATEST
        case "none":
            return None
        case datetime() | timedelta():
            return at_time(start, now_s)

"""Where a consumer stands in each partition it reads, and how far it may commit.

Problem: three offsets of a partition move at different speeds. `position` is the next record to
hand out, `processed` ends what the application is done with, `committed` is what the coordinator
knows. A crash may repeat what lies between `processed` and `position`, and must skip none of it.

Idea: one small record a partition, changed by events only. Whatever changes a position by order
(assignment, seek, reset) also gives the partition a new generation; an answer that was asked for
under an older generation (a looked-up offset, a push, a finished record) is dropped when it comes.

Invariants: processed <= position; generations are never reused; a partition without a position, one
that is paused and one that is being revoked hand out nothing; `commits_due` never names a partition
that is no longer assigned.

Source: org.apache.kafka.clients.consumer.internals.SubscriptionState.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.types import (
    NO_LEADER_EPOCH,
    LeaderEpoch,
    Offset,
    PartitionIndex,
    TopicId,
    TopicName,
    TopicPartition,
)

_OFFSET_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True, order=True)
class TopicIdPartition:
    """A partition of one incarnation of a topic: deletion and re-creation change the id."""

    topic: TopicName
    partition: PartitionIndex
    topic_id: TopicId
    name: TopicPartition = field(init=False, repr=False, compare=False)
    """The partition as people name it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", TopicPartition(self.topic, self.partition))

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class Anchor(enum.Enum):
    """Where to look for a position that is not an offset yet."""

    COMMITTED = "committed"
    """The group's committed offset; the start rule when there is none."""
    START = "start"
    """Where the consumer's start rule says."""
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class AtTimestamp:
    """The earliest record at or after a time, or the end when no record is that young."""

    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class LogPosition:
    """An offset, and the epoch of the record before it (-1 when unknown)."""

    offset: Offset
    leader_epoch: LeaderEpoch


def check_offset(offset: int) -> Offset:
    """Return an offset as an application gives it.

    Raises:
        InvalidRequestError: No log can have it.
    """
    if not 0 <= offset <= _OFFSET_MAX:
        raise InvalidRequestError(
            f"offset {offset} must be 0 to {_OFFSET_MAX}",
            field="offset",
            value=offset,
            limit=f"0..{_OFFSET_MAX}",
        )
    return Offset(int(offset))  # True is 1


Target = Anchor | AtTimestamp


@dataclass(frozen=True, slots=True)
class Lookup:
    """A position to be found by asking the cluster."""

    partition: TopicIdPartition
    generation: int
    target: Target


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """An offset to commit: everything below it has been processed."""

    partition: TopicIdPartition
    offset: Offset
    leader_epoch: LeaderEpoch


@dataclass(slots=True)
class PartitionState:
    """One assigned partition. Fields are read by the shell and changed by `Positions` alone."""

    id: TopicIdPartition
    generation: int
    target: Target | None
    """Set while the position has yet to be found."""
    position: Offset | None = None
    """The next record to hand out; None while `target` is set."""
    position_epoch: LeaderEpoch = NO_LEADER_EPOCH
    """The leader epoch of the record before `position`."""
    processed: Offset | None = None
    """Everything below has been processed; None while `target` is set."""
    processed_epoch: LeaderEpoch = NO_LEADER_EPOCH
    committed: Offset | None = None
    """What the coordinator has acknowledged; None when nothing, or nothing known."""
    passed_over: tuple[Offset, Offset] | None = None
    """Offsets at the end of what was handed out that nobody is shown: they count as processed as
    soon as all before them are."""
    paused: bool = False
    held: bool = False
    """Being assigned or revoked: the application must not see records yet, or any more."""

    @property
    def hands_out(self) -> bool:
        """Whether records may reach the application."""
        return self.position is not None and not self.paused and not self.held


class Positions:
    """The assigned partitions of one consumer."""

    def __init__(self) -> None:
        self._states: dict[TopicPartition, PartitionState] = {}
        self._generation = 0

    def __iter__(self) -> Iterator[PartitionState]:
        return iter(self._states.values())

    def __len__(self) -> int:
        return len(self._states)

    def get(self, partition: TopicPartition) -> PartitionState | None:
        """Return the state of a partition, or None when it is not assigned."""
        return self._states.get(partition)

    def current(self, partition: TopicPartition, generation: int) -> PartitionState | None:
        """Return the state of a partition if nothing re-positioned it since `generation`."""
        state = self._states.get(partition)
        return state if state is not None and state.generation == generation else None

    def assigned(self) -> frozenset[TopicPartition]:
        """Return what is assigned, being revoked included."""
        return frozenset(self._states)

    def assign(
        self, partitions: Iterable[TopicIdPartition], target: Target, *, held: bool = False
    ) -> None:
        """Add partitions whose positions are yet to be found.

        Args:
            partitions: None of them assigned yet under the same name.
            target: Where to look.
            held: Hand out nothing before `release_hold`.
        """
        for partition in partitions:
            assert partition.name not in self._states, "assigned twice"
            self._states[partition.name] = PartitionState(
                partition, self._next_generation(), target, held=held
            )

    def unassign(self, partitions: Iterable[TopicPartition]) -> list[PartitionState]:
        """Forget partitions; unknown ones are ignored."""
        states = (self._states.pop(partition, None) for partition in partitions)
        return [state for state in states if state is not None]

    def hold(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing more of these partitions: they are being revoked."""
        for state in self._known(partitions):
            state.held = True

    def release_hold(self, partitions: Iterable[TopicPartition]) -> None:
        """Let records of these partitions reach the application."""
        for state in self._known(partitions):
            state.held = False

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing until `resume`; the position stays."""
        for state in self._known(partitions):
            state.paused = True

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo `pause`."""
        for state in self._known(partitions):
            state.paused = False

    def seek(
        self,
        partition: TopicPartition,
        offset: Offset,
        leader_epoch: LeaderEpoch = NO_LEADER_EPOCH,
    ) -> PartitionState:
        """Move to an offset; whatever was under way for the partition no longer counts."""
        state = self._states[partition]
        state.generation = self._next_generation()
        self._place(state, offset, leader_epoch)
        return state

    def seek_to(self, partition: TopicPartition, target: Target) -> PartitionState:
        """Move to a place that has to be looked up first."""
        state = self._states[partition]
        state.generation = self._next_generation()
        state.target = target
        state.position = state.processed = None
        return state

    def lookups(self) -> list[Lookup]:
        """Return what has to be looked up before records can flow."""
        return [
            Lookup(state.id, state.generation, state.target)
            for state in self._states.values()
            if state.target is not None
        ]

    def on_located(self, lookup: Lookup, offset: Offset, leader_epoch: LeaderEpoch) -> bool:
        """Take a looked-up position; False when the partition was moved meanwhile."""
        state = self.current(lookup.partition.name, lookup.generation)
        if state is None:
            return False
        self._place(state, offset, leader_epoch)
        return True

    def on_commit_found(self, lookup: Lookup, commit: LogPosition | None) -> bool:
        """Take the group's committed offset; without one the start rule is looked up next."""
        state = self.current(lookup.partition.name, lookup.generation)
        if state is None:
            return False
        if commit is None:
            state.target = Anchor.START
            return False
        state.committed = commit.offset
        self._place(state, commit.offset, commit.leader_epoch)
        return True

    def on_handed(
        self, partition: TopicPartition, generation: int, position: Offset, epoch: LeaderEpoch
    ) -> None:
        """Note that everything below `position` was handed out."""
        state = self.current(partition, generation)
        if state is not None and state.position is not None:
            assert position >= state.position, "records are handed out in order"
            state.position, state.position_epoch = position, epoch
            state.passed_over = None

    def on_passed_over(
        self, partition: TopicPartition, generation: int, position: Offset, epoch: LeaderEpoch
    ) -> None:
        """Move to `position` over offsets that nobody is shown: markers, compacted records."""
        state = self.current(partition, generation)
        if state is None or state.position is None or position <= state.position:
            return
        start = state.position if state.passed_over is None else state.passed_over[0]
        state.passed_over = (start, position)
        state.position, state.position_epoch = position, epoch
        self._follow_passed_over(state)

    def on_given_back(
        self, partition: TopicPartition, generation: int, position: Offset, epoch: LeaderEpoch
    ) -> None:
        """Note that the application did not take what was handed out from `position` on."""
        state = self.current(partition, generation)
        if state is not None and state.position is not None and state.processed is not None:
            assert state.processed <= position <= state.position, "only what is out comes back"
            state.position, state.position_epoch = position, epoch

    def on_processed(
        self, partition: TopicPartition, generation: int, processed: Offset, epoch: LeaderEpoch
    ) -> None:
        """Note that everything below `processed` is done with; older news are ignored."""
        state = self.current(partition, generation)
        if state is None or state.processed is None or state.position is None:
            return
        assert processed <= state.position, "only what was handed out can be processed"
        if processed > state.processed:
            state.processed, state.processed_epoch = processed, epoch
            self._follow_passed_over(state)

    def are_settled(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether all that was handed out of these partitions has been processed."""
        return all(state.processed == state.position for state in self._known(partitions))

    def commits_due(self, partitions: Iterable[TopicPartition] | None = None) -> list[CommitPoint]:
        """Return what the coordinator does not know yet, of some partitions or of all."""
        states = self._states.values() if partitions is None else self._known(partitions)
        return [
            CommitPoint(state.id, state.processed, state.processed_epoch)
            for state in states
            if state.processed is not None and state.processed != state.committed
        ]

    def on_committed(self, points: Iterable[CommitPoint]) -> None:
        """Note what the coordinator has acknowledged."""
        for point in points:
            state = self._states.get(point.partition.name)
            if state is not None and state.id == point.partition:
                state.committed = point.offset

    def _follow_passed_over(self, state: PartitionState) -> None:
        if state.passed_over is None or state.processed is None:
            return
        start, end = state.passed_over
        if state.processed >= start:
            state.processed, state.processed_epoch = end, state.position_epoch
            state.passed_over = None

    def _place(self, state: PartitionState, offset: Offset, leader_epoch: LeaderEpoch) -> None:
        state.target = state.passed_over = None
        state.position = state.processed = offset
        state.position_epoch = state.processed_epoch = leader_epoch

    def _known(self, partitions: Iterable[TopicPartition]) -> Iterator[PartitionState]:
        return (self._states[each] for each in partitions if each in self._states)

    def _next_generation(self) -> int:
        self._generation += 1
        return self._generation

"""Positions: what is handed out, what counts as processed, what may be committed."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from odradek.client.consuming.positions import (
    Anchor,
    CommitPoint,
    LogPosition,
    PartitionState,
    Positions,
    TopicIdPartition,
)
from odradek.protocol.types import (
    LeaderEpoch,
    Offset,
    PartitionIndex,
    TopicId,
    TopicName,
)

E1, E2 = LeaderEpoch(1), LeaderEpoch(2)


def part(index: int, topic_id: bytes = b"i" * 16) -> TopicIdPartition:
    return TopicIdPartition(TopicName("t"), PartitionIndex(index), TopicId(topic_id))


P0, P1 = part(0), part(1)


def placed(offset: int = 10) -> tuple[Positions, PartitionState]:
    """One partition, positioned by its committed offset."""
    positions = Positions()
    positions.assign([P0], Anchor.COMMITTED)
    (lookup,) = positions.lookups()
    assert positions.on_commit_found(lookup, LogPosition(Offset(offset), E1))
    state = positions.get(P0.name)
    assert state is not None
    return positions, state


def test_the_committed_offset_comes_first_the_start_rule_second() -> None:
    positions = Positions()
    positions.assign([P0, P1], Anchor.COMMITTED)
    first, second = positions.lookups()
    assert positions.on_commit_found(first, LogPosition(Offset(5), E1))
    assert not positions.on_commit_found(second, None)
    (again,) = positions.lookups()
    assert (again.partition, again.target) == (P1, Anchor.START)
    assert positions.on_located(again, Offset(0), E1)
    assert positions.lookups() == []


def test_a_committed_position_is_not_committed_again_but_a_first_one_is() -> None:
    positions, _ = placed(10)
    assert positions.commits_due() == []
    positions.assign([P1], Anchor.START)
    (lookup,) = positions.lookups()
    positions.on_located(lookup, Offset(3), E2)
    # A group that starts at the end must find that place again if it dies before its first record.
    assert positions.commits_due() == [CommitPoint(P1, Offset(3), E2)]


def test_only_processed_records_are_committed() -> None:
    positions, state = placed(10)
    positions.on_handed(P0.name, state.generation, Offset(13), E2)
    assert positions.commits_due() == []
    positions.on_processed(P0.name, state.generation, Offset(12), E2)
    assert positions.commits_due() == [CommitPoint(P0, Offset(12), E2)]
    positions.on_committed(positions.commits_due())
    assert positions.commits_due() == []


def test_news_from_before_a_seek_are_dropped() -> None:
    positions, state = placed(10)
    old = state.generation
    positions.on_handed(P0.name, old, Offset(20), E1)
    positions.seek(P0.name, Offset(4))
    positions.on_processed(P0.name, old, Offset(20), E1)
    positions.on_handed(P0.name, old, Offset(21), E1)
    assert (state.position, state.processed) == (4, 4)


def test_an_answer_to_a_lookup_that_a_seek_overtook_is_dropped() -> None:
    positions = Positions()
    positions.assign([P0], Anchor.COMMITTED)
    (lookup,) = positions.lookups()
    positions.seek(P0.name, Offset(7))
    assert not positions.on_commit_found(lookup, LogPosition(Offset(1), E1))
    assert not positions.on_located(lookup, Offset(2), E1)
    state = positions.get(P0.name)
    assert state is not None
    assert state.position == 7


def test_a_partition_that_came_back_is_another_generation() -> None:
    positions, state = placed(10)
    old = state.generation
    positions.unassign([P0.name])
    positions.assign([P0], Anchor.COMMITTED)
    assert positions.current(P0.name, old) is None


def test_a_commit_of_a_deleted_topic_s_partition_does_not_touch_its_successor() -> None:
    positions, _ = placed(10)
    positions.unassign([P0.name])
    reborn = part(0, b"j" * 16)
    positions.assign([reborn], Anchor.COMMITTED)
    positions.on_committed([CommitPoint(P0, Offset(10), E1)])
    state = positions.get(reborn.name)
    assert state is not None
    assert state.committed is None


@given(st.booleans(), st.booleans(), st.booleans())
def test_what_hands_out(located: bool, paused: bool, held: bool) -> None:  # noqa: FBT001
    positions = Positions()
    positions.assign([P0], Anchor.START, held=True)
    if located:
        positions.seek(P0.name, Offset(0))
    if paused:
        positions.pause([P0.name])
    if not held:
        positions.release_hold([P0.name])
    state = positions.get(P0.name)
    assert state is not None
    assert state.hands_out == (located and not paused and not held)


def test_resume_and_hold_undo_and_redo() -> None:
    positions, state = placed()
    positions.pause([P0.name, P1.name])
    positions.resume([P0.name])
    assert state.hands_out
    positions.hold([P0.name])
    assert not state.hands_out


@dataclass
class Handed:
    generation: int
    end: Offset


class PositionsMachine(RuleBasedStateMachine):
    """Random hand-outs, completions, seeks and commits; a crash may repeat, never skip."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.state = placed(0)
        self.outstanding: list[Handed] = []
        self.in_flight: list[CommitPoint] = []

    @rule(count=st.integers(1, 5))
    def hand(self, count: int) -> None:
        assert self.state.position is not None
        end = Offset(self.state.position + count)
        self.positions.on_handed(P0.name, self.state.generation, end, E1)
        self.outstanding.append(Handed(self.state.generation, end))

    @rule()
    def finish_the_oldest(self) -> None:
        if self.outstanding:
            done = self.outstanding.pop(0)
            self.positions.on_processed(P0.name, done.generation, done.end, E1)

    @rule(offset=st.integers(0, 50))
    def seek(self, offset: int) -> None:
        self.positions.seek(P0.name, Offset(offset))

    @rule()
    def ask_to_commit(self) -> None:
        self.in_flight = self.positions.commits_due()

    @rule()
    def commit_is_acknowledged(self) -> None:
        self.positions.on_committed(self.in_flight)
        self.in_flight = []

    @invariant()
    def nothing_outstanding_is_behind_what_may_be_committed(self) -> None:
        current = [
            each.end for each in self.outstanding if each.generation == self.state.generation
        ]
        assert self.state.processed is not None
        assert self.state.position is not None
        assert self.state.processed <= self.state.position
        assert all(self.state.processed < end for end in current)


TestPositionsMachine = PositionsMachine.TestCase

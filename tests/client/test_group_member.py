"""The member's machine against scripts, and against a coordinator that does as it pleases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.client.consuming.group_member import (
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    Connect,
    Disconnect,
    Effect,
    Fail,
    GroupMember,
    Heartbeat,
    HeartbeatReply,
    Lose,
    MemberState,
    Reconcile,
    Send,
)
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import (
    FencedMemberEpochError,
    GroupMaxSizeReachedError,
    NotCoordinatorError,
    OdradekError,
    UnknownMemberIdError,
    UnreleasedInstanceIdError,
)
from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName
from odradek.rpc.errors import ConnectionLostError

TOPIC = TopicName("positions")


def part(*indexes: int) -> frozenset[TopicIdPartition]:
    return frozenset(
        TopicIdPartition(TOPIC, PartitionIndex(index), TopicId(b"i" * 16)) for index in indexes
    )


def member(*, static: bool = False) -> GroupMember:
    return GroupMember(GroupId("dashboard"), MemberId("m-1"), (TOPIC,), static=static)


def reply(epoch: int, assignment: frozenset[TopicIdPartition] | None = None) -> HeartbeatReply:
    return HeartbeatReply(epoch, 3.0, 45.0, assignment)


def joined(*indexes: int, static: bool = False) -> GroupMember:
    machine = member(static=static)
    machine.on_start(0.0)
    machine.on_connected(0.0)
    machine.on_reply(reply(1, part(*indexes)), 0.0)
    machine.on_reconciled(0.0)
    assert machine.state is MemberState.STABLE
    return machine


def test_joining_takes_over_and_confirms_the_first_assignment() -> None:
    machine = member()
    assert machine.on_start(0.0) == [Connect(after_failure=False)]
    assert machine.on_connected(0.1) == [Send(Heartbeat(0, (TOPIC,), frozenset()))]
    assert machine.on_reply(reply(7, part(0, 1)), 0.2) == [Reconcile(frozenset(), part(0, 1))]
    assert machine.owned == frozenset(), "not owned before the shell has taken it over"
    assert machine.on_reconciled(0.3) == [Send(Heartbeat(7, None, part(0, 1)))]
    assert machine.state is MemberState.STABLE


def test_a_revoked_partition_is_confirmed_only_after_the_shell_gave_it_up() -> None:
    machine = joined(0, 1, 2)
    assert machine.on_reply(reply(1, part(0)), 1.0) == [Reconcile(part(1, 2), frozenset())]
    assert machine.on_tick(4.0) == [Send(Heartbeat(1))], "alive meanwhile, confirming nothing"
    assert machine.on_reconciled(9.0) == [Send(Heartbeat(1, None, part(0)))]
    assert machine.on_reply(reply(2), 9.1) == []
    assert machine.epoch == 2


def test_an_assignment_that_changes_during_a_walk_starts_the_next_walk() -> None:
    machine = joined(0, 1)
    machine.on_reply(reply(1, part(0)), 1.0)
    assert machine.on_reply(reply(1, part(1, 3)), 1.1) == [], "one walk at a time"
    assert machine.on_reconciled(2.0) == [
        Send(Heartbeat(1, None, part(0))),
        Reconcile(part(0), part(1, 3)),
    ]


def test_a_stream_that_breaks_during_a_walk_names_what_is_being_taken_over() -> None:
    """The walk may read it already: were it left out, another member could be given it."""
    machine = joined(0)
    machine.on_reply(reply(1, part(0, 1)), 1.0)
    machine.on_disconnected(ConnectionLostError(), 1.1)
    assert machine.on_connected(1.2) == [Send(Heartbeat(1, (TOPIC,), part(0, 1)))]


def test_heartbeats_come_at_the_coordinator_s_interval() -> None:
    machine = joined(0)
    machine.on_reply(HeartbeatReply(1, 0.5, 5.0), 1.0)
    assert machine.on_tick(machine.sent_at_s + 0.4) == []
    assert machine.on_tick(machine.sent_at_s + 0.5) == [Send(Heartbeat(1))]


@pytest.mark.parametrize("error", [FencedMemberEpochError(), UnknownMemberIdError()])
def test_a_fenced_member_loses_everything_and_joins_again_with_epoch_0(error: OdradekError) -> None:
    machine = joined(0, 1)
    assert machine.on_disconnected(error, 1.0) == [Disconnect(), Lose(part(0, 1), error)]
    assert machine.on_reply(reply(5, part(0)), 1.0) == [], "an answer from before counts no more"
    assert machine.on_lost_told(2.0) == [Connect(after_failure=True)]
    assert machine.on_connected(2.1) == [Send(Heartbeat(0, (TOPIC,), frozenset()))]


def test_fencing_during_a_walk_loses_what_was_being_taken_over_too() -> None:
    machine = joined(0)
    machine.on_reply(reply(1, part(0, 1)), 1.0)
    error = FencedMemberEpochError()
    assert machine.on_disconnected(error, 1.1) == [Disconnect(), Lose(part(0, 1), error)]
    assert machine.on_reconciled(1.2) == [], "the walk is void"
    assert machine.owned == frozenset()


@pytest.mark.parametrize("error", [NotCoordinatorError(), ConnectionLostError("gone")])
def test_a_coordinator_that_moves_costs_nothing(error: OdradekError) -> None:
    machine = joined(0, 1)
    assert machine.on_disconnected(error, 1.0) == [Disconnect(), Connect(after_failure=True)]
    assert machine.on_connected(1.5) == [Send(Heartbeat(1, (TOPIC,), part(0, 1)))]
    assert machine.state is MemberState.STABLE


def test_a_refusal_ends_the_membership_with_the_error() -> None:
    machine = member()
    machine.on_start(0.0)
    machine.on_connected(0.0)
    error = GroupMaxSizeReachedError("full")
    assert machine.on_disconnected(error, 0.1)[-1] == Fail(error)
    assert machine.state is MemberState.FAILED


def test_a_killed_predecessor_s_instance_id_is_waited_for_but_not_for_ever() -> None:
    machine = member(static=True)
    machine.on_start(0.0)
    machine.on_connected(0.0)
    error = UnreleasedInstanceIdError()
    assert machine.on_disconnected(error, 1.0) == [Disconnect(), Connect(after_failure=True)]
    machine.on_connected(1.0)
    assert Fail(error) in machine.on_disconnected(error, 2 * 45.0)


def test_a_silent_coordinator_is_looked_for_anew() -> None:
    machine = joined(0)
    machine.on_tick(3.0)
    machine.on_tick(6.0)
    assert machine.on_tick(9.0) == [Disconnect(), Connect(after_failure=True)]
    assert machine.on_connected(9.1) == [Send(Heartbeat(1, (TOPIC,), part(0)))]
    assert machine.on_tick(9.2) == [], "a new stream gets its time to answer"


def test_silence_beyond_the_session_is_taken_for_expulsion() -> None:
    machine = joined(0)
    machine.on_disconnected(ConnectionLostError("cut"), 1.0)
    assert machine.on_tick(44.0) == []
    assert machine.on_tick(45.0) == [Disconnect(), Lose(part(0), None)]
    assert machine.epoch == 0


@pytest.mark.parametrize(
    ("static", "for_good", "epoch"),
    [(False, False, LEAVE_EPOCH), (True, False, LEAVE_STATIC_EPOCH), (True, True, LEAVE_EPOCH)],
)
def test_leaving(static: bool, for_good: bool, epoch: int) -> None:  # noqa: FBT001
    machine = joined(0, static=static)
    assert machine.on_leave(1.0, for_good=for_good) == [Send(Heartbeat(epoch, None, frozenset()))]
    assert machine.on_reply(reply(1), 1.1) == [], "an answer to an earlier heartbeat"
    assert machine.on_reply(reply(epoch), 1.2) == [Disconnect()]
    assert machine.state is MemberState.LEFT
    assert machine.on_leave(2.0) == []


def test_leaving_without_a_stream_just_ends() -> None:
    machine = joined(0)
    machine.on_disconnected(ConnectionLostError("cut"), 1.0)
    assert machine.on_leave(1.1) == [Disconnect()]
    assert machine.state is MemberState.LEFT


def test_one_that_left_can_join_again() -> None:
    machine = joined(0)
    machine.on_leave(1.0)
    machine.on_left()
    assert machine.on_start(2.0) == [Connect(after_failure=False)]
    assert machine.on_connected(2.0) == [Send(Heartbeat(0, (TOPIC,), frozenset()))]


def test_a_changed_subscription_is_sent_at_once() -> None:
    machine = joined(0)
    assert machine.on_subscribed(("a", "b"), 1.0) == [Send(Heartbeat(1, ("a", "b"), None))]


EVENTS: st.SearchStrategy[tuple[str, frozenset[int]]] = st.one_of(
    st.tuples(st.just("assign"), st.frozensets(st.integers(0, 5))),
    st.tuples(
        st.sampled_from(["reconciled", "connected", "cut", "fenced", "told", "tick"]),
        st.just(frozenset()),
    ),
)


class Shell:
    """Performs effects on a set, and checks what a shell may rely on."""

    def __init__(self) -> None:
        self.machine = member()
        self.now_s = 0.0
        self.reading: frozenset[TopicIdPartition] = frozenset()
        self.walk: Reconcile | None = None
        self.confirmed: frozenset[TopicIdPartition] = frozenset()
        self.perform(self.machine.on_start(0.0))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Reconcile():
                    assert self.walk is None, "one walk at a time"
                    assert effect.revoked <= self.reading
                    assert not effect.assigned & self.reading
                    self.walk = effect
                case Lose():
                    beyond = self.walk.assigned if self.walk else frozenset()
                    assert self.reading <= effect.partitions <= self.reading | beyond
                    self.reading, self.walk = frozenset(), None
                case Send():
                    assert self.machine.connected
                    if effect.heartbeat.owned is not None:
                        self.confirmed = effect.heartbeat.owned
                        # What a walk under way takes over may be read already.
                        beyond = self.walk.assigned if self.walk else frozenset()
                        assert self.reading <= self.confirmed <= self.reading | beyond
                case Connect() | Disconnect() | Fail():
                    pass

    def do(self, event: str, indexes: frozenset[int]) -> None:
        self.now_s += 1.0
        machine = self.machine
        if event == "assign" and machine.connected:
            self.perform(machine.on_reply(reply(max(machine.epoch, 1), part(*indexes)), self.now_s))
        elif event == "reconciled" and self.walk is not None:
            self.reading = (self.reading - self.walk.revoked) | self.walk.assigned
            self.walk = None
            self.perform(machine.on_reconciled(self.now_s))
        elif event == "connected" and not machine.connected:
            self.perform(machine.on_connected(self.now_s))
        elif event == "cut":
            self.perform(machine.on_disconnected(ConnectionLostError("cut"), self.now_s))
        elif event == "fenced":
            self.perform(machine.on_disconnected(FencedMemberEpochError(), self.now_s))
        elif event == "told":
            self.perform(machine.on_lost_told(self.now_s))
        elif event == "tick":
            self.perform(machine.on_tick(self.now_s))


@given(st.lists(EVENTS, max_size=40), st.frozensets(st.integers(0, 5)))
def test_whatever_happens_the_member_ends_where_the_coordinator_wants_it(
    events: list[tuple[str, frozenset[int]]], target: frozenset[int]
) -> None:
    shell = Shell()
    for event, indexes in events:
        shell.do(event, indexes)
    for event in ("told", "connected"):
        shell.do(event, frozenset())
    shell.do("assign", target)
    for _ in range(3):
        shell.do("reconciled", frozenset())
    assert shell.machine.owned == shell.reading == shell.confirmed == part(*target)

"""When a record can no longer be lost, and who is in sync."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.node.cluster.image import PartitionState
from odradek.node.replication.isr import PROPOSAL_RETRY_S, IsrMember, ProposeIsr
from odradek.node.replication.leader import Diverging, Effect, LeaderReplica, PushDue, Refused
from odradek.node.replication.progress import Cursor
from odradek.node.replication.session import Announcement, HighWatermarkAdvanced
from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.protocol.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    NotLeaderOrFollowerError,
    StaleBrokerEpochError,
    UnknownLeaderEpochError,
)
from odradek.protocol.types import (
    Incarnation,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
)

N1, N2, N3, N4 = map(NodeId, (1, 2, 3, 4))
ALL = (N1, N2, N3)
EPOCH = LeaderEpoch(7)
LAG_S = 30.0


def state(isr: tuple[NodeId, ...], partition_epoch: int = 0) -> PartitionState:
    return PartitionState(
        index=PartitionIndex(0),
        uid=PartitionUid(1),
        leader_id=N1,
        leader_epoch=EPOCH,
        partition_epoch=PartitionEpoch(partition_epoch),
        replicas=ALL,
        isr=isr,
    )


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    made = LeaderEpochs()
    for epoch, start in entries:
        made.assign(LeaderEpoch(epoch), Offset(start))
    return made


@dataclass
class _World:
    """A leader of three replicas, and what has been agreed with the controller."""

    isr: tuple[NodeId, ...] = ALL
    min_insync: int = 1
    log_end: int = 0
    durable_end: int = 0
    high_watermark: int = 0
    epochs: LeaderEpochs = field(default_factory=LeaderEpochs)
    now_s: float = 100.0
    live: dict[NodeId, Incarnation] = field(
        default_factory=lambda: {node_id: Incarnation(10 + node_id) for node_id in ALL}
    )
    partition_epoch: int = 0
    core: LeaderReplica = field(init=False)
    sessions: dict[NodeId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.core = LeaderReplica(
            N1,
            state(self.isr),
            self.live,
            min_insync=self.min_insync,
            log_end=Offset(self.log_end),
            durable_end=Offset(self.durable_end),
            high_watermark=Offset(self.high_watermark),
            now_s=self.now_s,
            lag_time_max_s=LAG_S,
        )

    def announce(
        self,
        follower: NodeId,
        log_end: int,
        last_epoch: int = -1,
        *,
        durable_end: int | None = None,
        leader_epoch: LeaderEpoch = EPOCH,
        incarnation: int | None = None,
        log_start: int = 0,
    ) -> list[Effect]:
        self.sessions[follower] = self.sessions.get(follower, 0) + 1
        announced = Announcement(
            leader_epoch,
            self.sessions[follower],
            LeaderEpoch(last_epoch),
            Offset(log_end),
            Offset(log_end if durable_end is None else durable_end),
        )
        chosen = self.live.get(follower, Incarnation(1)) if incarnation is None else incarnation
        return self.core.on_announced(
            follower,
            Incarnation(chosen),
            announced,
            self.epochs,
            Offset(log_start),
            now_s=self.now_s,
        )

    def append(self, log_end: int) -> list[Effect]:
        self.epochs.assign(EPOCH, self.core.log_end_offset)
        return self.core.on_appended(Offset(log_end))

    def send(self, follower: NodeId, end: int) -> None:
        self.core.on_sent(follower, self.sessions[follower], Offset(end), self.now_s)

    def ack(self, follower: NodeId, end: int) -> list[Effect]:
        return self.core.on_acked(
            follower, self.live[follower], self.sessions[follower], Offset(end), self.now_s
        )

    def image(self, *isr: NodeId) -> list[Effect]:
        self.partition_epoch += 1
        return self.core.on_image(
            state(isr, self.partition_epoch), self.live, self.min_insync, self.now_s
        )

    def tick(self, seconds: float) -> list[Effect]:
        self.now_s += seconds
        return self.core.on_tick(self.now_s)


def committed(end: int) -> HighWatermarkAdvanced:
    return HighWatermarkAdvanced(Offset(end))


def proposed(effects: list[Effect]) -> tuple[NodeId, ...] | None:
    found = [effect for effect in effects if isinstance(effect, ProposeIsr)]
    assert len(found) <= 1
    return tuple(member.node_id for member in found[0].isr) if found else None


# The high watermark


def test_alone_a_record_commits_with_its_own_sync() -> None:
    world = _World(isr=(N1,))
    assert world.append(5) == []
    assert world.core.on_durable(Offset(3)) == [committed(3)]
    assert world.core.on_durable(Offset(5)) == [committed(5)]


def test_every_member_must_have_it_on_disk() -> None:
    world = _World()
    world.announce(N2, 0)
    world.announce(N3, 0)
    world.append(5)
    world.send(N2, 5)
    world.send(N3, 5)
    assert world.core.on_durable(Offset(5)) == []
    assert world.ack(N2, 5) == []
    assert world.ack(N3, 2) == [committed(2)]
    assert world.ack(N3, 5) == [committed(5)]


def test_the_leader_counts_only_once_its_own_sync_is_done() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    assert world.ack(N2, 5) == []
    assert world.core.on_durable(Offset(5)) == [committed(5)]


def test_acks_from_outside_the_isr_count_for_nothing() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    world.announce(N3, 0)
    world.append(5)
    world.send(N3, 5)
    world.core.on_durable(Offset(5))
    assert committed(5) not in world.ack(N3, 5)
    assert world.core.high_watermark == 0


def test_below_min_insync_nothing_commits_until_a_member_returns() -> None:
    world = _World(isr=(N1,), min_insync=2)
    world.append(5)
    assert world.core.on_durable(Offset(5)) == []
    assert not world.core.has_enough_replicas
    assert proposed(world.announce(N2, 0)) == (N1, N2)
    world.send(N2, 5)
    assert world.ack(N2, 5) == []
    assert world.core.high_watermark == 0, "the ISR is still too small until the controller agrees"
    assert world.image(N1, N2) == [committed(5)]


def test_a_demand_that_falls_lets_the_watermark_go_on() -> None:
    world = _World(isr=(N1,), min_insync=2)
    world.append(5)
    world.core.on_durable(Offset(5))
    world.min_insync = 1
    assert world.core.on_image(state((N1,)), world.live, 1, world.now_s) == [committed(5)]


def test_a_member_that_leaves_is_no_longer_waited_for() -> None:
    world = _World(isr=(N1, N2))
    world.append(5)
    world.core.on_durable(Offset(5))
    assert world.image(N1) == [committed(5)]


def test_a_member_away_keeps_what_it_has() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    world.ack(N2, 5)
    world.core.on_disconnected(N2, world.live[N2])
    assert world.core.cursor(N2) is None
    assert world.core.on_durable(Offset(5)) == [committed(5)]


def test_a_new_leader_waits_for_proof_of_what_was_committed_before() -> None:
    world = _World(log_end=9, durable_end=9, high_watermark=4, epochs=epochs((3, 0)))
    assert world.core.start() == []
    assert not world.core.reached_epoch_start
    world.announce(N2, 9, 3)
    assert committed(8) in world.announce(N3, 8, 3)
    assert not world.core.reached_epoch_start
    world.send(N3, 9)
    assert world.ack(N3, 9) == [committed(9)]
    assert world.core.reached_epoch_start


# Sessions and cursors


def test_a_prefix_is_pushed_to_from_its_end() -> None:
    world = _World(log_end=9, durable_end=9, epochs=epochs((3, 0)))
    assert PushDue(N2) in world.announce(N2, 6, 3)
    assert world.core.cursor(N2) == Cursor(1, Offset(6), is_settled=True)
    world.send(N2, 9)
    assert world.append(12) == [PushDue(N2)]
    assert world.append(15) == [], "a push is due already"


def test_another_history_is_cut_where_it_parts() -> None:
    world = _World(log_end=9, durable_end=9, epochs=epochs((3, 0), (5, 6)))
    assert world.announce(N2, 8, 3) == [Diverging(N2, 1, EpochEnd(LeaderEpoch(3), Offset(6)))]
    assert world.core.cursor(N2) is None
    assert world.announce(N2, 8, 4) == [Diverging(N2, 2, EpochEnd(LeaderEpoch(3), Offset(6)))]
    assert world.announce(N2, 11, 5) == [Diverging(N2, 3, EpochEnd(LeaderEpoch(5), Offset(9)))]
    assert PushDue(N2) in world.announce(N2, 6, 3)


def test_what_retention_took_is_not_sent() -> None:
    world = _World(log_end=9, durable_end=9, epochs=epochs((5, 6)))
    nothing_in_common = EpochEnd(LeaderEpoch(-1), Offset(6))
    assert world.announce(N2, 4, 3, log_start=6) == [Diverging(N2, 1, nothing_in_common)]
    assert world.announce(N2, 8, 3, log_start=6) == [Diverging(N2, 2, nothing_in_common)]
    assert PushDue(N2) in world.announce(N2, 6, -1, log_start=6)
    assert world.core.on_cursor_lost(N2, 3, Offset(8)) == [
        Diverging(N2, 3, EpochEnd(LeaderEpoch(-1), Offset(8)))
    ]


def test_an_empty_follower_begins_at_the_start() -> None:
    world = _World(log_end=9, durable_end=9, epochs=epochs((5, 0)))
    assert PushDue(N2) in world.announce(N2, 0)


def test_announcements_under_another_epoch_are_refused() -> None:
    world = _World()
    for epoch, error in ((6, FencedLeaderEpochError), (8, UnknownLeaderEpochError)):
        (effect,) = world.announce(N2, 0, leader_epoch=LeaderEpoch(epoch))
        assert isinstance(effect, Refused)
        assert isinstance(effect.error, error)


def test_strangers_and_earlier_selves_are_refused() -> None:
    world = _World()
    (stranger,) = world.announce(N4, 0)
    assert isinstance(stranger, Refused)
    assert isinstance(stranger.error, NotLeaderOrFollowerError)
    (earlier,) = world.announce(N2, 0, incarnation=11)
    assert isinstance(earlier, Refused)
    assert isinstance(earlier.error, StaleBrokerEpochError)


def test_frames_of_an_older_session_change_nothing() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    world.core.on_durable(Offset(5))
    world.announce(N2, 0)
    assert world.core.on_acked(N2, world.live[N2], 1, Offset(5), world.now_s) == []
    assert world.core.on_acked(N2, Incarnation(99), 2, Offset(5), world.now_s) == []
    world.core.on_sent(N2, 1, Offset(5), world.now_s)
    assert world.core.cursor(N2) == Cursor(2, Offset(0), is_settled=True)


def test_an_overtaken_announcement_changes_nothing() -> None:
    world = _World()
    world.announce(N2, 0)
    world.sessions[N2] -= 1
    assert world.announce(N2, 0) == []


@pytest.mark.parametrize(("durable_end", "log_end"), [(5, 4), (-1, 4)])
def test_an_announcement_that_contradicts_itself_is_refused(durable_end: int, log_end: int) -> None:
    with pytest.raises(InvalidRequestError):
        _World().announce(N2, log_end, durable_end=durable_end)


def test_an_ack_of_what_was_not_sent_is_refused() -> None:
    world = _World()
    world.announce(N2, 0)
    world.append(5)
    with pytest.raises(InvalidRequestError):
        world.ack(N2, 5)


# The ISR


def test_whoever_caught_up_is_proposed_and_waited_for_at_once() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    world.append(5)
    world.send(N2, 5)
    world.core.on_durable(Offset(5))
    effects = world.announce(N3, 0)
    assert proposed(effects) == (N1, N2, N3), "nothing is committed that it lacks"
    assert world.ack(N2, 5) == [], "it may be in the ISR by now"
    world.send(N3, 5)
    assert world.ack(N3, 5) == [committed(5)]


def test_whoever_lacks_committed_records_or_the_epochs_start_must_wait() -> None:
    world = _World(isr=(N1,), log_end=4, durable_end=4, epochs=epochs((3, 0)))
    world.core.start()
    assert proposed(world.announce(N3, 3, 3)) is None
    world.send(N3, 4)
    assert proposed(world.ack(N3, 4)) == (N1, N3)


def test_a_proposal_names_incarnations_and_both_epochs() -> None:
    world = _World(isr=(N1, N2))
    effects = world.announce(N3, 0)
    members = tuple(IsrMember(node_id, Incarnation(10 + node_id)) for node_id in ALL)
    assert ProposeIsr(EPOCH, PartitionEpoch(0), members) in effects


def test_fenced_nodes_are_not_proposed_until_the_image_has_them_back() -> None:
    world = _World(isr=(N1, N2))
    incarnation = world.live.pop(N3)
    assert proposed(world.announce(N3, 0, incarnation=incarnation)) is None
    world.live[N3] = incarnation
    effects = world.core.on_image(state((N1, N2)), world.live, 1, world.now_s)
    assert proposed(effects) == (N1, N2, N3)


def test_one_proposal_at_a_time() -> None:
    world = _World(isr=(N1,))
    assert proposed(world.announce(N2, 0)) == (N1, N2)
    assert proposed(world.announce(N3, 0)) is None
    assert proposed(world.image(N1, N2)) == (N1, N2, N3)


def test_a_refused_or_lost_proposal_leaves_its_members_waited_for() -> None:
    world = _World(isr=(N1,))
    (proposal,) = (e for e in world.announce(N2, 0) if isinstance(e, ProposeIsr))
    world.core.on_proposal_answered(proposal, world.now_s)
    world.live.pop(N2)
    world.append(5)
    assert world.core.on_durable(Offset(5)) == [], "a repeat of the proposal may still be accepted"
    assert world.tick(PROPOSAL_RETRY_S / 2) == []
    assert proposed(world.tick(PROPOSAL_RETRY_S)) == (N1,), "asks for what is, to end the doubt"
    assert world.image(N1) == [committed(5)]


def test_an_old_proposals_answer_does_not_end_a_newer_one() -> None:
    world = _World(isr=(N1,))
    (first,) = (e for e in world.announce(N2, 0) if isinstance(e, ProposeIsr))
    world.announce(N3, 0)
    assert proposed(world.image(N1, N2)) == (N1, N2, N3)
    world.core.on_proposal_answered(first, world.now_s)
    assert world.tick(PROPOSAL_RETRY_S * 2) == []


def test_a_member_that_lags_is_proposed_to_leave_and_waited_for_until_it_has() -> None:
    world = _World()
    world.announce(N2, 0)
    world.announce(N3, 0)
    world.append(5)
    world.core.on_durable(Offset(5))
    world.send(N2, 5)
    world.send(N3, 5)
    world.ack(N2, 5)
    assert world.tick(LAG_S) == []
    assert proposed(world.tick(1)) == (N1, N2)
    assert world.core.high_watermark == 0
    assert world.image(N1, N2) == [committed(5)]


def test_a_member_under_load_is_judged_by_what_it_was_sent() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    for step in range(1, 100):
        world.append(step * 10)
        world.send(N2, step * 10)
        world.append(step * 10 + 5)
        world.ack(N2, step * 10)
        assert proposed(world.tick(1)) is None


def test_an_idle_follower_stays() -> None:
    world = _World(isr=(N1, N2))
    world.announce(N2, 0)
    for _ in range(5):
        assert world.tick(LAG_S) == []


def test_a_member_that_never_came_leaves() -> None:
    world = _World(isr=(N1, N2))
    assert world.tick(LAG_S) == []
    assert proposed(world.tick(1)) == (N1,)


def test_a_fenced_leader_proposes_nothing() -> None:
    world = _World(isr=(N1, N2))
    world.live.pop(N1)
    assert world.tick(LAG_S * 2) == []


# Anything, in any order

_steps = st.lists(
    st.tuples(
        st.sampled_from(["append", "sync", "announce", "send", "ack", "image", "answer", "tick"]),
        st.sampled_from([N2, N3]),
        st.integers(0, 12),
    ),
    max_size=60,
)


@dataclass
class _Run:
    """Performs steps, and checks each advance against every ISR that may be in force."""

    world: _World
    told: int = 0
    outstanding: list[ProposeIsr] = field(default_factory=list)
    possible: list[frozenset[NodeId]] = field(default_factory=lambda: [frozenset(ALL)])

    def step(self, what: str, node_id: NodeId, amount: int) -> list[Effect]:
        world, core = self.world, self.world.core
        cursor = core.cursor(node_id)
        match what:
            case "append":
                return world.append(core.log_end_offset + amount + 1)
            case "sync":
                return core.on_durable(Offset(min(amount * 5, core.log_end_offset)))
            case "announce":
                return world.announce(node_id, core.followers[node_id].durable_end, EPOCH)
            case "send" if cursor is not None:
                world.send(node_id, min(cursor.offset + amount, core.log_end_offset))
            case "ack" if cursor is not None:
                return world.ack(node_id, min(amount * 5, cursor.offset))
            case "answer" if self.outstanding:
                core.on_proposal_answered(self.outstanding[-1], world.now_s)
            case "image":
                decided = self.possible[amount % len(self.possible)]
                self.possible, self.outstanding = [decided], []
                return world.image(*sorted(decided))
            case "tick":
                return world.tick(float(amount))
        return []

    def check(self, effect: Effect) -> None:
        core = self.world.core
        if isinstance(effect, ProposeIsr):
            self.outstanding.append(effect)
            self.possible.append(frozenset(member.node_id for member in effect.isr))
        elif isinstance(effect, HighWatermarkAdvanced):
            assert self.told < effect.offset <= core.durable_end
            for member in frozenset().union(*self.possible) - {N1}:
                assert core.followers[member].durable_end >= effect.offset
            assert len(core.isr) >= core.min_insync
            self.told = effect.offset


@given(_steps, st.integers(1, 3))
def test_nothing_commits_that_a_possible_member_lacks(
    steps: list[tuple[str, NodeId, int]], min_insync: int
) -> None:
    run = _Run(_World(min_insync=min_insync))
    for what, node_id, amount in steps:
        for effect in run.step(what, node_id, amount):
            run.check(effect)
        assert run.world.core.high_watermark == run.told

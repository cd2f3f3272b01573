"""A follower's log becomes a prefix of the leader's, and it never says that it has more."""

import itertools
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.cluster.image import PartitionState
from odradek.node.replication.follower import (
    ANNOUNCE_RETRY_S,
    Ack,
    AdvanceLogStart,
    Announce,
    Append,
    Effect,
    FollowerReplica,
    FollowerState,
    StartAfresh,
    Truncate,
)
from odradek.node.replication.leader import Diverging, LeaderReplica, PushDue
from odradek.node.replication.session import HighWatermarkAdvanced
from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.protocol.types import (
    Incarnation,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
)

LEADER, ME = NodeId(1), NodeId(2)
EPOCH = LeaderEpoch(20)
NO_EPOCH = LeaderEpoch(-1)


def follower(log_end: int = 0, *, durable_end: int | None = None) -> FollowerReplica:
    return FollowerReplica(
        LEADER,
        EPOCH,
        last_epoch=LeaderEpoch(3) if log_end else NO_EPOCH,
        log_end=Offset(log_end),
        durable_end=Offset(log_end if durable_end is None else durable_end),
        high_watermark=Offset(0),
        new_session=itertools.count(1).__next__,
    )


def push(
    core: FollowerReplica,
    start: int | None,
    *,
    session: int = 1,
    high_watermark: int = 0,
    log_start: int = 0,
) -> list[Effect]:
    offset = None if start is None else Offset(start)
    return core.on_pushed(session, offset, Offset(high_watermark), Offset(log_start))


def announced(effects: list[Effect]) -> tuple[int, int, int, int]:
    (effect,) = effects
    assert isinstance(effect, Announce)
    each = effect.announcement
    assert each.leader_epoch == EPOCH
    return each.session, each.last_epoch, each.log_end, each.durable_end


def test_it_says_where_its_log_ends_and_what_is_on_disk() -> None:
    core = follower(5, durable_end=4)
    assert announced(core.on_connected()) == (1, 3, 5, 4)


def test_it_acknowledges_what_is_on_disk_and_no_more() -> None:
    core = follower()
    core.on_connected()
    assert push(core, 0) == [Append()]
    assert core.on_appended(Offset(3), EPOCH) == []
    assert push(core, 3) == [Append()]
    core.on_appended(Offset(6), EPOCH)
    assert core.on_durable(Offset(3)) == [Ack(1, Offset(3))]
    assert core.on_durable(Offset(3)) == []
    assert core.on_durable(Offset(6)) == [Ack(1, Offset(6))]


def test_away_it_acknowledges_nothing() -> None:
    core = follower()
    core.on_connected()
    push(core, 0)
    core.on_appended(Offset(3), EPOCH)
    core.on_disconnected()
    assert core.on_durable(Offset(3)) == []
    assert push(core, 3) == []
    assert announced(core.on_connected()) == (2, EPOCH, 3, 3)


def test_pushes_of_an_older_session_are_dropped() -> None:
    core = follower(5)
    core.on_connected()
    core.on_disconnected()
    core.on_connected()
    assert push(core, 5, session=1) == []
    assert push(core, 5, session=2) == [Append()]


def test_after_a_lost_push_it_announces_again() -> None:
    core = follower(5)
    core.on_connected()
    assert announced(push(core, 7)) == (2, 3, 5, 5)


def test_a_push_it_has_already_is_dropped() -> None:
    core = follower(5)
    core.on_connected()
    assert push(core, 4) == []


def test_the_high_watermark_follows_as_far_as_the_log_goes() -> None:
    core = follower(5)
    core.on_connected()
    assert push(core, 5, high_watermark=7) == [Append(), HighWatermarkAdvanced(Offset(5))]
    assert core.on_appended(Offset(8), EPOCH) == [HighWatermarkAdvanced(Offset(7))]
    assert push(core, None, high_watermark=8) == [HighWatermarkAdvanced(Offset(8))]
    assert push(core, None, high_watermark=6) == []


def test_the_log_start_follows_once() -> None:
    core = follower(5)
    core.on_connected()
    assert push(core, None, log_start=3) == [AdvanceLogStart(Offset(3))]
    assert push(core, None, log_start=3) == []


def test_it_cuts_its_log_and_announces_once_the_cut_is_on_disk() -> None:
    core = follower(9, durable_end=8)
    epochs = LeaderEpochs()
    epochs.assign(LeaderEpoch(2), Offset(0))
    epochs.assign(LeaderEpoch(3), Offset(6))
    core.on_connected()
    end = EpochEnd(LeaderEpoch(2), Offset(8))
    assert core.on_diverging(1, end, epochs) == [Truncate(Offset(6))], "its own epoch 2 ended at 6"
    core.on_truncated(Offset(6), LeaderEpoch(2))
    assert push(core, 6) == []
    assert core.on_tick(1e9) == []
    assert announced(core.on_durable(Offset(6))) == (2, 2, 6, 6)


def test_a_stream_that_breaks_meanwhile_does_not_hurry_it() -> None:
    core = follower(9)
    core.on_connected()
    core.on_diverging(1, EpochEnd(LeaderEpoch(3), Offset(6)), LeaderEpochs())
    core.on_truncated(Offset(6), LeaderEpoch(3))
    core.on_disconnected()
    assert core.on_connected() == []
    assert announced(core.on_durable(Offset(6))) == (2, 3, 6, 6)


def test_below_the_leaders_start_it_begins_anew_there() -> None:
    core = follower(5)
    core.on_connected()
    end = EpochEnd(NO_EPOCH, Offset(20))
    assert core.on_diverging(1, end, LeaderEpochs()) == [StartAfresh(Offset(20))]
    core.on_truncated(Offset(20), NO_EPOCH)
    assert announced(core.on_durable(Offset(20))) == (2, -1, 20, 20)


def test_refused_it_asks_again_a_moment_later() -> None:
    core = follower(5)
    core.on_connected()
    core.on_refused(1, 100.0)
    assert core.on_tick(100.0) == []
    assert announced(core.on_tick(100.0 + ANNOUNCE_RETRY_S)) == (2, 3, 5, 5)
    core.on_refused(1, 100.0)
    assert core.state is FollowerState.FOLLOWING, "an answer to the first announcement"


def test_a_push_the_log_did_not_take_is_asked_for_again() -> None:
    core = follower(5)
    core.on_connected()
    assert push(core, 5) == [Append()]
    core.on_append_failed(Offset(7), EPOCH, 100.0)
    assert push(core, 9) == []
    assert announced(core.on_tick(101.0)) == (2, EPOCH, 7, 5)


# Two logs and the two cores between them


@dataclass
class _Log:
    """The epoch of each record, and what follows from it."""

    records: list[int] = field(default_factory=list)

    @property
    def epochs(self) -> LeaderEpochs:
        made = LeaderEpochs()
        for offset, epoch in enumerate(self.records):
            made.assign(LeaderEpoch(epoch), Offset(offset))
        return made

    @property
    def end(self) -> Offset:
        return Offset(len(self.records))


_epochs = st.lists(st.integers(0, 4), max_size=8).map(sorted)


def _continued(shared: list[int], epochs: list[int], own: int) -> list[int]:
    """Let one replica go on alone; nobody else ever writes in its epochs."""
    return shared + [3 * epoch + own for epoch in epochs if not shared or 3 * epoch >= shared[-1]]


@given(_epochs, _epochs, _epochs, st.integers(0, 8), st.integers(0, 8))
def test_any_two_logs_agree_in_the_end(
    shared: list[int], theirs: list[int], ours: list[int], their_part: int, our_part: int
) -> None:
    history = [3 * epoch for epoch in shared]
    theirs = _continued(history[:their_part], theirs, 1)
    ours = _continued(history[:our_part], ours, 2)
    prefix = history[: min(their_part, our_part)]
    log, mine = _Log(theirs), _Log(ours)
    partition = PartitionState(
        index=PartitionIndex(0),
        uid=PartitionUid(1),
        leader_id=LEADER,
        leader_epoch=EPOCH,
        partition_epoch=PartitionEpoch(0),
        replicas=(LEADER, ME),
        isr=(LEADER,),
    )
    leader = LeaderReplica(
        LEADER,
        partition,
        {},
        min_insync=1,
        log_end=log.end,
        durable_end=log.end,
        high_watermark=Offset(0),
        now_s=0.0,
    )
    core = FollowerReplica(
        LEADER,
        EPOCH,
        last_epoch=mine.epochs.latest,
        log_end=mine.end,
        durable_end=mine.end,
        high_watermark=Offset(0),
        new_session=itertools.count(1).__next__,
    )
    effects = core.on_connected()
    for _ in range(30):
        (announce,) = effects
        assert isinstance(announce, Announce)
        (answer, *_) = leader.on_announced(
            ME, Incarnation(1), announce.announcement, log.epochs, Offset(0), now_s=0.0
        )
        if isinstance(answer, PushDue):
            break
        assert isinstance(answer, Diverging)
        (cut,) = core.on_diverging(answer.session, answer.end, mine.epochs)
        assert isinstance(cut, Truncate)
        del mine.records[cut.offset :]
        core.on_truncated(mine.end, mine.epochs.latest)
        effects = core.on_durable(mine.end)
    cursor = leader.cursor(ME)
    assert cursor is not None, "they never agreed"
    assert len(mine.records) >= len(prefix), "what both had was cut"
    assert mine.records == log.records[: cursor.offset]

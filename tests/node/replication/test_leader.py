"""When a record can no longer be lost."""

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.replication.leader import HighWatermarkAdvanced, LeaderReplica, PushDue
from odradek.protocol.types import NodeId, Offset

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)


def leader(members: list[NodeId], *, min_insync: int = 1) -> LeaderReplica:
    return LeaderReplica(min_insync=min_insync, durable_end=dict.fromkeys(members, Offset(0)))


def test_alone_a_record_commits_with_its_own_sync() -> None:
    core = leader([N1])
    assert core.on_appended(Offset(5)) == []
    assert core.high_watermark == 0
    assert core.on_durable(N1, Offset(3)) == [HighWatermarkAdvanced(Offset(3))]
    assert core.on_durable(N1, Offset(5)) == [HighWatermarkAdvanced(Offset(5))]


def test_followers_are_pushed_to_and_waited_for() -> None:
    core = leader([N1, N2])
    assert core.on_appended(Offset(5)) == [PushDue(Offset(5))]
    assert core.on_durable(N1, Offset(5)) == []
    assert core.on_durable(N2, Offset(4)) == [HighWatermarkAdvanced(Offset(4))]


def test_acks_of_strangers_count_for_nothing() -> None:
    core = leader([N1, N2])
    core.on_appended(Offset(5))
    core.on_durable(N1, Offset(5))
    assert core.on_durable(N3, Offset(5)) == []


def test_below_min_insync_nothing_commits_until_a_member_returns() -> None:
    core = leader([N1], min_insync=2)
    core.on_appended(Offset(5))
    assert core.on_durable(N1, Offset(5)) == []
    assert not core.has_enough_replicas
    assert core.on_isr_changed([N1, N2], 2) == []
    assert core.on_durable(N2, Offset(5)) == [HighWatermarkAdvanced(Offset(5))]


def test_a_member_that_leaves_is_no_longer_waited_for() -> None:
    core = leader([N1, N2])
    core.on_appended(Offset(5))
    core.on_durable(N1, Offset(5))
    assert core.on_isr_changed([N1], 1) == [HighWatermarkAdvanced(Offset(5))]


_steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", N1, N2, N3]), st.integers(1, 20)),
        st.tuples(st.just("isr"), st.integers(0, 7)),
    )
)


@given(_steps, st.integers(1, 3))
def test_high_watermark_never_falls_and_never_passes_a_member(
    steps: list[tuple[str | NodeId, int]], min_insync: int
) -> None:
    core = leader([N1, N2, N3], min_insync=min_insync)
    announced = 0
    for actor, amount in steps:
        if actor == "append":
            effects = core.on_appended(Offset(core.log_end_offset + amount))
        elif actor == "isr":
            members = [node for bit, node in enumerate((N1, N2, N3)) if amount >> bit & 1]
            effects = core.on_isr_changed(members, min_insync)
        else:
            assert isinstance(actor, int)
            effects = core.on_durable(actor, Offset(min(amount, core.log_end_offset)))
        for effect in effects:
            if isinstance(effect, HighWatermarkAdvanced):
                assert announced < effect.offset <= min(core.durable_end.values())
                assert len(core.durable_end) >= min_insync
                announced = effect.offset
        assert core.high_watermark == announced

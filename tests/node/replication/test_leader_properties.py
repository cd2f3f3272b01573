"""A leader under anything, in any order."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.replication.isr import ProposeIsr
from odradek.node.replication.leader import Effect
from odradek.node.replication.session import HighWatermarkAdvanced
from odradek.protocol.types import NodeId, Offset
from tests.node.replication.leader_world import ALL, EPOCH, N1, N2, N3, World

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

    world: World
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
                return core.on_proposal_answered(self.outstanding[-1], world.now_s)
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
    run = _Run(World(min_insync=min_insync))
    for what, node_id, amount in steps:
        for effect in run.step(what, node_id, amount):
            run.check(effect)
        assert run.world.core.high_watermark == run.told

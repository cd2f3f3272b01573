"""SDK, coordinator and controller together: in any order of things, one reader a partition."""

from random import Random

import pytest

from odradek.client.consuming.group_member import MemberState

from .handover import GROUP, Handover

SEEDS = 100
STEPS = 600


@pytest.mark.parametrize("block", range(10))
def test_no_schedule_gives_a_partition_two_readers_or_none_for_ever(block: int) -> None:
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        random = Random(seed)
        world = Handover(partition_count=random.randint(1, 7), member_count=random.randint(2, 4))
        try:
            for _ in range(STEPS):
                world.step(random)
            world.settle(random)
            check_settled(world)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def check_settled(world: Handover) -> None:
    states = {client.machine.member_id: client.machine.state for client in world.clients}
    assert set(states.values()) == {MemberState.STABLE}, states
    members = world.groups[GROUP].members
    loads = []
    for client in world.clients:
        member = members[client.machine.member_id]
        assert {tuple(each) for each in member.assigned} == {tuple(each) for each in client.reads}
        assert member.assigned.keys() == member.target
        loads.append(len(client.reads))
    assert sum(loads) == world.topics.partition_count
    assert max(loads) - min(loads) <= 1

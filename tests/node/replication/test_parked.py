"""Requests that know more than the node wait in order, and let others have their turns."""

import asyncio

from odradek.node.replication import parked
from odradek.node.replication.parked import ParkedRequests
from tests.node.running import RunningNode

FAR_S = float("inf")


def never() -> None:
    raise AssertionError


class World:
    """Requests that may be appended once `is_known`."""

    def __init__(self, count: int) -> None:
        self.tried = 0
        self.is_known = False
        self.appended: list[int] = []
        self.given_up: list[int] = []
        self.requests = ParkedRequests()
        for number in range(count):
            self.add(number)

    def add(self, number: int, deadline_s: float = FAR_S) -> bool:
        def retry() -> bool:
            self.tried += 1
            if self.is_known:
                self.appended.append(number)
            return self.is_known

        def give_up() -> None:
            self.given_up.append(number)

        return self.requests.park(1, deadline_s, retry, give_up)


async def test_an_image_has_some_tried_in_a_turn_and_all_in_order() -> None:
    world = World(1_000)
    world.is_known = True
    world.requests.retry()
    turns = 0
    while world.requests.is_behind:
        before = world.tried
        await asyncio.sleep(0)
        assert world.tried - before <= parked._TURN_MAX
        turns += 1
    assert turns >= 1_000 // parked._TURN_MAX
    assert world.appended == list(range(1_000))
    assert len(world.requests) == 0


async def test_an_image_within_a_round_has_the_first_tried_first() -> None:
    world = World(600)
    world.requests.retry()
    assert world.tried == parked._TURN_MAX
    world.is_known = True
    world.add(600)
    world.requests.retry()
    await asyncio.wait_for(world.requests.caught_up(), 5)
    assert world.appended == list(range(601))


async def test_who_waits_for_a_round_goes_on_after_it() -> None:
    world = World(1_000)
    world.requests.retry()
    assert world.requests.is_behind
    await asyncio.wait_for(world.requests.caught_up(), 5)
    assert world.tried == len(world.requests) == 1_000


async def test_nothing_is_appended_before_those_that_wait_longer(node: RunningNode) -> None:
    replicas = node.node._replicas
    for _ in range(1_000):
        replicas.park(1, FAR_S, lambda: False, never)
    assert replicas.has_room
    replicas._parked.retry()
    assert not replicas.has_room
    await asyncio.wait_for(replicas.room(), 5)
    assert replicas.has_room


async def test_without_an_image_they_are_only_given_up_some_in_a_turn() -> None:
    world = World(0)
    for number in range(1_000):
        world.add(number, float("-inf") if number % 2 else FAR_S)
    world.requests.tick()
    assert not world.requests.is_behind
    assert 0 < len(world.given_up) <= parked._TURN_MAX
    for _ in range(1_000 // parked._TURN_MAX):
        await asyncio.sleep(0)
    assert world.given_up == list(range(1, 1_000, 2))
    assert (world.tried, len(world.requests)) == (0, 500)


async def test_what_left_makes_room() -> None:
    requests = ParkedRequests()
    half = parked.PARKED_BYTES_MAX // 2 + 1
    assert requests.park(half, FAR_S, lambda: True, never)
    assert not requests.park(half, FAR_S, lambda: True, never)
    requests.retry()
    assert requests.park(half, FAR_S, lambda: True, never)

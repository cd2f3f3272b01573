"""What can go wrong, one context manager each: entering it injects, leaving it heals.

All chance comes from a `random.Random`; what depends on the moment (who leads, which controller is
active) is asked when the fault begins.
"""

import asyncio
import enum
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from odradek.client.local.process import LocalProcess
from tests.chaos.links import cut_controllers, cut_link, cut_one_way, isolate_node, slow_links
from tests.chaos.stage import Stage

Injection: TypeAlias = Callable[[Stage, random.Random], AbstractAsyncContextManager[str]]

_CLOCK_HOURS: Final = (-30, -3, 3, 30)
_INTO_SESSION_S: Final = 3.0
_STARTS_CUT_OFF_S: Final = 5.0


class FaultKind(enum.Enum):
    """The kinds of fault."""

    KILL_NODE = "node killed"
    KILL_LEADER = "leader of most killed"
    KILL_CONTROLLER = "controller killed"
    KILL_ACTIVE = "active controller killed"
    KILL_ACTIVE_AND_NODE = "active controller and node killed"
    KILL_ALL = "everything killed at once"
    PAUSE_NODE = "node paused"
    PAUSE_CONTROLLER = "controller paused"
    PAUSE_ACTIVE = "active controller paused"
    PAUSE_ALL = "everything paused at once"
    KILL_PRODUCER = "producer killed"
    KILL_MEMBER = "group member killed"
    PAUSE_MEMBER = "group member paused"
    CUT_LINK = "link cut"
    CUT_ONE_WAY = "link cut one way"
    ISOLATE_NODE = "node cut off from all servers"
    CUT_CONTROLLERS = "node cut off from the controllers"
    SLOW_LINKS = "slow links"
    CLOCK = "wall clock off by hours"
    ROLLING_RESTART = "rolling restart"
    KILL_DURING_CUT = "server killed while a link is cut"
    PAUSE_DURING_KILL = "server paused while another is dead"
    LOSE_ACTIVE_TOO = "active controller killed while a node is lost"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a kind of fault is injected.

    Attributes:
        inject: Begins and heals it; yields what exactly was done, for people.
        hold_s: Between how many seconds it lasts; the shorter end in short runs.
    """

    inject: Injection
    hold_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Order:
    """What the nemesis shall do next."""

    kind: FaultKind
    hold_s: float


def orders(
    chance: random.Random, kinds: Sequence[FaultKind], *, patience: float = 1.0
) -> Iterator[Order]:
    """Yield orders for ever: every kind once, in random order, then again.

    Args:
        chance: Decides.
        kinds: Which ones.
        patience: 0: every fault is as short as it may be. 1: any length.
    """
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            least_s, most_s = FAULTS[kind].hold_s
            yield Order(kind, least_s + (most_s - least_s) * patience * chance.random())


@asynccontextmanager
async def _killed(stage: Stage, *names: tuple[str, int]) -> AsyncIterator[str]:
    """Kill servers at once; start them again at once."""
    cluster = stage.cluster
    servers = {"node": cluster.nodes, "controller": cluster.controllers}
    start = {"node": cluster.start_node, "controller": cluster.start_controller}
    processes = [servers[program][number] for program, number in names]
    for process in processes:
        process.pause()  # so that no one of them sees another die
    await asyncio.gather(*(process.kill() for process in processes))
    try:
        yield ", ".join(process.name for process in processes)
    finally:
        await asyncio.gather(*(start[program](number) for program, number in names))


@asynccontextmanager
async def _kill_node(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    async with _killed(stage, ("node", chance.choice(list(stage.cluster.nodes)))) as detail:
        yield detail


@asynccontextmanager
async def _kill_leader(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    leaders = await stage.leaders()
    most = max(leaders.values())
    node = chance.choice([node for node, count in leaders.items() if count == most])
    async with _killed(stage, ("node", node)) as detail:
        yield f"{detail}, leading {most}"


@asynccontextmanager
async def _kill_controller(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    number = chance.choice(list(stage.cluster.controllers))
    async with _killed(stage, ("controller", number)) as detail:
        yield detail


@asynccontextmanager
async def _kill_active(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    del chance
    async with _killed(stage, ("controller", await stage.active_controller())) as detail:
        yield detail


@asynccontextmanager
async def _kill_active_and_node(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    active = await stage.active_controller()
    node = chance.choice(list(stage.cluster.nodes))
    async with _killed(stage, ("controller", active), ("node", node)) as detail:
        yield detail


@asynccontextmanager
async def _kill_all(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    del chance
    nodes = [("node", each) for each in stage.cluster.nodes]
    controllers = [("controller", each) for each in stage.cluster.controllers]
    async with _killed(stage, *nodes, *controllers):
        yield "every node and controller"


@asynccontextmanager
async def _paused(*processes: LocalProcess) -> AsyncIterator[str]:
    for process in processes:
        process.pause()
    try:
        yield ", ".join(process.name for process in processes)
    finally:
        for process in processes:
            process.resume()


@asynccontextmanager
async def _pause_node(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    async with _paused(chance.choice(list(stage.cluster.nodes.values()))) as detail:
        yield detail


@asynccontextmanager
async def _pause_controller(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    async with _paused(chance.choice(list(stage.cluster.controllers.values()))) as detail:
        yield detail


@asynccontextmanager
async def _pause_active(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    del chance
    async with _paused(stage.cluster.controllers[await stage.active_controller()]) as detail:
        yield detail


@asynccontextmanager
async def _pause_all(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """After a session's time every clock says that all are dead, and nobody is."""
    del chance
    async with _paused(*stage.servers):
        yield "every node and controller"


@asynccontextmanager
async def _kill_producer(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    name = chance.choice(list(stage.producers))
    await stage.kill_producer(name)
    try:
        yield name
    finally:
        await stage.start_producer(name)


@asynccontextmanager
async def _kill_member(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    name = chance.choice(list(stage.members))
    await stage.kill_member(name)
    try:
        yield name
    finally:
        await stage.start_member()


@asynccontextmanager
async def _pause_member(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    async with _paused(chance.choice(list(stage.members.values()))) as detail:
        yield detail


@asynccontextmanager
async def _clock(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    assert stage.clocks is not None, "left out where clocks cannot be set"
    name, hours = chance.choice(stage.servers).name, chance.choice(_CLOCK_HOURS)
    stage.clocks.set(name, hours * 3600)
    try:
        yield f"{name}, {hours:+d} h"
    finally:
        stage.clocks.set(name, 0)


@asynccontextmanager
async def _rolling_restart(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    del chance
    cluster = stage.cluster
    for node_id, node in cluster.nodes.items():
        await _stopped(node)
        await cluster.start_node(node_id)
        await stage.until_whole()
    for controller_id, controller in cluster.controllers.items():
        await _stopped(controller)
        await cluster.start_controller(controller_id)
    yield "SIGTERM, every node, every controller"


async def _stopped(process: LocalProcess) -> None:
    status = await process.stop()
    assert status == 0, f"{process.name} ended with {status} on SIGTERM. {process.log_tail()}"


@asynccontextmanager
async def _kill_during_cut(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    kill = chance.choice((_kill_node, _kill_leader, _kill_controller, _kill_active))
    cut = chance.choice((cut_link, cut_one_way, slow_links))
    async with AsyncExitStack() as killed:
        async with cut(stage, chance) as first:
            second = await killed.enter_async_context(kill(stage, chance))
            yield f"{first}; {second}"
            # It starts while the link is cut. If that is the one to the active controller, no
            # server can be ready before the link has healed.
            starting = asyncio.create_task(killed.pop_all().aclose())
            await asyncio.wait((starting,), timeout=_STARTS_CUT_OFF_S)
        await starting


@asynccontextmanager
async def _pause_during_kill(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    dead, hung = chance.sample(stage.servers, 2)
    program, number = dead.name.split()
    async with _killed(stage, (program, int(number))) as first, _paused(hung) as second:
        yield f"{first} dead; {second} paused"


@asynccontextmanager
async def _lose_active_too(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """Whoever decides next must not begin to wait for the node anew."""
    active = await stage.active_controller()
    lose = chance.choice((_pause_node, isolate_node, cut_controllers))
    async with lose(stage, chance) as first:
        await asyncio.sleep(_INTO_SESSION_S)
        async with _killed(stage, ("controller", active)) as second:
            yield f"{first}; {second}"


FAULTS: Final = {
    FaultKind.KILL_NODE: Fault(_kill_node, (0.5, 5.0)),
    FaultKind.KILL_LEADER: Fault(_kill_leader, (0.5, 5.0)),
    FaultKind.KILL_CONTROLLER: Fault(_kill_controller, (0.5, 5.0)),
    FaultKind.KILL_ACTIVE: Fault(_kill_active, (0.5, 5.0)),
    FaultKind.KILL_ACTIVE_AND_NODE: Fault(_kill_active_and_node, (0.5, 5.0)),
    FaultKind.KILL_ALL: Fault(_kill_all, (0.0, 3.0)),
    FaultKind.PAUSE_NODE: Fault(_pause_node, (1.0, 10.0)),
    FaultKind.PAUSE_CONTROLLER: Fault(_pause_controller, (1.0, 10.0)),
    FaultKind.PAUSE_ACTIVE: Fault(_pause_active, (1.0, 10.0)),
    FaultKind.PAUSE_ALL: Fault(_pause_all, (1.0, 10.0)),
    FaultKind.KILL_PRODUCER: Fault(_kill_producer, (0.0, 2.0)),
    FaultKind.KILL_MEMBER: Fault(_kill_member, (0.0, 2.0)),
    FaultKind.PAUSE_MEMBER: Fault(_pause_member, (1.0, 10.0)),
    FaultKind.CUT_LINK: Fault(cut_link, (1.0, 10.0)),
    FaultKind.CUT_ONE_WAY: Fault(cut_one_way, (1.0, 10.0)),
    FaultKind.ISOLATE_NODE: Fault(isolate_node, (1.0, 10.0)),
    FaultKind.CUT_CONTROLLERS: Fault(cut_controllers, (1.0, 10.0)),
    FaultKind.SLOW_LINKS: Fault(slow_links, (1.0, 5.0)),
    FaultKind.CLOCK: Fault(_clock, (1.0, 5.0)),
    FaultKind.ROLLING_RESTART: Fault(_rolling_restart, (0.0, 0.0)),
    FaultKind.KILL_DURING_CUT: Fault(_kill_during_cut, (1.0, 8.0)),
    FaultKind.PAUSE_DURING_KILL: Fault(_pause_during_kill, (1.0, 8.0)),
    FaultKind.LOSE_ACTIVE_TOO: Fault(_lose_active_too, (0.5, 8.0)),
}

"""What can go wrong with the links between processes: cut, both ways or one way, and slow."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from tests.chaos.fabric import Fabric
from tests.chaos.stage import Stage

_SLOW_S: Final = (0.02, 0.1, 0.4)
_HEARTBEATS_S: Final = 3.0
"""Three heartbeats, of which a node sends each to every controller."""


def _linked(stage: Stage, chance: random.Random) -> tuple[str, str]:
    """Choose two processes that talk with each other."""
    nodes = [process.name for process in stage.cluster.nodes.values()]
    controllers = [process.name for process in stage.cluster.controllers.values()]
    clients = stage.client_names
    ends = [(nodes, controllers), (clients, nodes)]
    if len(controllers) > 1:
        ends.append((controllers, controllers))
    if len(nodes) > 1:
        ends.append((nodes, nodes))
    left, right = chance.choice(ends)
    near = chance.choice(left)
    return near, chance.choice([name for name in right if name != near])


@asynccontextmanager
async def cut_link(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """Let nothing pass between two processes."""
    near, far = _linked(stage, chance)
    stage.fabric.cut(near, far)
    stage.fabric.cut(far, near)
    try:
        yield f"{near} -/- {far}"
    finally:
        stage.fabric.heal()


@asynccontextmanager
async def cut_one_way(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """Let nothing pass from one process to another."""
    near, far = chance.sample(_linked(stage, chance), 2)
    stage.fabric.cut(near, far)
    try:
        yield f"{near} -/> {far}"
    finally:
        stage.fabric.heal()


@asynccontextmanager
async def isolate_node(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """Cut a node off from all servers. Clients reach it still: it must stop by itself."""
    name = chance.choice(list(stage.cluster.nodes.values())).name
    others = [each.name for each in stage.cluster.nodes.values() if each.name != name]
    with cut_off(stage.fabric, name, _controllers(stage), others):
        yield name


@asynccontextmanager
async def cut_controllers(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """Cut a node off from the controllers. Its followers reach it still, too."""
    name = chance.choice(list(stage.cluster.nodes.values())).name
    with cut_off(stage.fabric, name, _controllers(stage)):
        yield name


def _controllers(stage: Stage) -> list[str]:
    return [each.name for each in stage.cluster.controllers.values()]


@contextmanager
def cut_off(
    fabric: Fabric, node: str, controllers: Sequence[str], others: Sequence[str] = ()
) -> Iterator[None]:
    """Cut a node off from all controllers, and from others.

    Raises:
        AssertionError: No heartbeat was kept back in seconds: they take another way.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for other in (*controllers, *others):
        fabric.cut(node, other)
        fabric.cut(other, node)
    try:
        yield
        idle = [each for each in controllers if not fabric.has_kept_back(node, each)]
        cut_s = loop.time() - began_s
        assert cut_s < _HEARTBEATS_S or not idle, (
            f"{node} was cut off for {cut_s:.1f} s, and nothing on its way to"
            f" {', '.join(idle)} was kept back: a cut that cuts nothing"
        )
    finally:
        fabric.heal()


@asynccontextmanager
async def slow_links(stage: Stage, chance: random.Random) -> AsyncIterator[str]:
    """Let everything to and from one server take its time."""
    name, delay_s = chance.choice(stage.servers).name, chance.choice(_SLOW_S)
    for other in (*(each.name for each in stage.servers), *stage.client_names):
        if other != name:
            stage.fabric.slow(name, other, delay_s)
            stage.fabric.slow(other, name, delay_s)
    try:
        yield f"{name}, {delay_s * 1000:g} ms each way"
    finally:
        stage.fabric.heal()

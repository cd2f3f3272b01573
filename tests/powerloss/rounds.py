"""Rounds of power cuts in a working cluster, all chosen by a seed."""

import random
from dataclasses import dataclass
from pathlib import Path

from odradek.client import Client
from tests.powerloss.cluster import PowerLossCluster
from tests.powerloss.work import Work


@dataclass(frozen=True, slots=True)
class RoundsReport:
    """What the rounds went through."""

    acknowledged: int
    cuts: int
    topics: int

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} records acknowledged, {self.topics} topics created, "
            f"{self.cuts} disks cut, nothing lost"
        )


async def run_rounds(
    directory: Path,
    *,
    rounds: int,
    seed: int,
    replication: int = 1,
    nodes: int = 3,
    controllers: int = 3,
) -> RoundsReport:
    """Run a cluster through power cuts under load.

    Args:
        directory: For everything; kept.
        rounds: How often power is lost.
        seed: Decides when, where, and what is left.
        replication: Of the topic that is written.
        nodes: How many.
        controllers: How many.

    Raises:
        AssertionError: Something promised is missing.
    """
    chance = random.Random(seed)
    async with (
        PowerLossCluster(directory, chance=chance, nodes=nodes, controllers=controllers) as cluster,
        Client(cluster.local.bootstrap) as client,
        Work(client, replication=replication) as work,
    ):
        for number in range(rounds):
            await work.more(chance.randint(30, 300))
            victims = choose_victims(list(cluster.processes), number, chance)
            await cluster.lose_power(victims)
            await cluster.start(victims)
            await work.more(30)
            await work.check()
        await work.check_all()
        return RoundsReport(len(work.acknowledged), cluster.cuts, len(work.topics))


def choose_victims(names: list[str], number: int, chance: random.Random) -> list[str]:
    """Choose who loses power: everybody in the first round, later also some."""
    nodes = [name for name in names if name.startswith("node")]
    controllers = [name for name in names if name.startswith("controller")]
    some = chance.sample(names, chance.randint(1, len(names)))
    choices = (names, names, nodes, controllers, some)
    return names if number == 0 else chance.choice(choices)

"""A short run of everything; and the proof that the harness would notice a loss.

`make chaos` runs longer, with every kind of fault.
"""

import asyncio
import random
import shutil
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos.anomalies import AnomalyKind
from tests.chaos.checker import check
from tests.chaos.faults import FaultKind, orders
from tests.chaos.history import read_history
from tests.chaos.run import RunOptions, recovered, run
from tests.chaos.stage import Stage, StageOptions
from tests.chaos.table import print_table

SEED = 3
DURATION_S = 60.0
SLOW = {FaultKind.ROLLING_RESTART}
"""Kinds that take a third of a minute; tests/cluster restarts servers one after the other, too."""


@pytest.mark.cluster
@pytest.mark.timeout(300)
async def test_a_minute_of_faults_breaks_no_promise(tmp_path: Path) -> None:
    kinds = tuple(kind for kind in FaultKind if kind not in SLOW)
    options = RunOptions(seed=SEED, duration_s=DURATION_S, kinds=kinds, patience=0.1)
    outcome = await run(options, tmp_path)
    print_table(outcome.windows, outcome.report)
    assert outcome.failures == ()
    assert outcome.report.anomalies == ()
    assert outcome.report.acknowledged > 0
    assert len(outcome.windows) > 3


@pytest.mark.cluster
@pytest.mark.timeout(180)
async def test_a_disk_that_goes_back_in_time_is_noticed(tmp_path: Path) -> None:
    async with Stage(
        StageOptions(nodes=1, controllers=1, replication=1, partitions=2), tmp_path
    ) as stage:
        await recovered(stage)
        node, data = stage.cluster.nodes[1], tmp_path / "node-1"
        await node.kill()
        await asyncio.to_thread(shutil.copytree, data, tmp_path / "older")
        await stage.cluster.start_node(1)
        await recovered(stage)
        await node.kill()
        await asyncio.to_thread(shutil.rmtree, data)
        (tmp_path / "older").rename(data)
        await stage.cluster.start_node(1)
        await recovered(stage)
        await stage.stop_producers()
        await stage.drain()
    report = check(read_history(stage.history_directory.glob("*.jsonl")))
    assert report.counts[AnomalyKind.LOST_WRITE] + report.counts[AnomalyKind.VANISHED] > 0


def test_a_seed_always_gives_the_same_orders() -> None:
    kinds = list(FaultKind)
    first, again, other = (
        list(islice(orders(random.Random(seed), kinds), 50)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert {order.kind for order in first} == set(kinds)

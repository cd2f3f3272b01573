"""A real cluster whose machines lose power under load: nothing it promised is missing."""

from pathlib import Path

import pytest

from tests.powerloss.rounds import run_rounds

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("replication", [1, 3])
async def test_a_cluster_keeps_its_promises_through_power_cuts(
    tmp_path: Path, replication: int
) -> None:
    report = await run_rounds(tmp_path, rounds=3, seed=1, replication=replication)
    assert report.cuts >= 6

"""A real cluster whose machines lose power under load: nothing it promised is missing."""

from pathlib import Path

import pytest

from tests.powerloss.rounds import run_rounds

pytestmark = pytest.mark.cluster


async def test_a_cluster_keeps_its_promises_through_power_cuts(tmp_path: Path) -> None:
    report = await run_rounds(tmp_path, rounds=3, seed=1)
    assert report.cuts >= 6

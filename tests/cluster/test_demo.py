"""`make demo`, as its reader sees it."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

# The active controller dies with the node.
FAILOVER_MS_MAX = 3000
HANDED_OVER_S_MAX = 10.0
DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


async def test_the_demo_loses_nothing_and_says_so() -> None:
    demo = await asyncio.create_subprocess_exec(
        sys.executable, str(DEMO), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await asyncio.wait_for(demo.communicate(), 90)
    assert demo.returncode == 0, printed.decode()
    last = re.fullmatch(
        r"demo: produced=57960 live-map=57960 daily-report=57960 lost=0 out_of_order=0"
        r" duplicates=(\d+) seconds=(\d+) failover_ms=(\d+)",
        printed.decode().splitlines()[-1],
    )
    assert last is not None, printed.decode()
    assert int(last[2]) < 60
    assert int(last[3]) < FAILOVER_MS_MAX
    unwrapped = " ".join(printed.decode().split())
    handed_over = re.search(r"live-map-2 are read by others after ([0-9.]+) s", unwrapped)
    assert handed_over is not None, printed.decode()
    assert float(handed_over[1]) <= HANDED_OVER_S_MAX

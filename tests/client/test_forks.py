"""Connections do not survive a fork: a child that uses its parent's client is told so."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_forked_child_is_told_and_the_parent_goes_on() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "tests.client.forking"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stdout.splitlines() == [
        "blocking send: ForkedProcessError 0",
        "blocking admin: ForkedProcessError 0",
        "parent: 1",
        "asyncio send: ForkedProcessError 0",
        "asyncio admin: ForkedProcessError 0",
        "asyncio enter: ForkedProcessError 0",
        "parent: 3",
    ], finished.stderr

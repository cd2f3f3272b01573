"""How a server program ends."""

import subprocess
import sys

import pytest

from odradek.program.ending import EXIT_FAILED

PROGRAM = """
import asyncio
from odradek.program.ending import run_to_the_end

def callback():
    raise {error}

async def main():
    asyncio.get_running_loop().call_soon(callback)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return 7

run_to_the_end(main())
"""


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [("AssertionError('broken')", EXIT_FAILED), ("OSError('a peer went away')", 7)],
    ids=["a broken invariant", "anything else"],
)
def test_a_broken_invariant_in_a_callback_ends_the_process(error: str, exit_code: int) -> None:
    program = [sys.executable, "-c", PROGRAM.format(error=error)]
    ended = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == exit_code
    assert "callback" in ended.stdout + ended.stderr

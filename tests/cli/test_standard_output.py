"""What commands do when nobody reads their result, or nobody can."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import pytest

from odradek.client.cli.exits import ExitCode
from tests.client.consumer_world import world

ODRADEK = [sys.executable, "-m", "odradek.client.cli.main"]

every_command = pytest.mark.parametrize(
    "command", ["topics list", "topics list --json", "cluster status", "consume t --max 9"]
)


@pytest.fixture
async def bootstrap() -> AsyncIterator[str]:
    """A cluster with something to show."""
    async with world() as w:
        await w.topic("t", records=10)
        yield w.cluster.bootstrap


async def run(command: str, bootstrap: str, redirection: str, stdout: int) -> tuple[int, str]:
    """Return a command's status and what it says."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$@" {redirection}', "sh", *ODRADEK, *command.split()),
        env={**os.environ, "ODRADEK_BOOTSTRAP": bootstrap},
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, said.decode()


@every_command
async def test_a_reader_that_has_gone_is_no_failure(command: str, bootstrap: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert await run(command, bootstrap, "", writing) == (ExitCode.OK, "")
    os.close(writing)


@every_command
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">/dev/full", "No space left on device"), (">&-", "it is closed")],
    ids=["full", "closed"],
)
async def test_an_output_that_takes_nothing_is_told(
    command: str, redirection: str, reason: str, bootstrap: str
) -> None:
    status, said = await run(command, bootstrap, redirection, asyncio.subprocess.DEVNULL)
    assert status == ExitCode.FAILURE
    assert said == f"error: cannot write to standard output: {reason}\n"


@pytest.mark.parametrize("command", ["--help", "--version", "topics --help", "topics list --help"])
async def test_help_on_a_full_disk_is_told(command: str) -> None:
    status, said = await run(command, "", ">/dev/full", asyncio.subprocess.DEVNULL)
    assert status == ExitCode.FAILURE
    assert said == "error: cannot write to standard output: No space left on device\n"

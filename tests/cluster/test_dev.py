"""`odradek dev` as a person uses it: start it, dial what it prints, end it with Ctrl-C."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from odradek.client import Client, RecordMetadata
from tests.cluster.shell import COMMAND
from tests.cluster.traffic import DEADLINE_S

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


@dataclass(frozen=True)
class Dev:
    """A running `odradek dev` of one controller and one node.

    Attributes:
        printed: Its welcome: what it says after `bootstrap` and after `data`.
    """

    process: asyncio.subprocess.Process
    printed: dict[str, str]

    async def end(self, signal_number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(signal_number)
        return await asyncio.wait_for(self.process.wait(), DEADLINE_S)


@asynccontextmanager
async def dev(*arguments: str, temporary: Path) -> AsyncIterator[Dev]:
    """Start it, and read what it prints until it says how to stop it."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "dev", "--nodes", "1", "--controllers", "1", "--port", "0", *arguments),
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        printed = {}
        async with asyncio.timeout(DEADLINE_S):
            async for line in process.stdout:
                name, _, value = line.decode().strip(" │\n").partition("  ")
                if name.startswith("Ctrl-C stops"):
                    break
                printed[name] = value.strip()
        yield Dev(process, printed)
    finally:
        if process.returncode is None:
            process.kill()  # the kernel ends what it started
            await process.wait()


def processes_of(directory: Path) -> list[str]:
    """The command lines of all processes that name the directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if str(directory) in command:
            found.append(command)
    return found


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


async def send(bootstrap: str, value: bytes) -> RecordMetadata:
    async with Client(bootstrap) as client:
        await client.admin.create_topic("t", partitions=1)
        async with client.producer() as producer:
            return await producer.send("t", value)


async def first(bootstrap: str) -> bytes | None:
    """The first record of the topic."""
    async with asyncio.timeout(DEADLINE_S), Client(bootstrap) as client, client.consumer("t") as it:
        record = await anext(it)
        return record.value


async def test_ctrl_c_ends_all_it_started_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with dev(temporary=tmp_path) as running:
        data = Path(running.printed["data"].removesuffix(" (removed at the end)"))
        assert data.parent == tmp_path
        assert len(processes_of(data)) == 2, "a controller and a node"
        assert (await send(running.printed["bootstrap"], b"hello")).offset == 0
        assert await first(running.printed["bootstrap"]) == b"hello"
        assert await running.end(signal.SIGINT) == 0
    assert processes_of(data) == []
    assert names_in(tmp_path) == []


async def test_data_that_is_given_a_place_is_there_after_a_restart(tmp_path: Path) -> None:
    kept, temporary = tmp_path / "kept", tmp_path / "temporary"
    temporary.mkdir()
    async with dev("--data", str(kept), temporary=temporary) as running:
        assert running.printed["data"] == str(kept)
        await send(running.printed["bootstrap"], b"kept")
        assert await running.end(signal.SIGINT) == 0
    assert processes_of(kept) == []
    async with dev("--data", str(kept), temporary=temporary) as running:
        assert await first(running.printed["bootstrap"]) == b"kept"
        assert await running.end(signal.SIGTERM) == 0
    assert processes_of(kept) == []
    assert names_in(temporary) == []

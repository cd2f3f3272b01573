import asyncio
import os
import sys
from pathlib import Path

import pytest

from bench.peers.server import ServerAbsentError, completed, find, held_port, running
from odradek.client.local.process import LocalProcessError

LISTENER = """
import os, pathlib, socket, sys
pathlib.Path(sys.argv[2]).write_text(f"{os.getpid()} {os.environ['MOOD']}")
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_server_runs_while_its_block_does_and_gets_its_environment(tmp_path: Path) -> None:
    with held_port() as port:
        command = (sys.executable, "-c", LISTENER, str(port), str(tmp_path / "note"))
        async with running(
            "listener", *command, port=port, directory=tmp_path, environment={"MOOD": "calm"}
        ):
            pid, mood = (tmp_path / "note").read_text().split()
            assert is_alive(int(pid))
            assert mood == "calm"
    assert not is_alive(int(pid))


async def test_a_server_ends_when_the_task_that_uses_it_is_cancelled(tmp_path: Path) -> None:
    used = asyncio.Event()

    async def use(port: int) -> None:
        command = (sys.executable, "-c", LISTENER, str(port), str(tmp_path / "note"))
        async with running(
            "listener", *command, port=port, directory=tmp_path, environment={"MOOD": "-"}
        ):
            used.set()
            await asyncio.Event().wait()

    with held_port() as port:
        task = asyncio.create_task(use(port))
        await used.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not is_alive(int((tmp_path / "note").read_text().split()[0]))


async def test_a_server_that_ends_instead_of_listening_is_told_with_its_log(tmp_path: Path) -> None:
    program = "import sys; sys.exit('no such option')"
    with held_port() as port, pytest.raises(LocalProcessError, match="no such option"):
        async with running("broken", sys.executable, "-c", program, port=port, directory=tmp_path):
            pass


async def test_a_tool_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    await completed("good", sys.executable, "-c", "", directory=tmp_path)
    program = "import sys; sys.exit('disk is odd')"
    with pytest.raises(LocalProcessError, match="disk is odd"):
        await completed("bad", sys.executable, "-c", program, directory=tmp_path)


def test_a_program_is_taken_from_its_place_before_the_path(tmp_path: Path) -> None:
    (tmp_path / "sh").touch()
    assert find("sh", tmp_path, how="-") == str(tmp_path / "sh")
    assert find("sh", tmp_path / "nowhere", how="-") != str(tmp_path / "sh")
    with pytest.raises(ServerAbsentError, match="no-such-server is not installed: ask for it"):
        find("no-such-server", tmp_path, how="ask for it")

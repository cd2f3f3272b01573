"""Child processes: ready means serving, and none outlives its parent."""

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from odradek.client.local.process import LocalProcess, LocalProcessError

READY_S = 20.0


@pytest.fixture
def address() -> Iterator[str]:
    """An address that is held, as LocalCluster holds it, and can be listened on."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def program(address: str, directory: Path, *arguments: str) -> LocalProcess:
    return LocalProcess(
        "program 1",
        module="tests.client.serving_program",
        arguments=["--listen", address, *arguments],
        address=address,
        log_path=directory / "logs" / "program.log",
    )


async def test_it_starts_serves_stops_and_starts_again(address: str, tmp_path: Path) -> None:
    process = program(address, tmp_path)
    for _ in range(2):
        await process.start()
        await process.ready(timeout_s=READY_S)
        assert process.is_running
        with pytest.raises(LocalProcessError, match="running already"):
            await process.start()
        assert await process.stop() == 0
        assert not process.is_running
        assert not process.crashed
    assert process.log_path.read_text() == "stopped cleanly\n" * 2


async def test_a_paused_process_can_be_resumed_and_stopped(address: str, tmp_path: Path) -> None:
    process = program(address, tmp_path)
    await process.start()
    await process.ready(timeout_s=READY_S)
    process.pause()
    assert process.is_running
    assert await process.stop() == 0


async def test_kill_is_not_asked_twice(address: str, tmp_path: Path) -> None:
    process = program(address, tmp_path)
    await process.start()
    assert await process.kill() == -signal.SIGKILL
    with pytest.raises(LocalProcessError, match="program 1 is not running"):
        await process.kill()


async def test_a_process_that_ends_shows_the_end_of_its_log(address: str, tmp_path: Path) -> None:
    process = program(address, tmp_path, "--fail", "the disk is on fire")
    await process.start()
    with pytest.raises(LocalProcessError, match=r"(?s)exit status 1.*the disk is on fire"):
        await process.ready(timeout_s=READY_S)
    assert process.crashed


async def test_a_process_that_never_serves_is_not_waited_for(address: str, tmp_path: Path) -> None:
    process = program(address, tmp_path, "--never-ready", "yes")
    await process.start()
    with pytest.raises(LocalProcessError, match=r"was not ready within 0\.5 s"):
        await process.ready(timeout_s=0.5)
    await process.kill()


def test_children_die_with_a_killed_parent(address: str, tmp_path: Path) -> None:
    parent = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from tests.client.test_local_process import program
        async def main():
            process = program({address!r}, Path({str(tmp_path)!r}))
            await process.start()
            await process.ready(timeout_s={READY_S})
            print(process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    ended = subprocess.run(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    child = os.pidfd_open(int(ended.stdout)) if Path(f"/proc/{int(ended.stdout)}").exists() else -1
    if child >= 0:  # it may be on its way: the descriptor becomes readable when it has ended
        assert select.select([child], [], [], 10)[0], "the child lives on"
        os.close(child)

"""Servers that are not ours, as child processes: found, started, awaited, ended by their pid.

Invariants: a port is held for as long as its server may want it; leaving `running` has ended the
process. Should this process die first, the kernel ends them (see `LocalProcess`).
"""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType

from odradek.client.local.process import LocalProcess, LocalProcessError
from odradek.protocol.errors import OdradekError

HOST = "127.0.0.1"
INSTALLED = Path(__file__).parents[2] / ".venv-peers" / "servers"
_READY_TIMEOUT_S = 60.0
_POLL_INTERVAL_S = 0.05


class ServerAbsentError(OdradekError):
    """A server cannot be started here; the message says how to install it."""


def find(program: str, *places: Path, how: str) -> str:
    """Return the path of a program, from one of the places or from PATH.

    Raises:
        ServerAbsentError: It is nowhere; says `how` to get it.
    """
    for place in places:
        if (place / program).exists():
            return str(place / program)
    if (found := shutil.which(program)) is None:
        raise ServerAbsentError(f"{program} is not installed: {how}")
    return found


@contextmanager
def held_port() -> Iterator[int]:
    """Keep a port, chosen by the system, for a server that will name it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, 0))
        yield held.getsockname()[1]


@asynccontextmanager
async def running(
    name: str,
    *command: str,
    port: int,
    directory: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[None]:
    """Run a program until the block is left; enter it once the program accepts connections.

    Raises:
        LocalProcessError: It ended, or did not listen in time; holds the tail of its log.
    """
    async with _started(name, command, directory, environment) as process:
        await _accepting(process, port)
        yield


async def completed(name: str, *command: str, directory: Path) -> None:
    """Run a program to its end.

    Raises:
        LocalProcessError: It failed; holds the tail of its log.
    """
    async with _started(name, command, directory, {}) as process:
        if status := await process.wait():
            raise LocalProcessError(f"{name} failed with {status}. {process.log_tail()}")


@asynccontextmanager
async def _started(
    name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[LocalProcess]:
    process = LocalProcess(
        name,
        module="bench.peers.become",
        arguments=["env", *(f"{key}={value}" for key, value in environment.items()), *command],
        address=HOST,
        log_path=directory / f"{name}.log",
    )
    await process.start()
    try:
        yield process
    finally:
        if process.is_running:
            await process.kill()  # its data is removed: nothing to finish


async def _accepting(process: LocalProcess, port: int) -> None:
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            while process.is_running:
                try:
                    _, writer = await asyncio.open_connection(HOST, port)
                except ConnectionRefusedError:
                    await asyncio.sleep(_POLL_INTERVAL_S)
                else:
                    writer.close()
                    return
    except TimeoutError:
        pass  # said below, with its log
    raise LocalProcessError(f"{process.name} does not listen. {process.log_tail()}")

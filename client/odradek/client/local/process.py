"""One controller or node as a child process: started, watched until ready, ended by its pid.

Problem: `odradek dev`, the pytest fixture and the cluster tests run real processes, and a process
forgotten after a crash of its parent holds ports and disk for ever. Idea: a two-line launcher asks
the kernel to kill the program when its parent dies, then becomes the program (same pid).

Invariants: every process started here is waited for; nothing is ended by name; the child leads a
session of its own, so that Ctrl-C in a terminal reaches the parent alone, which then stops its
children in order.

Source: prctl(2), PR_SET_PDEATHSIG; grpc.health.v1.
"""

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import grpc

from odradek.protocol.errors import OdradekError
from odradek.rpc.channels import open_channel

# A launcher instead of `preexec_fn`: running Python between fork and exec is unsafe once there are
# threads. The second line covers a parent that died before the first took effect.
_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
os.getppid() == int(sys.argv[1]) or sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

_HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
_HEALTH_SERVING = b"\x08\x01"  # HealthCheckResponse(status=SERVING)
_POLL_INTERVAL_S = 0.05
_LOG_TAIL_LINES = 25


class LocalProcessError(OdradekError):
    """A local process ended, or did not become ready; the message holds the tail of its log."""


class LocalProcess:
    """A program of the cluster on loopback.

    Attributes:
        name: Such as `node 1`; used in messages.
        address: `127.0.0.1:port`, where it serves.
        log_path: Where its output goes, all runs one after the other.
    """

    def __init__(
        self, name: str, *, module: str, arguments: Sequence[str], address: str, log_path: Path
    ) -> None:
        self.name = name
        self.address = address
        self.log_path = log_path
        self._command = (sys.executable, "-m", module, *arguments)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is alive, paused or not."""
        return self._process is not None and self._process.returncode is None

    @property
    def crashed(self) -> bool:
        """Whether the process ended without having been asked to here."""
        return self._process is not None and self._process.returncode is not None

    @property
    def pid(self) -> int:
        """The pid of the running process.

        Raises:
            LocalProcessError: It is not running.
        """
        return self._running().pid

    async def start(self, *extra_arguments: str) -> None:
        """Start the program without waiting until it serves.

        Args:
            extra_arguments: Flags for this run only.

        Raises:
            LocalProcessError: It is running already.
        """
        if self.is_running:
            raise LocalProcessError(f"{self.name} is running already")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        launcher = (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()))
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *launcher,
                *self._command,
                *extra_arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ready(self, *, timeout_s: float) -> None:
        """Return once the process reports SERVING through gRPC health.

        Raises:
            LocalProcessError: It ended, or was not ready in time; holds the tail of its log.
        """
        serving = asyncio.ensure_future(_serving(self.address))
        ended = asyncio.ensure_future(self._running().wait())
        try:
            await asyncio.wait(
                {serving, ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if ended.done():
                raise LocalProcessError(
                    f"{self.name} ended with exit status {ended.result()}. {self.log_tail()}"
                )
            if not serving.done():
                raise LocalProcessError(
                    f"{self.name} was not ready within {timeout_s:g} s. {self.log_tail()}"
                )
            await serving
        finally:
            serving.cancel()
            ended.cancel()
            await asyncio.gather(serving, ended, return_exceptions=True)

    async def stop(self, *, timeout_s: float = 15.0) -> int:
        """Ask the process to end (SIGTERM), insist after `timeout_s`; return its exit status."""
        process = self._running()
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            status = await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            return await self.kill()
        self._process = None
        return status

    async def kill(self) -> int:
        """Kill the process (SIGKILL) and return its exit status once it is gone."""
        process = self._running()
        process.kill()
        status = await process.wait()
        self._process = None
        return status

    async def wait(self) -> int:
        """Return the exit status once the process has ended."""
        return await self._running().wait()

    def pause(self) -> None:
        """Stop the process where it is (SIGSTOP): it is alive and silent."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._running().send_signal(signal.SIGCONT)

    def log_tail(self) -> str:
        """Return the last lines it wrote, with the path of the whole."""
        with self.log_path.open(errors="replace") as log:
            tail = "".join(deque(log, _LOG_TAIL_LINES)).strip()
        return f"The end of its log, {self.log_path}:\n{tail or '(empty)'}"

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            raise LocalProcessError(f"{self.name} is not running")
        return self._process


async def _serving(address: str) -> None:
    """Return once the server at `address` reports SERVING."""
    while True:
        try:
            async with open_channel(address) as channel:
                watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                    _HEALTH_WATCH
                )
                async for status in watch(b""):
                    if status == _HEALTH_SERVING:
                        return
        except grpc.aio.AioRpcError:
            pass  # not listening yet, or stopping: ask again until the caller's deadline
        await asyncio.sleep(_POLL_INTERVAL_S)

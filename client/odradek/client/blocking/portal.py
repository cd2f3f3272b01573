"""One event loop in one thread, and how other threads have it do things.

A hop costs some 50 microseconds and two thread switches, so the faces built on this hop once per
batch or slice, never per record.

Invariant: no call enters the loop once it was told to stop; those inside are cancelled by then, and
none is left when it closes.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, ParamSpec, TypeVar

from odradek.client.errors import ClientClosedError, ForkedProcessError

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE_S: Final = 1.0  # between two looks at whether the loop's thread still lives


class Portal:
    """The thread of one blocking client; a daemon, so that it never keeps a program alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process_id = os.getpid()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._door = threading.Lock()

    def start(self) -> None:
        """Start the thread; return once its loop runs."""
        assert self._thread is None, "started once"
        running = threading.Event()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._main(running),), name=self._name, daemon=True
        )
        self._thread.start()
        running.wait()

    async def _main(self, running: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        running.set()
        await self._stopping.wait()

    def stop(self) -> None:
        """End the loop and its thread."""
        with self._door:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    @property
    def is_running(self) -> bool:
        """True while the loop's thread lives."""
        return self._thread is not None and self._thread.is_alive()

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the loop and return its result; Ctrl-C cancels it.

        Raises:
            ClientClosedError, ForkedProcessError: There is no loop to run it.
            RuntimeError: Called from the loop itself (a rebalance callback), which would wait for
                itself for ever.
        """
        try:
            loop = self._checked_loop()
        except BaseException:
            work.close()
            raise
        try:
            with self._door:
                if self._loop is not loop:
                    raise _closed_meanwhile()
                future = asyncio.run_coroutine_threadsafe(work, loop)
        except (ClientClosedError, RuntimeError):  # told to stop, or ended, since
            work.close()
            raise _closed_meanwhile() from None
        try:
            return self._outcome(future)
        except BaseException:
            future.cancel()
            raise

    def _outcome(self, future: Future[R]) -> R:
        """Wait as long as there is somebody who could answer."""
        while True:
            try:
                return future.result(_PATIENCE_S)
            except CancelledError:
                raise _closed_meanwhile() from None
            except TimeoutError:
                if future.done():
                    return future.result()
                if not self.is_running:
                    raise _closed_meanwhile() from None

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a function in the loop's thread; from that thread itself, at once."""
        if threading.current_thread() is self._thread:
            return function(*args, **kwargs)

        async def run() -> R:
            return function(*args, **kwargs)

        return self.call(run())

    def face(self, method: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
        """Return a coroutine method as a blocking function of the same signature."""

        @functools.wraps(method)
        def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.call(method(*args, **kwargs))

        return blocking

    def plain(self, method: Callable[P, R]) -> Callable[P, R]:
        """Return a method that does not await as one that runs in the loop's thread."""

        @functools.wraps(method)
        def hopping(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.run(method, *args, **kwargs)

        return hopping

    def _checked_loop(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._process_id:
            raise ForkedProcessError(
                f"the client was made in process {self._process_id}, this is a child of it; make"
                " clients after the fork"
            )
        if self._loop is None:
            state = "closed" if self._thread is not None else "not open: use `with Client(...)`"
            raise ClientClosedError(f"the client is {state}")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback in the client's own thread cannot wait for it")
        return self._loop


def _closed_meanwhile() -> ClientClosedError:
    return ClientClosedError("the client was closed by another thread; the outcome is unknown")

"""The few threads that wait for the disk.

Problem: a cold read, a compaction or a reopening takes milliseconds to seconds and must not happen
on the loop; unbounded threads would let cold readers starve everything. Idea: a fixed number of
threads, one permit each, handed out in order; who needs the store alone takes every permit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

_T = TypeVar("_T")


class Blocking:
    """Runs functions in threads.

    Args:
        thread_count: How many at once; further calls wait their turn.
    """

    def __init__(self, thread_count: int) -> None:
        self._thread_count = thread_count
        self._executor = ThreadPoolExecutor(thread_count, thread_name_prefix="storage")
        self._permits = asyncio.Semaphore(thread_count)

    async def run(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Return what a function returns that may wait for the disk."""
        async with self._permits:
            return await self._in_thread(function, *arguments)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Callable[[Callable[[], None]], Awaitable[None]]]:
        """Keep every other call waiting; lends a function that runs one in a thread."""
        taken = 0
        try:
            for _ in range(self._thread_count):
                await self._permits.acquire()
                taken += 1
            yield self._in_thread
        finally:
            for _ in range(taken):
                self._permits.release()

    def close(self) -> None:
        """End the threads, once they are idle."""
        self._executor.shutdown(wait=True)

    def _in_thread(self, function: Callable[..., _T], *arguments: object) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

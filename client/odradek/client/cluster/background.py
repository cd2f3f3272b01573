"""A task group that may be entered in one task and left in another.

Problem: `asyncio.TaskGroup` belongs to the task that entered it, and cancels that one when a child
fails; a client is often opened in a test fixture or a framework's start-up hook and closed
elsewhere. Idea: one task of our own holds the group; children are spawned into it.

Invariants: `close` returns only when no child is left; a child's failure ends its siblings and is
raised by `check` and `close`, so it is never lost.

`close` asks again: a child's own `TaskGroup` forgets that it was cancelled when one of its tasks
fails in the same moment (Python 3.11), as streams do that break while a consumer closes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

_ASK_AGAIN_S: Final = 0.5


class Background:
    """Owns the tasks of a client, producer or consumer.

    Args:
        name: Of the holding task; children are named below it.
        on_failure: Called once when a child failed, so that nobody waits for its work for ever.
    """

    def __init__(
        self, name: str, *, on_failure: Callable[[BaseException], None] | None = None
    ) -> None:
        self._name = name
        self._on_failure = on_failure
        self._holder: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Open the group."""
        assert self._holder is None, "started once"
        ready = asyncio.Event()
        self._holder = asyncio.create_task(self._hold(ready), name=self._name)
        self._holder.add_done_callback(self._on_ended)
        try:
            await ready.wait()
        except asyncio.CancelledError:
            self._holder.cancel()  # nobody will close what was never started
            raise

    async def _hold(self, ready: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            ready.set()
            await self._closing.wait()
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks.copy(), timeout=_ASK_AGAIN_S)

    def _on_ended(self, holder: asyncio.Task[None]) -> None:
        if self._closing.is_set() or holder.cancelled():
            return
        error = holder.exception()
        if error is not None and self._on_failure is not None:
            self._on_failure(error)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run work until it ends or the group is closed."""
        assert self._group is not None, "started"
        task = self._group.create_task(work, name=f"{self._name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._on_failure is not None and not task.cancelled():
            error = task.exception()
            if error is not None:
                self._on_failure(error)

    def check(self) -> None:
        """Raise what made a task fail, if one did."""
        if self._holder is not None and self._holder.done() and not self._closing.is_set():
            self._holder.result()

    async def close(self) -> None:
        """Cancel every task and wait for all of them; raise what made one fail, if one did."""
        if self._holder is None:
            return
        self._closing.set()
        await self._holder

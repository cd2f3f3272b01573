"""What is said on a stream as soon as there is something to say.

Problem: a task that waits for an event takes a future, a wake-up and a step for each message, as
much as the message itself. Idea: whoever has something says so, and the messages are made and sent
in the loop's next pass, for all who said so in this one. The task sleeps unless the peer is slow.

Invariants: the next message is asked for only when the one before has left, or may as well have.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


class Speaker(Protocol[M_contra]):
    """Our end of a stream."""

    def offer(self, message: M_contra, *, at_once: bool = False) -> bool:
        """Send a message; False: offer no other until `drained`."""

    async def drained(self) -> None:
        """Wait until all that was offered has left, or nobody is there any more."""


class Outlet(Generic[M]):
    """One stream's.

    Args:
        end: Of the stream.
        next_message: Returns what to send, None when there is nothing.
        at_once: Each message leaves by itself, and not with all else of its connection.
    """

    def __init__(
        self, end: Speaker[M], next_message: Callable[[], M | None], *, at_once: bool = False
    ) -> None:
        self._end = end
        self._next_message = next_message
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        self._is_due = self._is_closed = False
        self._stopped: asyncio.Future[None] | None = None
        """Done while nothing may be sent."""

    def wake(self) -> None:
        """There is something to send: in the next pass."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.write)

    def close(self) -> None:
        """Send no more: `run` returns once what was sent has left."""
        self._is_closed = True
        self._stop()

    async def run(self) -> None:
        """Send until closed or cancelled.

        Raises:
            Exception: What making a message, or sending it, raised.
        """
        while not self._is_closed:
            self._stopped = self._loop.create_future()
            self.write()
            await self._stopped
            await self._end.drained()

    def write(self) -> None:
        """Send what there is now."""
        self._is_due = False
        stopped = self._stopped
        if stopped is None or stopped.done():
            return
        try:
            while (message := self._next_message()) is not None:
                if not self._end.offer(message, at_once=self._at_once):
                    self._stop()
                    return
        except Exception as error:  # noqa: BLE001 it is raised to who runs this
            if not stopped.done():
                stopped.set_exception(error)

    def _stop(self) -> None:
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

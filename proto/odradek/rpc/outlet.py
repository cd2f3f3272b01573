"""What is said on a stream as soon as there is something to say.

Problem: a task that waits for an event takes a future, a wake-up and a step for each message, as
much as the message itself. Idea: whoever has something says so, and the messages are made and sent
in the loop's next pass, for all who said so in this one. The task sleeps unless the peer is slow.
Until then the connection holds back what is small: a write costs both ends more than what it
carries.

Invariants: the next message is asked for only when the one before has left, or may as well have; a
connection is let go as often as it is held; a pass sends a bounded number of messages.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

_PASS_MAX: Final = 256

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


class Speaker(Protocol[M_contra]):
    """Our end of a stream."""

    def hold(self) -> None:
        """Something is to be sent in a moment: let it go along."""

    def let_go(self) -> None:
        """It was sent."""

    def offer(self, message: M_contra) -> bool:
        """Send a message; False: offer no other until `drained`."""

    async def drained(self) -> None:
        """Wait until all that was offered has left, or nobody is there any more."""


class Outlet(Generic[M]):
    """One stream's.

    Args:
        end: Of the stream.
        next_message: Returns what to send, None when there is nothing.
    """

    def __init__(self, end: Speaker[M], next_message: Callable[[], M | None]) -> None:
        self._end = end
        self._next_message = next_message
        self._loop = asyncio.get_running_loop()
        self._is_due = self._is_closed = False
        self._stopped: asyncio.Future[None] | None = None
        """Done while nothing may be sent."""

    def wake(self) -> None:
        """There is something to send: in the next pass."""
        if not self._is_due:
            self._is_due = True
            self._end.hold()
            self._loop.call_soon(self._on_turn)

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
            self._write()
            await self._stopped
            await self._end.drained()

    def _on_turn(self) -> None:
        self._is_due = False
        self._write()
        self._end.let_go()

    def _write(self) -> None:
        stopped = self._stopped
        if stopped is None or stopped.done():
            return
        try:
            for _ in range(_PASS_MAX):
                message = self._next_message()
                if message is None:
                    return
                if not self._end.offer(message):
                    self._stop()
                    return
            self.wake()  # for the rest: others want a turn, too
        except Exception as error:  # noqa: BLE001 it is raised to who runs this
            if not stopped.done():
                stopped.set_exception(error)

    def _stop(self) -> None:
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)

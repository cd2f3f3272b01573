"""Back-pressure: who finds the buffer full waits in line.

Invariants: first come, first served, newcomers included; whoever leaves the line, served, cancelled
or timed out, lets the next one look.
"""

import asyncio
from collections import deque

from odradek.client.errors import BufferFullError
from odradek.client.producing.ledger import Ledger


class Room:
    """One producer's.

    Attributes:
        line: Who waits, the first come first.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.line: deque[asyncio.Future[None]] = deque()

    @property
    def is_free(self) -> bool:
        """True when a record may be appended now, without overtaking anybody."""
        return self._ledger.has_room and not self.line

    async def enter(self, *, timeout_s: float) -> None:
        """Wait for one's turn; the caller appends before its next `await`, then calls `look`.

        Raises:
            BufferFullError: No room within the time-out.
        """
        turn = asyncio.get_running_loop().create_future()
        self.line.append(turn)
        self._ledger.quick_until_bytes = 0  # nobody is overtaken
        served = False
        try:
            async with asyncio.timeout(timeout_s):
                await turn
            served = True
        except TimeoutError:
            raise BufferFullError(
                f"{self._ledger.used_bytes} bytes wait for acknowledgement and none got it for"
                f" {timeout_s:g} s; nothing was sent",
                field="buffer_bytes",
                value=self._ledger.used_bytes,
                limit=self._ledger.limit_bytes,
            ) from None
        finally:
            self.line.remove(turn)
            if not served:
                self.on_turn()

    def on_turn(self) -> None:
        """The loop has had its turn, and there may be room."""
        if self.line:
            self.look()
        else:
            self._ledger.breathe()

    def look(self) -> None:
        """Serve the first in line if there is room."""
        if self.line and self._ledger.has_room and not self.line[0].done():
            self.line[0].set_result(None)

    def dismiss(self) -> None:
        """Wake everybody: the producer closes, and refuses them."""
        for turn in self.line:
            if not turn.done():
                turn.set_result(None)

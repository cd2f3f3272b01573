"""Requests that know more than this node, until the next images have come.

Idea: a round tries all of them, some in each turn of the loop. Until a round that an image began
has ended, nothing else may be appended: it would overtake what waits longer.

Invariants: they keep their order, are bounded in bytes, and none is kept beyond its deadline by
more than a round.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from odradek.protocol.names import begin_request

PARKED_BYTES_MAX: Final = 16 << 20
PARKED_S_MAX: Final = 2.0
_TURN_MAX: Final = 256
"""So many are tried in a turn of the loop: a few milliseconds, when all of them are given up."""


@dataclass(frozen=True, slots=True)
class _Parked:
    deadline_s: float
    size_bytes: int
    retry: Callable[[], bool]
    """Tries again; False while it must stay parked."""
    give_up: Callable[[], None]


class ParkedRequests:
    """Those of one node.

    Args:
        on_tried: Called after each turn that tried some.
    """

    def __init__(self, on_tried: Callable[[], None] = lambda: None) -> None:
        self._on_tried = on_tried
        self._kept: deque[_Parked] = deque()
        """Tried in this round; they come before those that wait."""
        self._waiting: deque[_Parked] = deque()
        self._parked_bytes = 0
        self._is_trying = False
        self._caught_up = asyncio.Event()
        self._caught_up.set()

    def __len__(self) -> int:
        return len(self._kept) + len(self._waiting)

    @property
    def is_behind(self) -> bool:
        """Whether some were not tried since the last image."""
        return not self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Wait until nothing `is_behind`."""
        await self._caught_up.wait()

    def park(
        self,
        size_bytes: int,
        deadline_s: float,
        retry: Callable[[], bool],
        give_up: Callable[[], None],
    ) -> bool:
        """Keep a request.

        Returns:
            False when there is no room: answer it now.
        """
        if self._parked_bytes + size_bytes > PARKED_BYTES_MAX:
            return False
        deadline_s = min(deadline_s, time.monotonic() + PARKED_S_MAX)
        self._waiting.append(_Parked(deadline_s, size_bytes, retry, give_up))
        self._parked_bytes += size_bytes
        return True

    def retry(self) -> None:
        """An image came: try them all, from the first; give up those whose time has come."""
        if self:
            self._caught_up.clear()
            self._begin_round()

    def tick(self) -> None:
        """Give up those whose time has come. Without a new image there is nothing to try."""
        if self and not self._is_trying:
            self._begin_round()

    def _begin_round(self) -> None:
        self._kept += self._waiting
        self._kept, self._waiting = deque(), self._kept
        if not self._is_trying:
            begin_request()
            self._try_some()

    def _try_some(self) -> None:
        now_s = time.monotonic()
        try:
            for _ in range(min(len(self._waiting), _TURN_MAX)):
                self._try(self._waiting.popleft(), now_s)
        finally:
            self._is_trying = bool(self._waiting)
            if self._is_trying:
                asyncio.get_running_loop().call_soon(self._try_some)
            else:
                self._caught_up.set()
        self._on_tried()

    def _try(self, parked: _Parked, now_s: float) -> None:
        if not (self.is_behind and parked.retry()):
            if parked.deadline_s > now_s:
                self._kept.append(parked)
                return
            parked.give_up()
        self._parked_bytes -= parked.size_bytes

"""Requests that know more than this node, until the next images have come.

Invariants: they keep their order, are bounded in bytes, and none is kept beyond its deadline.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from odradek.protocol.names import begin_request

PARKED_BYTES_MAX: Final = 16 << 20
PARKED_S_MAX: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Parked:
    deadline_s: float
    size_bytes: int
    retry: Callable[[], bool]
    """Tries again; False while it must stay parked."""
    give_up: Callable[[], None]


class ParkedRequests:
    """Those of one node."""

    def __init__(self) -> None:
        self._parked: deque[_Parked] = deque()
        self._parked_bytes = 0

    def __len__(self) -> int:
        return len(self._parked)

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
        self._parked.append(_Parked(deadline_s, size_bytes, retry, give_up))
        self._parked_bytes += size_bytes
        return True

    def retry(self) -> None:
        """Try them all again; give up those whose time has come."""
        begin_request()
        waiting, self._parked = self._parked, deque()
        self._parked_bytes = 0
        now_s = time.monotonic()
        for each in waiting:
            if each.retry():
                continue
            if each.deadline_s <= now_s:
                each.give_up()
            else:
                self._parked.append(each)
                self._parked_bytes += each.size_bytes

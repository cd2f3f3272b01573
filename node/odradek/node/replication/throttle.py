"""A rate that may be exceeded by what was begun, and is kept on the average. Pure.

Idea: of a token bucket only the time matters at which it will have no debt any more: whoever takes
bytes moves it on by what they cost, and nobody begins before it has come (the virtual scheduling
form of ITU-T I.371's generic cell rate algorithm).

Invariant: from any moment on, what is taken within t seconds exceeds t times the rate by no more
than what each of those who share it takes at once.
"""

import math
from typing import Final

_AT_ONCE_S: Final = 0.1


class Throttle:
    """Bytes per second, shared by everybody who takes of it.

    Args:
        bytes_per_s: The rate; 0 for none.
    """

    __slots__ = ("_bytes_per_s", "_free_at_s")

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = float("-inf")

    @property
    def bytes_at_once(self) -> float:
        """How much one should send at once, so that it comes evenly."""
        return self._bytes_per_s * _AT_ONCE_S or math.inf

    def wait_s(self, now_s: float) -> float:
        """Return for how long nobody should begin to send."""
        return max(self._free_at_s - now_s, 0.0)

    def take(self, size_bytes: int, now_s: float) -> None:
        """Note what is being sent."""
        if self._bytes_per_s:
            self._free_at_s = max(self._free_at_s, now_s) + size_bytes / self._bytes_per_s

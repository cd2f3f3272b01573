"""How long to wait between attempts: exponential with full jitter, so that crowds spread out.

Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
"""

import random
from collections.abc import Iterator


def delays(
    chance: random.Random, *, initial_s: float = 0.05, max_s: float = 1.0
) -> Iterator[float]:
    """Yield waits in seconds without end; each lies in the upper half of a doubling bound.

    The upper half, because a wait of almost nothing would only repeat the failure.
    """
    bound_s = initial_s
    while True:
        yield chance.uniform(bound_s / 2, bound_s)
        bound_s = min(bound_s * 2, max_s)

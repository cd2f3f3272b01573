"""Waits double up to a bound and differ between peers."""

import itertools
import random

from odradek.rpc.backoff import delays


def test_waits_double_up_to_the_bound_with_jitter_in_the_upper_half() -> None:
    waits = list(itertools.islice(delays(random.Random(1), initial_s=0.1, max_s=0.4), 5))
    for wait_s, bound_s in zip(waits, [0.1, 0.2, 0.4, 0.4, 0.4], strict=True):
        assert bound_s / 2 <= wait_s <= bound_s
    assert waits != list(itertools.islice(delays(random.Random(2), initial_s=0.1, max_s=0.4), 5))

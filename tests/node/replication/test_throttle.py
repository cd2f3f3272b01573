"""A throttle keeps its rate on the average and lets nobody wait for what is not owed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.node.replication.throttle import Throttle


def test_what_was_sent_is_paid_for_before_more_begins() -> None:
    throttle = Throttle(1000)
    assert not throttle.wait_s(5.0)
    throttle.take(500, 5.0)
    assert throttle.wait_s(5.0) == pytest.approx(0.5)
    assert throttle.wait_s(5.4) == pytest.approx(0.1)
    assert not throttle.wait_s(5.5)


def test_time_without_traffic_is_not_saved_up() -> None:
    throttle = Throttle(1000)
    throttle.take(1000, 0.0)
    throttle.take(1000, 100.0)
    assert throttle.wait_s(100.0) == pytest.approx(1.0)


def test_no_rate_is_no_bound() -> None:
    throttle = Throttle(0)
    throttle.take(1 << 40, 0.0)
    assert not throttle.wait_s(0.0)


@given(st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 3)), min_size=1))
def test_no_window_has_more_than_its_share_and_one_frame(frames: list[tuple[int, float]]) -> None:
    throttle, now_s = Throttle(1000), 0.0
    sent: list[tuple[float, int]] = []
    for size_bytes, idle_s in frames:
        now_s += idle_s + throttle.wait_s(now_s + idle_s)
        throttle.take(size_bytes, now_s)
        sent.append((now_s, size_bytes))
    for begin, (begin_s, _) in enumerate(sent):
        for end in range(begin, len(sent)):
            end_s, last_bytes = sent[end]
            window_bytes = sum(size_bytes for _, size_bytes in sent[begin : end + 1])
            assert window_bytes <= 1000 * (end_s - begin_s) * (1 + 1e-9) + last_bytes + 1e-3

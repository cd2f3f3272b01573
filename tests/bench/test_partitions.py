from collections.abc import Sequence
from typing import cast

import pytest

from bench.partitions import in_turns
from bench.report import Figure
from odradek.client import Producer

_CALL_BYTES = 48_000 * 1024


class SlowProducer:
    """Takes a second a call for a topic, two for the other; its own clock tells."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []
        self.keys: set[bytes] = set()

    async def send_many(
        self, topic: str, values: Sequence[bytes], *, keys: Sequence[bytes] | None
    ) -> None:
        assert len(values) * len(values[0]) == _CALL_BYTES
        self.calls.append(topic)
        self.keys.update(keys or ())
        self.now_s += 2.0 if topic == "many" else 1.0

    async def flush(self) -> None:
        pass


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> SlowProducer:
    slow = SlowProducer()
    monkeypatch.setattr("bench.throughput.time.perf_counter", lambda: slow.now_s)
    return slow


async def measure(producer: SlowProducer, *, keys: int, goal: float | None) -> list[Figure]:
    real = cast("Producer[bytes, bytes]", producer)
    return await in_turns(real, "many", "few", scale=0.01, keys=keys, goal=goal)


async def test_topics_take_turns_and_the_share_is_of_neighbours(producer: SlowProducer) -> None:
    many, few, share = await measure(producer, keys=0, goal=70.0)
    assert producer.calls == ["many", "few"] * 4, "the first two are not measured"
    assert (many.value, few.value) == pytest.approx((_CALL_BYTES / 2e6, _CALL_BYTES / 1e6))
    assert (share.value, share.goal, share.reaches_goal) == (50.0, 70.0, False)
    assert len(share.runs) == 3
    assert not producer.keys


async def test_keys_are_as_many_as_were_asked_for(producer: SlowProducer) -> None:
    figures = await measure(producer, keys=10_000, goal=None)
    assert len(producer.keys) == 10_000
    assert all(each.goal is None for each in figures)

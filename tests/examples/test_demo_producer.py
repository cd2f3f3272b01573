"""How long a partition took no writes, as the demo reckons it."""

import asyncio

import pytest
from demo_fleet import Point
from demo_producer import Writes

POINT = Point(0.0, "van-1", 1.0, 2.0, "Driving")


def acknowledge(writes: Writes, partition: int, *, sent_s: float, now_s: float) -> None:
    writes.note((partition, len(writes.acknowledged)), POINT, sent_s=sent_s, now_s=now_s)


def test_the_longest_wait_of_any_partition_counts() -> None:
    writes = Writes()
    acknowledge(writes, 0, sent_s=9.0, now_s=9.5)
    acknowledge(writes, 1, sent_s=9.0, now_s=9.9)
    writes.killed(10.0)
    acknowledge(writes, 1, sent_s=9.8, now_s=10.1)
    acknowledge(writes, 0, sent_s=9.4, now_s=11.25)
    acknowledge(writes, 1, sent_s=10.0, now_s=11.3)
    assert writes.failover_s == pytest.approx(1.75)


def test_a_partition_without_records_is_not_unavailable() -> None:
    writes = Writes()
    acknowledge(writes, 0, sent_s=1.0, now_s=1.1)
    writes.killed(2.0)
    acknowledge(writes, 0, sent_s=9.0, now_s=9.25)
    assert writes.failover_s == pytest.approx(0.25)


def test_waits_before_the_kill_do_not_count() -> None:
    writes = Writes()
    acknowledge(writes, 0, sent_s=1.0, now_s=5.0)
    writes.killed(6.0)
    assert writes.failover_s == 0


async def test_a_partition_has_resumed_with_a_record_sent_after_the_kill() -> None:
    writes = Writes()
    writes.killed(10.0)
    waiting = asyncio.ensure_future(writes.resumed(2))
    acknowledge(writes, 0, sent_s=9.0, now_s=10.1)
    acknowledge(writes, 1, sent_s=10.1, now_s=10.2)
    done, _ = await asyncio.wait({waiting}, timeout=0.01)
    assert not done
    acknowledge(writes, 0, sent_s=10.2, now_s=10.3)
    await asyncio.wait_for(waiting, 1)

"""The log of committed offsets: batching, order, failure, replay."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from odradek.node.coordination.boundaries import Clock
from odradek.node.coordination.offset_log import OffsetLog
from odradek.node.coordination.records import OffsetCommitted, OffsetForgotten
from odradek.protocol.errors import NotCoordinatorError, ThrottledError
from odradek.protocol.types import LeaderEpoch, Offset

from .broker import InternalLog, Led
from .cluster import GROUP, gps

CLOCK = Clock(now_s=time.monotonic, wall_s=time.time)


def commit(index: int, offset: int, metadata: str = "") -> OffsetCommitted:
    return OffsetCommitted(
        group=GROUP,
        partition=gps(index),
        offset=Offset(offset),
        leader_epoch=LeaderEpoch(0),
        metadata=metadata,
        commit_time_ms=1,
    )


def led_over(log: InternalLog) -> Led:
    led = Led(log, LeaderEpoch(1))
    led.may_read.set()
    return led


@asynccontextmanager
async def running(log: OffsetLog) -> AsyncIterator[None]:
    task = asyncio.create_task(log.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def replayed(internal: InternalLog) -> dict[int, int]:
    log = OffsetLog(led_over(internal), CLOCK)
    await log.load()
    return {each.partition.partition: each.offset for each in log.offsets.of(GROUP).values()}


async def test_commits_that_wait_share_an_append() -> None:
    led = led_over(InternalLog())
    log = OffsetLog(led, CLOCK)
    waiting = [log.append([commit(index % 6, index)]) for index in range(200)]
    async with running(log):
        await asyncio.gather(*waiting)
    assert led.appends == 1
    assert await replayed(led.log) == {index % 6: index for index in range(194, 200)}


async def test_a_commit_larger_than_a_batch_is_answered_once_all_of_it_is_there() -> None:
    led = led_over(InternalLog())
    log = OffsetLog(led, CLOCK)
    large = log.append([commit(index, index, "m" * 4096) for index in range(200)])
    async with running(log):
        await large
    assert led.appends > 1
    assert await replayed(led.log) == {index: index for index in range(200)}


async def test_state_shows_a_commit_only_once_it_is_committed() -> None:
    led = led_over(InternalLog())
    log = OffsetLog(led, CLOCK)
    waiting = log.append([commit(0, 5)])
    assert log.offsets.of(GROUP) == {}
    async with running(log):
        await log.settled()
    assert waiting.done()
    assert log.offsets.of(GROUP)[gps(0)].offset == 5


async def test_tombstones_are_replayed() -> None:
    led = led_over(InternalLog())
    log = OffsetLog(led, CLOCK)
    async with running(log):
        await log.append([commit(0, 5), commit(1, 6)])
        await log.append([OffsetForgotten(GROUP, gps(0))])
    assert await replayed(led.log) == {1: 6}


async def test_a_deposed_leader_fails_what_waits_and_keeps_its_state() -> None:
    led = led_over(InternalLog())
    log = OffsetLog(led, CLOCK)
    async with running(log):
        await log.append([commit(0, 5)])
        led.deposed = True
        with pytest.raises(NotCoordinatorError):
            await log.append([commit(0, 6)])
    assert log.offsets.of(GROUP)[gps(0)].offset == 5
    assert await replayed(led.log) == {0: 5}


async def test_closing_refuses_what_waits_and_what_comes() -> None:
    log = OffsetLog(led_over(InternalLog()), CLOCK)
    waiting = log.append([commit(0, 5)])
    log.close(NotCoordinatorError("closed"))
    with pytest.raises(NotCoordinatorError):
        await waiting
    with pytest.raises(NotCoordinatorError):
        log.append([commit(0, 6)])


async def test_what_waits_is_bounded() -> None:
    log = OffsetLog(led_over(InternalLog()), CLOCK)
    record = commit(0, 5)
    log.append([record] * 100_000)
    with pytest.raises(ThrottledError):
        log.append([record])

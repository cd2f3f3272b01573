"""A member that was expelled and does not know it yet: its application hears of no error."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from odradek.protocol.errors import FencedMemberEpochError, UnknownMemberIdError
from tests.client.consumer_world import TIMEOUT_S, World, offsets, read, world


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_at_most_once_an_expelled_member_joins_again_unheard_by_the_application(
    one: World,
) -> None:
    await one.topic(records=30)
    one.groups.commit_errors = [UnknownMemberIdError("out"), FencedMemberEpochError("out")]
    async with one.consumer("t", group="g", delivery="at_most_once") as consumer:
        assert offsets(await read(consumer, 12)) == list(range(12))
    assert one.groups.commit_errors == []


async def test_a_member_expelled_before_it_knows_where_to_begin_joins_again(one: World) -> None:
    await one.topic(records=30)
    one.groups.offset_errors = [UnknownMemberIdError("out"), FencedMemberEpochError("out")]
    async with one.consumer("t", group="g") as consumer:
        assert offsets(await read(consumer, 12)) == list(range(12))
    assert one.groups.offset_errors == []


async def test_who_asks_for_more_while_it_leaves_for_having_been_slow_joins_again(
    one: World,
) -> None:
    await one.topic(records=30)
    async with (
        asyncio.timeout(TIMEOUT_S),
        one.consumer(
            "t", group="g", max_processing_time_s=0.01, commit_interval_s=60.0
        ) as consumer,
    ):
        await read(consumer, 2)
        commits = one.group_services[1].hold_commits()
        await commits.reached.wait()
        asked = asyncio.ensure_future(anext(consumer))
        await asyncio.sleep(0)
        commits.let_go.set()
        assert (await asked).offset == 1

"""Reading in a group: commits, rebalances, fencing, a coordinator that moves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from odradek.client.consumer import Consumer
from odradek.client.errors import NoCommittedOffsetError, NotAssignedError
from odradek.protocol.errors import (
    CoordinatorLoadInProgressError,
    GroupMaxSizeReachedError,
    InvalidGroupIdError,
    InvalidRequestError,
    NotCoordinatorError,
    StaleMemberEpochError,
    UnreleasedInstanceIdError,
)
from odradek.protocol.types import PartitionIndex, TopicName, TopicPartition
from tests.client.consumer_world import World, offsets, read, world

T0 = ("t", 0)


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.fixture
async def two() -> AsyncIterator[World]:
    async with world(nodes=2) as made:
        yield made


class Reading:
    """A consumer read by a task, as an application does."""

    def __init__(self, made: World, **settings: Any) -> None:
        self.consumer = made.consumer("t", group="g", **settings)
        self.seen: list[tuple[int, int]] = []
        self.task: asyncio.Task[None] | None = None
        self._made = made
        self._grew = asyncio.Event()

    async def start(self) -> "Reading":
        await self.consumer.__aenter__()
        self.task = asyncio.ensure_future(self._loop())
        return self

    async def _loop(self) -> None:
        async for record in self.consumer:
            self.seen.append((record.partition, record.offset))
            self._grew.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.seen) < count:
                self._grew.clear()
                await self._grew.wait()

    async def stop(self) -> None:
        await self.consumer.close()
        assert self.task is not None
        await self.task


def owns(made: World, *counts: int) -> Callable[[], bool]:
    """A condition: the group's members own so many partitions."""
    return lambda: (
        sorted(len(member.owned) for member in made.groups.members.get("g", {}).values())
        == sorted(counts)
    )


async def test_a_new_group_begins_at_the_start_and_goes_on_where_it_committed(one: World) -> None:
    topic = await one.topic(records=30)
    async with one.consumer("t", group="g") as consumer:
        assert offsets(await read(consumer, 10)) == list(range(10))
    assert one.groups.committed("g", topic, 0) == 9, "the last one was not done with"
    async with one.consumer("t", group="g") as consumer:
        assert offsets(await read(consumer, 21)) == list(range(9, 30))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(consumer)
    assert one.groups.committed("g", topic, 0) == 30
    assert one.groups.left[-1][1] == -1


async def test_processed_offsets_are_committed_while_reading(one: World) -> None:
    topic = await one.topic(records=30)
    async with one.consumer("t", group="g") as consumer:
        await read(consumer, 8)
        await one.groups.until(lambda: one.groups.committed("g", topic, 0) == 7)


async def test_the_record_whose_loop_body_raised_is_not_committed(one: World) -> None:
    topic = await one.topic(records=30)

    async def fails_at_4(consumer: Consumer[Any, Any]) -> None:
        async for record in consumer:
            if record.offset == 4:
                raise RuntimeError

    async with one.consumer("t", group="g") as consumer:
        with pytest.raises(RuntimeError):
            await fails_at_4(consumer)
    assert one.groups.committed("g", topic, 0) == 4


async def test_explicit_commits(one: World) -> None:
    topic = await one.topic(records=30)
    async with one.consumer("t", group="g", auto_commit=False) as consumer:
        async for record in consumer:
            if record.offset == 4:
                await consumer.commit(metadata="four")
                break
        assert one.groups.offsets["g", topic.topic_id, 0] == (5, 0, "four")
        assert (await anext(consumer)).offset == 5, "committed counts as processed"
        await consumer.commit({T0: 2})
        assert await consumer.committed(T0) == {
            TopicPartition(TopicName("t"), PartitionIndex(0)): 2
        }
        with pytest.raises(NotAssignedError):
            await consumer.commit({("t", 9): 2})
        with pytest.raises(InvalidRequestError, match="offset 9223372036854775808 must be 0 to"):
            await consumer.commit({T0: 2**63})
    assert one.groups.committed("g", topic, 0) == 2, "no commit of our own on closing"


async def test_at_most_once_commits_before_handing_out(one: World) -> None:
    topic = await one.topic(records=30)
    consumer = one.consumer("t", group="g", delivery="at_most_once")
    await consumer.__aenter__()
    seen = offsets(await read(consumer, 12))
    assert seen == list(range(12))
    assert (one.groups.committed("g", topic, 0) or 0) >= 12
    await consumer.close()
    assert one.groups.committed("g", topic, 0) == 12, "what was not handed out comes again"


async def test_at_most_once_hands_out_nothing_that_could_not_be_committed(one: World) -> None:
    await one.topic(records=30)
    one.groups.commit_errors = [InvalidRequestError("no")]
    async with one.consumer("t", group="g", delivery="at_most_once") as consumer:
        with pytest.raises(InvalidRequestError):
            await anext(consumer)
        assert (await anext(consumer)).offset == 0


async def test_start_none_without_a_commit(one: World) -> None:
    await one.topic(records=30)
    async with one.consumer("t", group="g", start="none") as consumer:
        for _ in range(2):
            with pytest.raises(NoCommittedOffsetError):
                await anext(consumer)
        consumer.seek(T0, 7)
        assert (await anext(consumer)).offset == 7


async def test_a_group_that_starts_at_the_end_remembers_where_that_was(one: World) -> None:
    topic = await one.topic(records=10)
    async with one.consumer("t", group="g", start="latest"):
        await one.groups.until(lambda: one.groups.committed("g", topic, 0) == 10)
    one.fill(topic, 0, 5)
    async with one.consumer("t", group="g", start="latest") as consumer:
        assert (await anext(consumer)).offset == 10


async def test_a_second_consumer_takes_half_without_repetition_or_loss(one: World) -> None:
    topic = await one.topic(partitions=4, records=200)
    first = await Reading(one).start()
    await first.until(100)
    second = await Reading(one).start()
    await one.groups.until(owns(one, 2, 2))
    for index in range(4):
        one.fill(topic, index, 100)
    async with asyncio.timeout(20):
        while len(first.seen) + len(second.seen) < 1200:
            await asyncio.wait(
                [asyncio.ensure_future(each._grew.wait()) for each in (first, second)],
                return_when=asyncio.FIRST_COMPLETED,
                timeout=0.05,
            )
            first._grew.clear()
            second._grew.clear()
    assert len(first.seen) + len(second.seen) == 1200
    assert {*first.seen, *second.seen} == {(p, o) for p in range(4) for o in range(300)}
    for seen in (first.seen, second.seen):
        for partition in range(4):
            found = [offset for each, offset in seen if each == partition]
            assert found == sorted(found)
    await second.stop()
    await one.groups.until(owns(one, 4))
    await first.stop()


async def test_a_revoked_partition_waits_for_the_record_in_hand(one: World) -> None:
    await one.topic(partitions=2, records=50)
    told: list[tuple[str, tuple[int, ...], bool]] = []
    asked = False

    def note(what: str) -> Callable[[Sequence[TopicPartition]], None]:
        return lambda partitions: told.append((what, tuple(p.partition for p in partitions), asked))

    async with one.consumer(
        "t", group="g", on_assigned=note("assigned"), on_revoked=note("revoked")
    ) as first:
        record = await anext(first)
        while record.partition == 0:
            first.pause(T0)
            record = await anext(first)
        second = await Reading(one).start()
        await one.groups.until(lambda: len(one.groups.members["g"]) == 2)
        some_later = one.groups.heartbeats + 10
        await one.groups.until(lambda: one.groups.heartbeats >= some_later)
        first.resume(T0)
        asked = True
        assert (await anext(first)).partition == 0, "nothing more of what is being revoked"
        await one.groups.until(owns(one, 1, 1))
        assert told == [("assigned", (0, 1), False), ("revoked", (1,), True)]
        await second.until(50 - record.offset - 1)
        assert second.seen[0] == (1, record.offset + 1), "processed here, so not seen there"
        await second.stop()


def first_id(consumer: Any) -> str:
    return str(consumer._inside._session.member[0])


async def test_callbacks_may_be_coroutines_and_seek(one: World) -> None:
    await one.topic(records=50)
    holder: list[Consumer[Any, Any]] = []

    async def on_assigned(partitions: Sequence[TopicPartition]) -> None:
        await asyncio.sleep(0)
        holder[0].seek(partitions[0], 33)

    consumer = one.consumer("t", group="g", on_assigned=on_assigned)
    holder.append(consumer)
    async with consumer:
        assert (await anext(consumer)).offset == 33


async def test_what_a_callback_raises_reaches_the_application(one: World) -> None:
    await one.topic(records=50)

    def on_assigned(partitions: Sequence[TopicPartition]) -> None:
        raise RuntimeError("from the callback")

    async with one.consumer("t", group="g", on_assigned=on_assigned) as consumer:
        with pytest.raises(RuntimeError, match="from the callback"):
            await anext(consumer)


async def test_a_fenced_member_joins_again_and_goes_on_from_the_commit(one: World) -> None:
    topic = await one.topic(records=50)
    lost: list[int] = []
    async with one.consumer(
        "t", group="g", on_lost=lambda gone: lost.extend(each.partition for each in gone)
    ) as consumer:
        await read(consumer, 20)
        await one.groups.until(lambda: one.groups.committed("g", topic, 0) == 19)
        one.groups.fence("g", first_id(consumer))
        await one.groups.until(owns(one, 1))
        assert lost == [0]
        record = await anext(consumer)
        assert record.offset == 19, "what was not committed comes again"


async def test_the_coordinator_may_move(two: World) -> None:
    topic = await two.topic(records=500)
    async with two.consumer("t", group="g") as consumer:
        await read(consumer, 10)
        two.groups.coordinator_id = 2
        two.group_services[1].break_streams()
        await read(consumer, 10)
        await two.groups.until(lambda: two.groups.committed("g", topic, 0) == 19)
        await two.groups.until(lambda: len(two.group_services[2].streams) == 1)
        assert not two.groups.left, "it never left"


async def test_a_broken_heartbeat_stream_costs_nothing(one: World) -> None:
    await one.topic(records=500)
    async with one.consumer("t", group="g") as consumer:
        await read(consumer, 10)
        history = list(one.groups.history)
        one.group_services[1].break_streams()
        await read(consumer, 100)
        await one.groups.until(lambda: len(one.group_services[1].streams) == 1)
        assert one.groups.history == history


async def test_silence_for_a_session_counts_as_expulsion(one: World) -> None:
    one.groups.session_timeout_ms = 300
    await one.topic(records=500)
    lost = asyncio.Event()
    async with one.consumer("t", group="g", on_lost=lambda _: lost.set()) as consumer:
        await read(consumer, 10)
        one.groups.silent = True
        await lost.wait()
        assert consumer.assignment == frozenset()
        one.groups.silent = False
        assert (await anext(consumer)).offset <= 10


async def test_retriable_refusals_of_commits_are_repeated(one: World) -> None:
    topic = await one.topic(records=50)
    async with one.consumer("t", group="g") as consumer:
        await read(consumer, 5)
        one.groups.commit_errors = [
            CoordinatorLoadInProgressError(),
            NotCoordinatorError(),
            StaleMemberEpochError(),
        ]
        await consumer.commit()
        assert one.groups.committed("g", topic, 0) == 5


async def test_a_group_that_refuses_the_member_says_so(one: World) -> None:
    await one.topic(records=50)
    one.groups.join_errors = [GroupMaxSizeReachedError("full")]
    async with one.consumer("t", group="g") as consumer:
        with pytest.raises(GroupMaxSizeReachedError):
            await anext(consumer)


async def test_a_static_member_waits_for_its_killed_predecessor_and_leaves_for_a_while(
    one: World,
) -> None:
    await one.topic(records=50)
    one.groups.join_errors = [UnreleasedInstanceIdError(), UnreleasedInstanceIdError()]
    async with one.consumer("t", group="g", instance_id="i-1") as consumer:
        assert (await anext(consumer)).offset == 0
    assert [epoch for _, epoch in one.groups.left] == [-2]


async def test_illegal_group_names_are_refused(one: World) -> None:
    with pytest.raises(InvalidGroupIdError):
        one.consumer("t", group="\n")


async def test_manual_assignment_with_a_group_only_for_offsets(one: World) -> None:
    topic = await one.topic(partitions=2, records=20)
    one.groups.commit("g", topic, 0, 5)
    async with one.consumer(group="g") as consumer:
        consumer.assign([T0])
        assert offsets(await read(consumer, 3)) == [5, 6, 7]
        assert "g" not in one.groups.members
        consumer.assign([("t", 1)])
        await one.groups.until(lambda: one.groups.committed("g", topic, 0) == 7)
    assert not one.groups.left


async def test_max_processing_time_gives_the_partitions_away_and_joins_again(one: World) -> None:
    topic = await one.topic(records=50)
    async with one.consumer("t", group="g", max_processing_time_s=0.1) as consumer:
        await read(consumer, 3)
        await one.groups.until(lambda: bool(one.groups.left))
        assert consumer.assignment == frozenset()
        assert one.groups.committed("g", topic, 0) == 2
        assert (await anext(consumer)).offset == 2, "the overdue one was not processed in time"


async def test_closing_leaves_the_group_whatever_a_callback_raises(one: World) -> None:
    await one.topic(records=50)

    def on_revoked(partitions: Sequence[TopicPartition]) -> None:
        raise RuntimeError("from the callback")

    consumer = one.consumer("t", group="g", on_revoked=on_revoked)
    await consumer.__aenter__()
    await read(consumer, 1)
    with pytest.raises(RuntimeError, match="from the callback"):
        await consumer.close()
    assert len(one.groups.left) == 1


async def test_heartbeats_go_on_while_the_application_takes_its_time(one: World) -> None:
    await one.topic(records=50)
    async with one.consumer("t", group="g") as consumer:
        await read(consumer, 2)  # the second one is being processed
        heard = one.groups.heartbeats
        await one.groups.until(lambda: one.groups.heartbeats > heard + 10)
        await read(consumer, 3)
        assert not one.groups.left
        assert len(consumer.assignment) == 1

"""Consumer groups while members come, go, crash and hang."""

import asyncio
import signal
from collections import Counter
from contextlib import AsyncExitStack, suppress

import pytest

from odradek.client import Client
from odradek.client.administration.descriptions import GroupState
from odradek.client.local.cluster import LocalCluster
from odradek.protocol.errors import GroupIdNotFoundError
from tests.cluster.conftest import GROUP_SESSION_TIMEOUT_S
from tests.cluster.traffic import (
    DEADLINE_S,
    PARTITIONS,
    Member,
    load,
    member_process,
    member_task,
    new_topic,
    together,
    unique,
    until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def shares(client: Client, group: str, member_count: int) -> list[int]:
    """Return how many partitions each member has, once the group of that size is settled."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(GroupIdNotFoundError):  # until its first member's join is through
                described = await client.admin.describe_group(group)
                assigned = [len(member.assigned) for member in described.members]
                if (
                    described.state is GroupState.STABLE
                    and len(assigned) == member_count
                    and sum(assigned) == PARTITIONS
                ):
                    return sorted(assigned)
            await asyncio.sleep(0.1)


async def test_one_then_six_then_ten_members_under_load(
    cluster: LocalCluster, client: Client
) -> None:
    topic, group = await new_topic(client), unique("group")
    members: list[Member] = []
    async with load(client, topic) as running, AsyncExitStack() as joined:
        for size, expected in ((1, [6]), (6, [1] * 6), (10, [0] * 4 + [1] * 6)):
            while len(members) < size:
                members.append(await joined.enter_async_context(member_task(client, group, topic)))
            assert await shares(client, group, size) == expected
            await running.more()
        running.stop()
        await until(
            lambda: together(members) == running.acknowledged, what="every record is processed"
        )
    repeated = Counter(record for member in members for record in member.seen)
    assert max(repeated.values()) == 1, "a handover between living members repeats nothing"
    assert_each_in_order(members)


async def test_members_that_leave_hand_over_without_repetition(
    cluster: LocalCluster, client: Client
) -> None:
    topic, group = await new_topic(client), unique("group")
    members: list[Member] = []
    async with load(client, topic) as running, member_task(client, group, topic) as staying:
        async with (
            member_task(client, group, topic) as second,
            member_task(client, group, topic) as third,
        ):
            members = [staying, second, third]
            assert await shares(client, group, 3) == [2, 2, 2]
            await running.more()
        assert await shares(client, group, 1) == [6]
        running.stop()
        await until(
            lambda: together(members) == running.acknowledged,
            what="every record is processed",
        )
    repeated = Counter(record for member in members for record in member.seen)
    assert max(repeated.values()) == 1
    assert_each_in_order(members)


async def test_a_killed_member_s_partitions_move(cluster: LocalCluster, client: Client) -> None:
    topic, group = await new_topic(client), unique("group")
    async with (
        load(client, topic) as running,
        member_process(cluster.bootstrap, group, topic) as killed,
        member_process(cluster.bootstrap, group, topic) as other,
    ):
        assert await shares(client, group, 2) == [3, 3]
        assert killed.process is not None
        killed.process.kill()
        before = len(other.seen)
        await until(
            lambda: len(other.partitions_since(before)) == PARTITIONS,
            what="the killed member's partitions are served again",
            deadline_s=10,
        )
        running.stop()
        await until(
            lambda: together([killed, other]) == running.acknowledged,
            what="every record is processed",
        )
        assert_each_in_order([killed, other])


async def test_a_member_that_hangs_is_replaced_and_may_come_back(
    cluster: LocalCluster, client: Client
) -> None:
    topic, group = await new_topic(client), unique("group")
    async with (
        load(client, topic) as running,
        member_process(cluster.bootstrap, group, topic) as hanging,
        member_process(cluster.bootstrap, group, topic) as other,
    ):
        assert await shares(client, group, 2) == [3, 3]
        assert hanging.process is not None
        hanging.process.send_signal(signal.SIGSTOP)
        try:
            before = len(other.seen)
            await until(
                lambda: len(other.partitions_since(before)) == PARTITIONS,
                what="the hanging member's partitions are served by the other",
                deadline_s=GROUP_SESSION_TIMEOUT_S + 10,
            )
        finally:
            hanging.process.send_signal(signal.SIGCONT)
        assert await shares(client, group, 2) == [3, 3]
        running.stop()
        await until(
            lambda: together([hanging, other]) == running.acknowledged,
            what="every record is processed",
        )


async def test_members_that_hang_together_come_back_also_to_another_coordinator(
    cluster: LocalCluster, client: Client
) -> None:
    topic, group = await new_topic(client), unique("group")
    async with load(client, topic) as running, AsyncExitStack() as joined:
        hanging = [
            await joined.enter_async_context(member_process(cluster.bootstrap, group, topic))
            for _ in range(3)
        ]
        staying = await joined.enter_async_context(member_process(cluster.bootstrap, group, topic))
        for round_number in range(2):
            assert await shares(client, group, 4) == [1, 1, 2, 2]
            coordinator_id = (await client.admin.describe_group(group)).coordinator_id
            tell(hanging, signal.SIGSTOP)
            try:
                if round_number == 1:
                    await cluster.nodes[coordinator_id].kill()
                assert await shares(client, group, 1) == [PARTITIONS]
            finally:
                tell(hanging, signal.SIGCONT)
        assert await shares(client, group, 4) == [1, 1, 2, 2]
        running.stop()
        await until(
            lambda: together([*hanging, staying]) == running.acknowledged,
            what="every record is processed",
        )


def tell(members: list[Member], what: signal.Signals) -> None:
    for member in members:
        assert member.process is not None
        assert member.process.returncode is None, "a consumer's process ended by itself"
        member.process.send_signal(what)


def assert_each_in_order(members: list[Member]) -> None:
    """Each member processed each of its partitions forwards, and nobody skipped anything."""
    for member in members:
        last = dict.fromkeys(range(PARTITIONS), -1)
        for partition, offset, _ in member.seen:
            assert offset > last[partition]
            last[partition] = offset

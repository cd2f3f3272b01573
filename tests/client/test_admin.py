"""The admin face, as far as it does not need a real cluster."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from odradek.client import Admin, Client, NewTopic, NodesUnreachableError
from odradek.client.cluster.connections import unary
from odradek.protocol.errors import (
    BrokerError,
    GroupIdNotFoundError,
    InvalidPartitionsError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    NodeIdNotRegisteredError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from odradek.rpc.channels import ConnectionLostError
from odradek.v1.broker_pb2 import (
    OFFSET_SPEC_LATEST,
    ListOffsetsPartition,
    ListOffsetsResult,
)
from tests.client.consumer_world import world
from tests.client.fake_node import FakeCluster

HUGE = 2**40


async def test_a_created_topic_can_be_used_at_once(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client, client.producer() as producer:
        made = await client.admin.create_topic("t", partitions=3, config={"flush": "os"})
        assert (made.name, made.partitions, made.replication) == ("t", 3, 1)
        assert made.topic_id == cluster.topics["t"].topic_id.hex()
        await producer.send("t", b"v")


async def test_a_taken_name_is_an_error_and_its_neighbours_are_made(cluster: FakeCluster) -> None:
    cluster.create_topic("taken")
    async with Client(cluster.bootstrap) as client:
        with pytest.raises(TopicAlreadyExistsError, match="taken"):
            await client.admin.create_topics([NewTopic(name="taken"), NewTopic(name="free")])
        assert {each.name for each in await client.admin.list_topics()} == {"taken", "free"}


async def test_creating_what_exists_is_fine_when_said_so(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client:
        made = await client.admin.create_topic("t", partitions=3, exist_ok=True)
        found = await client.admin.create_topic("t", partitions=5, exist_ok=True)
        assert (found.topic_id, found.partitions) == (made.topic_id, 3)
        with pytest.raises(TopicAlreadyExistsError):
            await client.admin.create_topic("t", partitions=3)


async def test_an_illegal_name_goes_nowhere(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client:
        with pytest.raises(InvalidTopicError):
            await client.admin.create_topic("a/b")
    assert cluster.topics == {}


@pytest.mark.parametrize(
    ("field", "refusal", "call"),
    [
        ("partitions", InvalidPartitionsError, lambda it: it.create_topic("t", partitions=HUGE)),
        (
            "replication",
            InvalidReplicationFactorError,
            lambda it: it.create_topic("t", replication=HUGE),
        ),
        ("total", InvalidPartitionsError, lambda it: it.create_partitions("t", HUGE)),
        (
            "replication",
            InvalidReplicationFactorError,
            lambda it: it.alter_replication("t", HUGE),
        ),
        ("partition", UnknownTopicOrPartitionError, lambda it: it.reassign("t", HUGE, [1])),
        ("replicas", InvalidReplicaAssignmentError, lambda it: it.reassign("t", 0, [1, -HUGE])),
        ("node_id", NodeIdNotRegisteredError, lambda it: it.drain_node(HUGE)),
        ("node_id", NodeIdNotRegisteredError, lambda it: it.remove_node(HUGE)),
    ],
)
async def test_a_number_that_fits_into_no_request_is_refused_by_its_name(
    cluster: FakeCluster,
    field: str,
    refusal: type[BrokerError],
    call: Callable[[Admin], Awaitable[object]],
) -> None:
    async with Client(cluster.bootstrap) as client:
        with pytest.raises(refusal, match=str(HUGE)) as caught:
            await call(client.admin)
    assert (caught.value.field, caught.value.limit) == (field, f"0..{2**31 - 1}")
    assert caught.value.value.strip("-") == str(HUGE)


@pytest.mark.parametrize(
    "at",
    [datetime.min, timedelta.max, datetime.fromtimestamp(-1, UTC)],  # noqa: DTZ901
)
async def test_before_1970_is_the_first_record(at: datetime | timedelta) -> None:
    async with world() as w:
        await w.topic(records=10)
        assert await w.client.admin.list_offsets("t", at) == {("t", 0): 0}


async def test_a_record_that_comes_while_the_end_is_asked_for_is_not_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was that young; before the end was told, it had come: it is what was asked for."""
    async with world() as w:
        topic = await w.topic()
        answer = w.fetch[1]._list_offset

        def late(asked: ListOffsetsPartition) -> ListOffsetsResult:
            if asked.spec == OFFSET_SPEC_LATEST:
                w.fill(topic, 0, 10)
            return answer(asked)

        monkeypatch.setattr(w.fetch[1], "_list_offset", late)
        at = datetime.fromtimestamp(1, UTC)
        assert await w.client.admin.list_offsets("t", at) == {("t", 0): 0}


async def test_deleting_and_describing(cluster: FakeCluster) -> None:
    cluster.create_topic("t", partitions=2)
    async with Client(cluster.bootstrap) as client:
        described = await client.admin.describe_topic("t")
        assert [each.leader for each in described.partitions] == [1, 1]
        assert described.replication == 1
        await client.admin.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.admin.describe_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.admin.delete_topic("t")


async def test_the_cluster_is_described_without_protobuf(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client:
        found = await client.admin.describe_cluster()
    assert found.cluster_id == cluster.cluster_id
    assert [node.address for node in found.nodes] == [cluster.nodes[1].address]
    assert found.controllers[0].controller_id is None


async def test_another_node_answers_when_one_is_dead(cluster: FakeCluster) -> None:
    await cluster.start_node()
    async with Client(cluster.bootstrap) as client:
        await cluster.nodes[1].stop()
        assert (await client.admin.create_topic("t", partitions=1)).name == "t"


def lose_the_first(monkeypatch: pytest.MonkeyPatch, *, answer: bool) -> None:
    """Lose the first answer from now on, or already the call."""
    calls = itertools.count()

    async def lossy(method: Any, request: Any, *, timeout_s: float) -> Any:
        is_first = next(calls) == 0
        if answer or not is_first:
            answered = await unary(method, request, timeout_s=timeout_s)
        if is_first:
            raise ConnectionLostError("lost on the way")
        return answered

    monkeypatch.setattr("odradek.client.administration.admin_calls.unary", lossy)


async def test_a_change_whose_answer_was_lost_is_recognised(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Client(cluster.bootstrap) as client:
        lose_the_first(monkeypatch, answer=True)
        assert (await client.admin.create_topic("t", partitions=2)).partitions == 2
        lose_the_first(monkeypatch, answer=True)
        await client.admin.delete_topic("t")
        assert not cluster.topics


async def test_a_second_attempt_claims_nothing_that_was_so_before(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.create_topic("t", partitions=2)
    async with Client(cluster.bootstrap) as client:
        lose_the_first(monkeypatch, answer=False)
        with pytest.raises(TopicAlreadyExistsError):
            await client.admin.create_topic("t", partitions=2, config={"flush": "os"})
        lose_the_first(monkeypatch, answer=False)
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.admin.delete_topic("mistyped")


@pytest.mark.parametrize("answers", [True, False])
async def test_near_names_of_a_group_come_from_the_whole_cluster_or_not_at_all(
    *, answers: bool
) -> None:
    async with world() as w:
        w.groups.members["dashboard"] = {}
        if not answers:
            w.group_services[1].listable.clear()
        async with asyncio.timeout(10):
            with pytest.raises(GroupIdNotFoundError) as caught:
                await w.client.admin.describe_group("dashbord")
        w.group_services[1].listable.set()
    assert caught.value.suggestions == (("dashboard",) if answers else ())


@pytest.mark.parametrize("dies", [False, True], ids=["hangs", "dies"])
async def test_groups_are_listed_without_a_node_that_is_fenced_meanwhile(
    dies: bool,  # noqa: FBT001
) -> None:
    async with world(nodes=2) as w:
        await w.known()
        w.groups.members["g"] = {}
        lost = w.cluster.nodes[1]
        lost.reading.clear()
        listing = asyncio.create_task(w.client.admin.list_groups())
        await w.group_services[1].listing.wait()
        if dies:
            await lost.stop()
        w.groups.coordinator_id = 2
        lost.fenced = True
        w.cluster.publish_node(lost)
        async with asyncio.timeout(10):
            assert [each.group for each in await listing] == ["g"]
        lost.reading.set()


async def test_nobody_answers(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap, request_timeout_s=0.2, operation_timeout_s=0.4) as client:
        await cluster.nodes[1].stop()
        with pytest.raises(NodesUnreachableError, match="cannot describe the cluster"):
            await client.admin.describe_cluster()

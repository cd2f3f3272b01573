"""What a client knows of the cluster, from whichever node answers."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from odradek.client.cluster.background import Background
from odradek.client.cluster.connections import Connections
from odradek.client.cluster.image import ClusterImage
from odradek.client.cluster.metadata import Metadata
from odradek.client.errors import NodesUnreachableError
from odradek.protocol.errors import InvalidTopicError, UnknownTopicOrPartitionError
from odradek.protocol.types import PartitionIndex, TopicName
from tests.client.fake_node import FakeCluster

T = TopicName("t")


@pytest.fixture
async def metadata(cluster: FakeCluster) -> AsyncIterator[Metadata]:
    """Started with the first node alone; the others are learnt."""
    connections = Connections()
    watching = Metadata(
        connections, (cluster.bootstrap,), request_timeout_s=2.0, chance=random.Random(1)
    )
    background = Background("test")
    await background.start()
    background.spawn(watching.run(), name="metadata")
    await watching.ready(timeout_s=5)
    yield watching
    await background.close()
    await connections.close()


async def until(metadata: Metadata, holds: Callable[[ClusterImage], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds(metadata.image):
            await metadata.newer_than(metadata.image)


async def test_topics_leaders_and_nodes_are_known(cluster: FakeCluster, metadata: Metadata) -> None:
    topic = cluster.create_topic("t", partitions=2, config={"flush": "os"})
    await until(metadata, lambda image: "t" in image.topics)
    info = await metadata.topic("t", timeout_s=1)
    assert (info.topic_id, len(info.partitions)) == (topic.topic_id, 2)
    assert info.config == {"flush": "os"}
    leader = metadata.image.leader(TopicName("t"), PartitionIndex(1))
    assert leader is not None
    assert leader.address == cluster.nodes[1].address
    assert metadata.image.leader(TopicName("t"), PartitionIndex(2)) is None


async def test_an_unknown_topic_is_an_error_at_once_with_near_names(
    cluster: FakeCluster, metadata: Metadata
) -> None:
    for name in ("orders", "orders-dead", "positions"):
        cluster.create_topic(name)
    await until(metadata, lambda image: len(image.topics) == 3)
    with pytest.raises(UnknownTopicOrPartitionError, match="did you mean orders") as caught:
        await metadata.topic("oders", timeout_s=60)
    assert caught.value.suggestions[0] == "orders"
    with pytest.raises(InvalidTopicError):
        await metadata.topic("", timeout_s=60)


async def test_a_topic_the_watched_node_has_not_heard_of_is_found_at_another(
    cluster: FakeCluster, metadata: Metadata
) -> None:
    await cluster.start_node()
    await until(metadata, lambda image: len(image.nodes) == 2)
    cluster.nodes[1].deaf = True
    cluster.create_topic("fresh")
    finding = asyncio.create_task(metadata.topic("fresh", timeout_s=5))
    await asyncio.sleep(0.05)
    assert not finding.done(), "the other node knows it: the news is on its way"
    cluster.nodes[1].deaf = False
    cluster.resend("fresh")
    assert (await finding).name == "fresh"


async def test_another_node_takes_over_when_the_watched_one_dies(
    cluster: FakeCluster, metadata: Metadata
) -> None:
    topic = cluster.create_topic("t")
    second = await cluster.start_node()
    await until(metadata, lambda image: len(image.nodes) == 2 and "t" in image.topics)
    await cluster.nodes[1].stop()
    cluster.move_leader(topic, 0, second.node_id)
    await until(metadata, lambda image: image.topics[T].partitions[0].leader_id == 2)


@pytest.mark.parametrize("answers", [False, True], ids=["falls silent", "hears no controller"])
async def test_another_node_takes_over_when_the_watched_one_alone(
    cluster: FakeCluster,
    metadata: Metadata,
    answers: bool,  # noqa: FBT001
) -> None:
    topic = cluster.create_topic("t")
    second = await cluster.start_node()
    await until(metadata, lambda image: len(image.nodes) == 2 and "t" in image.topics)
    first = cluster.nodes[1]
    first.deaf = True
    if answers:
        first.hears_controller = False
    else:
        first.reading.clear()  # probes are not answered either
    cluster.move_leader(topic, 0, second.node_id)
    metadata.suspect()
    await until(metadata, lambda image: image.topics[T].partitions[0].leader_id == 2)
    first.reading.set()


async def test_while_no_node_hears_a_controller_any_one_will_do(
    cluster: FakeCluster, metadata: Metadata
) -> None:
    second = await cluster.start_node()
    await until(metadata, lambda image: len(image.nodes) == 2)
    for node in (cluster.nodes[1], second):
        node.hears_controller = False
    cluster.end_watches(cluster.nodes[1])
    cluster.create_topic("t")
    await until(metadata, lambda image: "t" in image.topics)


async def test_a_hint_is_taken_only_when_it_is_news(
    cluster: FakeCluster, metadata: Metadata
) -> None:
    topic = cluster.create_topic("t")
    await cluster.start_node()
    await until(metadata, lambda image: len(image.nodes) == 2 and "t" in image.topics)
    assert metadata.hint_leader(topic.topic_id, 0, 2, 5)
    assert metadata.image.topics[T].partitions[0].leader_id == 2
    assert not metadata.hint_leader(topic.topic_id, 0, 1, 5), "not newer"
    assert not metadata.hint_leader(topic.topic_id, 0, 77, 9), "no such node"
    assert not metadata.hint_leader(b"?" * 16, 0, 1, 9), "no such topic"
    cluster.create_topic("other")  # an image that still says epoch 0
    await until(metadata, lambda image: "other" in image.topics)
    assert metadata.image.topics[T].partitions[0].leader_epoch == 5


async def test_deletions_and_new_partitions_are_heard_of(
    cluster: FakeCluster, metadata: Metadata
) -> None:
    topic = cluster.create_topic("t")
    await until(metadata, lambda image: "t" in image.topics)
    cluster.add_partition(topic)
    await until(metadata, lambda image: len(image.topics[T].partitions) == 2)
    cluster.delete_topic("t")
    await until(metadata, lambda image: "t" not in image.topics)


async def test_waiting_for_a_version(cluster: FakeCluster, metadata: Metadata) -> None:
    waiting = asyncio.create_task(metadata.at_least(cluster.version + 1, timeout_s=5))
    await asyncio.sleep(0)
    cluster.create_topic("t")
    assert "t" in (await waiting).topics
    with pytest.raises(NodesUnreachableError, match="is awaited"):
        await metadata.at_least(cluster.version + 1, timeout_s=0.05)


async def test_waiting_for_news_ends_without_any(metadata: Metadata) -> None:
    known = metadata.image
    assert await metadata.newer_than(known, timeout_s=0.05) is known

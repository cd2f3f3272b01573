"""What a node keeps of partitions that went away while it was down."""

from pathlib import Path

from odradek.protocol.types import PartitionUid
from tests.node.fake_controller import fake_controller
from tests.node.replication.test_streams import until
from tests.node.running import ProduceClient, batch, running_node


async def test_what_went_away_meanwhile_is_dropped(tmp_path: Path) -> None:
    async with fake_controller() as controller:
        kept, deleted = controller.add_topic("kept"), controller.add_topic("deleted")
        moved = controller.add_topic("moved")
        async with running_node(tmp_path, controller) as node:
            produce = ProduceClient(node.channel)
            for topic in (kept, deleted, moved):
                assert (await produce.produce(topic, batch())).error.code == 0
            assert await node.storage.stored_uids() == [1, 2, 3]
        controller.remove_topic(deleted)
        moved.partitions[0].replicas[:] = moved.partitions[0].isr[:] = [9]
        moved.partitions[0].leader_id = 9
        async with running_node(tmp_path, controller) as node:
            await until(lambda: node.storage.log(PartitionUid(3)).log_end_offset == 0)
            assert await node.storage.stored_uids() == [1]
            produce = ProduceClient(node.channel)
            assert (await produce.produce(kept, batch())).base_offset == 1


async def test_controllers_that_lost_what_they_knew_have_nothing_dropped(tmp_path: Path) -> None:
    async with fake_controller() as controller:
        for name in ("a", "b"):
            topic = controller.add_topic(name)
        async with running_node(tmp_path, controller) as node:
            produce = ProduceClient(node.channel)
            assert (await produce.produce(topic, batch())).error.code == 0
    async with fake_controller() as controller:
        only = controller.add_topic("c", replicas=(9,), leader_id=9)
        async with running_node(tmp_path, controller) as node:
            await node.knows(controller)
            controller.add_topic("d", replicas=(9,), leader_id=9)
            await node.knows(controller)
            assert only.partitions[0].uid == 1
            assert await node.storage.stored_uids() == [2]

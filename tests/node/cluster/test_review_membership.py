"""What a registration tells of the node's data."""

from pathlib import Path

from odradek.v1 import metadata_pb2
from tests.node.fake_controller import fake_controller
from tests.node.running import ProduceClient, batch, running_node


async def test_lost_data_is_told_once(tmp_path: Path) -> None:
    async with fake_controller() as controller:
        topic = controller.add_topic("t")
        async with running_node(tmp_path, controller) as node:
            await node.knows(controller)
            await ProduceClient(node.channel).produce(topic, batch())
        (tmp_path / "durable.mark").unlink()
        async with running_node(tmp_path, controller) as node:
            assert controller.registrations[-1].lost_data
            count = len(controller.registrations)
            node.node._register_again()
            await controller.until(lambda: len(controller.registrations) > count)
            again = controller.registrations[-1]
            assert not again.lost_data
            assert not again.unclean_boot


async def test_a_node_tells_since_which_settings_everything_acknowledged_is_on_its_disk(
    tmp_path: Path,
) -> None:
    async with fake_controller() as controller:
        topic = controller.add_topic("t", config={"flush": "os"})
        async with running_node(tmp_path, controller) as node:
            await ProduceClient(node.channel).produce(topic, batch())
            assert controller.registrations[-1].synced_metadata_version == 0
            topic.config["flush"] = "commit"
            version = controller.publish(metadata_pb2.MetadataUpdate(topics=[topic]))
            await node.knows(controller)
        async with running_node(tmp_path, controller):
            assert controller.registrations[-1].synced_metadata_version == version

"""What was lost is told once: the next registration is of a node that has caught up since."""

from pathlib import Path

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

"""A fake controller and a node that has registered with it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.node.fake_controller import FakeController, fake_controller
from tests.node.running import RunningNode, running_node


@pytest.fixture
async def controller() -> AsyncIterator[FakeController]:
    """A controller in memory."""
    async with fake_controller() as running:
        yield running


@pytest.fixture
async def node(tmp_path: Path, controller: FakeController) -> AsyncIterator[RunningNode]:
    """A node, ready."""
    async with running_node(tmp_path, controller) as running:
        yield running

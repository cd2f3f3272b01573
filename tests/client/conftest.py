"""Fixtures of the SDK's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.client.fake_node import FakeCluster


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """A cluster of one node, in memory."""
    running = FakeCluster()
    await running.start_node()
    yield running
    await running.stop()

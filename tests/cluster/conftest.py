"""One cluster of three controllers and three nodes for all cluster tests.

A test may kill, stop and pause what it likes; whatever is down afterwards is started again, so that
the next test finds the cluster whole.
"""

from collections.abc import AsyncIterator

import pytest_asyncio

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster
from tests.cluster.shell import Shell

GROUP_SESSION_TIMEOUT_S = 5.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running_cluster() -> AsyncIterator[LocalCluster]:
    arguments = ["--group-session-timeout-s", str(GROUP_SESSION_TIMEOUT_S)]
    async with LocalCluster(nodes=3, controllers=3, node_arguments=arguments) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(running_cluster: LocalCluster) -> AsyncIterator[LocalCluster]:
    yield running_cluster
    everything = [*running_cluster.controllers.values(), *running_cluster.nodes.values()]
    crashes = [f"{each.name} crashed. {each.log_tail()}" for each in everything if each.crashed]
    for controller_id, controller in running_cluster.controllers.items():
        if not controller.is_running:
            await running_cluster.start_controller(controller_id)
    for node_id, node in running_cluster.nodes.items():
        if not node.is_running:
            await running_cluster.start_node(node_id)
    assert not crashes, "\n".join(crashes)


@pytest_asyncio.fixture(loop_scope="session")
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.bootstrap) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="session")
async def odradek(cluster: LocalCluster) -> AsyncIterator[Shell]:
    yield Shell(cluster.bootstrap)

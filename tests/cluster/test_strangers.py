"""Processes and bytes that do not belong: refused by name, and nobody else is disturbed."""

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster, LocalProcess, LocalProcessError
from tests.cluster.traffic import DEADLINE_S, load, new_topic, read_all, until

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

REFUSED = 3


def stranger(cluster: LocalCluster, node_id: int, data: Path, logs: Path) -> LocalProcess:
    """A node that wants to belong to the cluster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    controllers = ",".join(controller.address for controller in cluster.controllers.values())
    return LocalProcess(
        f"stranger {node_id}",
        module="odradek.node",
        arguments=[
            *("--id", str(node_id), "--listen", address),
            *("--controllers", controllers, "--data", str(data)),
        ],
        address=address,
        log_path=logs / "stranger.log",
    )


async def test_a_node_with_another_cluster_s_data_is_refused(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    async with LocalCluster(nodes=1, controllers=1, data_directory=tmp_path / "other") as other:
        foreign_id = (tmp_path / "other" / "cluster-id").read_text()
        data = other.data_directory / "node-1"
    for node_id, named in ((1, foreign_id), (9, "belongs to node 1, not to node 9")):
        intruder = stranger(cluster, node_id, data, tmp_path)
        await intruder.start()
        with pytest.raises(LocalProcessError, match=f"exit status {REFUSED}") as refused:
            await intruder.ready(timeout_s=DEADLINE_S)
        assert named in refused.value.message
    assert {node.node_id for node in (await client.admin.describe_cluster()).nodes} == {1, 2, 3}


async def test_a_second_node_with_the_same_id_is_refused(
    cluster: LocalCluster, client: Client, tmp_path: Path
) -> None:
    topic = await new_topic(client)
    async with load(client, topic) as running:
        double = stranger(cluster, 1, tmp_path / "data", tmp_path)
        await double.start()
        with pytest.raises(LocalProcessError, match=f"exit status {REFUSED}"):
            await double.ready(timeout_s=DEADLINE_S)
        await running.more()
    assert cluster.nodes[1].is_running
    assert await read_all(client, topic) == running.acknowledged


async def test_garbage_on_the_port_disturbs_nobody(cluster: LocalCluster, client: Client) -> None:
    topic = await new_topic(client)
    garbage = [
        os.urandom(64 * 1024),
        b"GET / HTTP/1.1\r\nHost: odradek\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096),
        b"\x00" * 100_000,
        b"",
    ]
    async with load(client, topic) as running:
        for process in (*cluster.nodes.values(), *cluster.controllers.values()):
            await asyncio.gather(*(throw(process.address, data) for data in garbage))
        await running.more()
    assert all(process.is_running for process in cluster.nodes.values())
    assert all(process.is_running for process in cluster.controllers.values())
    assert await read_all(client, topic) == running.acknowledged


async def throw(address: str, data: bytes) -> None:
    """Write bytes to a port and leave."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        pass  # thrown out before the end: as it should be


async def test_connections_beyond_the_limit_are_refused_and_streams_go_on() -> None:
    limit, dialled = 200, 1000
    arguments = ["--connections-max", str(limit)]
    async with (
        LocalCluster(nodes=1, controllers=1, node_arguments=arguments) as small,
        Client(small.bootstrap) as client,
    ):
        topic = await new_topic(client)
        host, _, port = small.nodes[1].address.rpartition(":")
        async with load(client, topic) as running:
            await running.more()
            async with AsyncExitStack() as dials:
                crowd = await asyncio.gather(*(dial(host, int(port)) for _ in range(dialled)))
                for writer in (writer for _, writer in crowd):
                    dials.callback(writer.close)
                refused = [asyncio.create_task(reader.read()) for reader, _ in crowd]
                await until(
                    lambda: sum(task.done() for task in refused) >= dialled - limit,
                    what="the crowd beyond the limit is refused",
                )
                await running.more()
                for task in refused:
                    task.cancel()
                await asyncio.gather(*refused, return_exceptions=True)
            await running.more()
        async with Client(small.bootstrap) as another:
            assert await read_all(another, topic) == running.acknowledged


async def dial(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(host, port)

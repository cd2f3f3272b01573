"""A node as a process: starting, stopping, refusing to run."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from odradek.protocol.errors import DuplicateNodeRegistrationError, InconsistentClusterIdError
from odradek.rpc.channels import open_channel
from tests.node.fake_controller import CLUSTER_ID, FakeController
from tests.node.running import ProduceClient, batch


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    async def event(self, name: str) -> dict[str, Any]:
        """Return the next event of this name."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while line := await self.process.stderr.readline():
                if line.startswith(b"{"):
                    self.events.append(json.loads(line))
                    if self.events[-1]["event"] == name:
                        return self.events[-1]
        raise AssertionError(f"no event {name!r} in {self.events}")

    async def exit_code(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def _node(
    data: Path, controller: FakeController, arguments: Sequence[str] = ("--id", "1")
) -> AsyncIterator[_Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "odradek.node",
        "--data", str(data), "--listen", "127.0.0.1:0", "--controllers", controller.address,
        *arguments,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield _Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_node_is_ready_and_stops_when_asked(
    tmp_path: Path, controller: FakeController
) -> None:
    async with _node(tmp_path, controller) as node:
        ready = await node.event("ready")
        assert (ready["program"], ready["node"], ready["cluster"]) == ("node", 1, CLUSTER_ID)
        node.process.send_signal(signal.SIGTERM)
        await node.event("stopped")
        assert await node.exit_code() == 0


async def test_acknowledged_records_survive_kill_9(
    tmp_path: Path, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    async with _node(tmp_path, controller) as node:
        ready = await node.event("ready")
        async with open_channel(ready["address"]) as channel:
            producer = ProduceClient(channel)
            for offset in range(10):
                assert (await producer.produce(topic, batch())).base_offset == offset
            node.process.kill()
            await node.exit_code()
    async with _node(tmp_path, controller) as node:
        ready = await node.event("ready")
        assert ready["lost_data"] is False
        async with open_channel(ready["address"]) as channel:
            assert (await ProduceClient(channel).produce(topic, batch())).base_offset == 10


@pytest.mark.parametrize(
    "refusal",
    [
        DuplicateNodeRegistrationError("node 1 is registered with another data directory"),
        InconsistentClusterIdError("this is another cluster"),
    ],
    ids=["a second node with the id", "another cluster"],
)
async def test_a_refused_node_says_why_and_ends_with_3(
    tmp_path: Path,
    controller: FakeController,
    refusal: DuplicateNodeRegistrationError | InconsistentClusterIdError,
) -> None:
    controller.refusal = refusal
    async with _node(tmp_path, controller) as node:
        event = await node.event("refused")
        assert refusal.message in event["reason"]
        assert await node.exit_code() == 3


async def test_a_directory_of_another_node_ends_with_3(
    tmp_path: Path, controller: FakeController
) -> None:
    async with _node(tmp_path, controller) as node:
        await node.event("ready")
        node.process.send_signal(signal.SIGTERM)
        await node.exit_code()
    async with _node(tmp_path, controller, ("--id", "2")) as node:
        assert "node 1" in (await node.event("refused"))["reason"]
        assert await node.exit_code() == 3


async def test_a_taken_port_and_a_taken_directory_end_with_1(
    tmp_path: Path, controller: FakeController
) -> None:
    async with _node(tmp_path / "a", controller) as first:
        address = (await first.event("ready"))["address"]
        listen = ("--id", "1", "--listen", address)
        async with _node(tmp_path / "b", controller, listen) as second:
            assert address in (await second.event("cannot run"))["reason"]
            assert await second.exit_code() == 1
        async with _node(tmp_path / "a", controller) as third:
            await third.event("cannot run")
            assert await third.exit_code() == 1


async def test_a_node_that_fails_says_why_and_ends_with_1(
    tmp_path: Path, controller: FakeController
) -> None:
    topic = controller.add_topic("t")
    async with _node(tmp_path, controller) as node:
        await node.event("ready")
        topic.partitions[0].uid += 1  # which no controller does
        controller.elect(topic, 0, 1)
        failed = await node.event("failed")
        assert failed["exception"][0]["exc_value"] == "uids are never reused"
        assert await node.exit_code() == 1

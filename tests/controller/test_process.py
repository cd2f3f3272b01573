"""The controller as people start it: real processes, real Raft, real disks."""

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from odradek.protocol.errors import NotControllerError
from odradek.rpc.channels import ConnectionLostError, error_from_rpc, open_channel
from odradek.v1 import admin_pb2, controller_pb2, controller_pb2_grpc
from tests.controller.served import Node

pytestmark = pytest.mark.cluster


class Started:
    """A controller's process and what it said."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Read its log up to an event."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while line := await self.process.stderr.readline():
                if not line.startswith(b"{"):
                    continue  # gRPC's own complaints
                self.said.append(json.loads(line))
                if self.said[-1]["event"] == event:
                    return self.said[-1]
        raise AssertionError(f"ended before {event!r}: {self.said}")

    async def end(self, number: signal.Signals) -> int:
        """Send a signal; return the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Return the exit code of a process that ends by itself.

        A signal then could be what finds it dead, and asyncio would never learn of its exit code.
        """
        await asyncio.wait_for(self.process.communicate(), 20)
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def controller(data: Path, *arguments: str, number: int = 1) -> AsyncIterator[Started]:
    command = ["-m", "odradek.controller", "--id", str(number), "--data", str(data)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--log-format", "json", *arguments, stderr=PIPE
    )
    started = Started(process)
    try:
        yield started
    finally:
        await started.end(signal.SIGKILL)


async def test_a_single_controller_keeps_what_it_decided_over_kill_and_stop(
    tmp_path: Path,
) -> None:
    listen = ("--listen", "127.0.0.1:0")
    async with controller(tmp_path / "c", *listen, "--bootstrap") as first:
        node = Node(1, (await first.until("listening"))["port"])
        await first.until("ready")
        registered = await node.register()
        await node.start()
        await node.create("t", 6)
        await first.end(signal.SIGKILL)
        await node.channel.close()
    for process in (b"q", b"r"):
        async with controller(tmp_path / "c", *listen) as again:
            node = Node(1, (await again.until("listening"))["port"])
            node.incarnation = registered.incarnation
            await again.until("ready")
            response = await node.register(process)
            assert response.cluster_id == registered.cluster_id
            assert response.incarnation > registered.incarnation
            assert response.controller_epoch > registered.controller_epoch
            registered = response
            image = await node.watch().read()
            (topic,) = image.metadata.topics
            assert (topic.name, len(topic.partitions)) == ("t", 6)
            await node.channel.close()
            assert await again.end(signal.SIGTERM) == 0


async def test_an_empty_directory_needs_bootstrap(tmp_path: Path) -> None:
    async with controller(tmp_path / "c", "--listen", "127.0.0.1:0") as started:
        event = await started.until("cannot run")
        assert "bootstrap" in event["reason"]
        assert await started.ended() == 1


async def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with controller(tmp_path / "c", "--listen", address, "--bootstrap") as started:
            assert address in (await started.until("cannot run"))["reason"]
            assert await started.ended() == 1


async def _active(ports: list[int]) -> int:
    """Return the index of the controller that answers a request as the active one."""
    while True:
        for index, port in enumerate(ports):
            channel = open_channel(f"127.0.0.1:{port}")
            stub = controller_pb2_grpc.ControllerServiceStub(channel)
            try:
                await stub.Submit(controller_pb2.SubmitRequest(node_id=1), timeout=5)
            except grpc.aio.AioRpcError as failure:
                error = error_from_rpc(failure)
                assert isinstance(error, NotControllerError | ConnectionLostError), error
            else:
                return index
            finally:
                await channel.close()


async def test_three_controllers_survive_the_death_of_the_active_one(tmp_path: Path) -> None:
    held = [socket.socket() for _ in range(3)]
    for each in held:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    peers = [f"--peer={number}=127.0.0.1:{port}" for number, port in enumerate(ports, 1)]

    def start(number: int) -> Any:
        return controller(
            tmp_path / str(number),
            f"--listen=127.0.0.1:{ports[number - 1]}",
            *peers,
            "--bootstrap",
            number=number,
        )

    async with start(1) as one, start(2) as two, start(3) as three:
        started = [one, two, three]
        await asyncio.gather(*(each.until("ready") for each in started))
        async with asyncio.timeout(20):
            first = await _active(ports)
        node = Node(1, ports[first])
        await node.start()
        create = controller_pb2.SubmitRequest(
            node_id=1,
            incarnation=node.incarnation,
            sequence=1,
            create_topics=admin_pb2.CreateTopicsRequest(
                topics=[admin_pb2.NewTopic(name="t", partitions=6)]
            ),
        )
        created = await node.stub.Submit(create)
        await started[first].end(signal.SIGKILL)
        await node.channel.close()
        async with asyncio.timeout(20):
            second = await _active(ports)
        assert second != first
        heir = Node(1, ports[second])
        # The answer was replicated with its effect: the retry gets it from the new controller.
        repeated = await heir.stub.Submit(create)
        assert repeated.create_topics.topics == created.create_topics.topics
        assert repeated.version >= created.version
        heir.incarnation = node.incarnation
        update = await heir.watch().read()
        assert [topic.name for topic in update.metadata.topics] == ["t"]
        await heir.channel.close()
    for each in held:
        each.close()


async def test_a_path_that_is_no_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("not a directory")
    listen = ("--listen", "127.0.0.1:0")
    async with controller(tmp_path / "c", *listen, "--bootstrap") as started:
        assert "exists" in (await started.until("cannot run"))["reason"]
        assert await started.ended() == 1

"""A whole cluster on this machine: real controllers and nodes as processes on loopback.

Problem: trying Odradek, testing a service, and testing Odradek itself all need a cluster at once,
without containers. Idea: start the programs as anyone would, on ports that are held for the
cluster's life: a socket that is bound but never listens, with SO_REUSEADDR, keeps the kernel from
giving its port to anyone who asks for *some* port, and lets the program that names it listen there,
also after a restart.

Invariants: leaving the `async with` block has ended every process; a directory made here is
removed, one given is kept.

Source: ip(7), socket(7). gRPC servers set SO_REUSEADDR; ours switch SO_REUSEPORT off.
"""

import asyncio
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from odradek.client.client import Client
from odradek.client.local.process import LocalProcess, LocalProcessError

__all__ = ["LocalCluster", "LocalProcess", "LocalProcessError", "ServerNotInstalledError"]
_HOST = "127.0.0.1"
_CONTROLLER_MODULE = "odradek.controller"
_NODE_MODULE = "odradek.node"
_POLL_INTERVAL_S = 0.05


class ServerNotInstalledError(LocalProcessError):
    """A local cluster needs the server programs: pip install 'odradek[server]'."""


class LocalCluster:
    """Controllers and nodes as processes of this machine, started and stopped together.

    Processes are numbered from 1. Each one can be killed, stopped, paused and started again:
    `await cluster.nodes[1].kill()`, then `await cluster.start_node(1)`.

    Args:
        nodes: How many nodes; at least 1.
        controllers: How many controllers: 1, 3 or 5.
        data_directory: Where data and logs go; kept. None: a temporary one, removed at the end.
        port: The first node's port; 0: any free one.
        node_arguments: Further flags for every node.
        controller_arguments: Further flags for every controller.
        ready_timeout_s: How long the start may take until every node serves.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        controllers: int = 3,
        data_directory: Path | None = None,
        port: int = 0,
        node_arguments: Sequence[str] = (),
        controller_arguments: Sequence[str] = (),
        ready_timeout_s: float = 30.0,
    ) -> None:
        if find_spec("rocksdict") is None or find_spec("pysyncobj") is None:
            raise ServerNotInstalledError
        if nodes < 1:
            raise ValueError(f"nodes={nodes}: a cluster needs at least 1 node")
        if controllers not in {1, 3, 5}:
            raise ValueError(f"controllers={controllers}: use 1, 3 or 5, a number with a majority")
        self._node_count = nodes
        self._controller_count = controllers
        self._given_directory = data_directory
        self._first_port = port
        self._node_arguments = tuple(node_arguments)
        self._controller_arguments = tuple(controller_arguments)
        self._ready_timeout_s = ready_timeout_s
        self._resources = AsyncExitStack()
        self._nodes: dict[int, LocalProcess] = {}
        self._controllers: dict[int, LocalProcess] = {}
        self.data_directory = data_directory or Path()

    @property
    def nodes(self) -> Mapping[int, LocalProcess]:
        """The nodes by id, running or not."""
        return MappingProxyType(self._nodes)

    @property
    def controllers(self) -> Mapping[int, LocalProcess]:
        """The controllers by id, running or not."""
        return MappingProxyType(self._controllers)

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes, as a client's `bootstrap` wants them."""
        return ",".join(node.address for node in self._nodes.values())

    async def __aenter__(self) -> Self:
        """Start every process and wait until every node serves.

        Raises:
            LocalProcessError: The port is taken, or one did not start; holds the tail of its log.
            OSError: The directory cannot be written.
        """
        async with AsyncExitStack() as undo:
            await self._start(undo)
            self._resources = undo.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every process, then free ports and a temporary directory."""
        await self._resources.aclose()

    async def active_controller(self) -> int:
        """Return the id of the controller that decides at the moment, as the nodes know it.

        Waits while there is none: an election is under way.

        Raises:
            LocalProcessError: There was none in time.
        """
        try:
            async with asyncio.timeout(self._ready_timeout_s), Client(self.bootstrap) as client:
                while True:
                    active = await self._known_active(client)
                    if active is not None:
                        return active
                    await asyncio.sleep(_POLL_INTERVAL_S)
        except TimeoutError:
            raise LocalProcessError(
                f"no controller was active within {self._ready_timeout_s:g} s"
            ) from None

    async def start_node(self, node_id: int, *extra_arguments: str) -> None:
        """Start a node that was stopped or killed; return once it serves.

        Raises:
            LocalProcessError: It runs already, or did not start.
        """
        await self._start_and_wait(self._nodes[node_id], extra_arguments)

    async def add_node(self, *extra_arguments: str) -> int:
        """Start one more node, with an empty data directory; return its id once it serves.

        Raises:
            LocalProcessError: It did not start.
        """
        node_id = max(self._nodes) + 1
        self._describe_node(node_id, self._reserve(self._resources))
        await self.start_node(node_id, *extra_arguments)
        return node_id

    async def start_controller(self, controller_id: int, *extra_arguments: str) -> None:
        """Start a controller that was stopped or killed; return once it serves.

        Raises:
            LocalProcessError: It runs already, or did not start.
        """
        await self._start_and_wait(self._controllers[controller_id], extra_arguments)

    async def _start(self, undo: AsyncExitStack) -> None:
        if self._given_directory is None:
            made = Path(tempfile.mkdtemp(prefix="odradek-"))
            undo.push_async_callback(asyncio.to_thread, shutil.rmtree, made, ignore_errors=True)
            self.data_directory = made
        controller_ports = [self._reserve(undo) for _ in range(self._controller_count)]
        node_ports = [self._reserve(undo, self._first_port)]
        node_ports += [self._reserve(undo) for _ in range(1, self._node_count)]
        self._describe_controllers(controller_ports)
        for node_id, port in enumerate(node_ports, start=1):
            self._describe_node(node_id, port)
        # Data that is removed anyway needs no clean stop.
        end = _kill if self._given_directory is None else _stop
        undo.push_async_callback(end, self._controllers.values())
        undo.push_async_callback(end, self._nodes.values())  # a view: of nodes added later, too
        for process in (*self._controllers.values(), *self._nodes.values()):
            await process.start()
        await self._all_ready()

    async def _known_active(self, client: Client) -> int | None:
        """Return who a node believes is active; one that was killed here a moment ago is not."""
        return next(
            (
                controller.controller_id
                for controller in (await client.admin.describe_cluster()).controllers
                if controller.active
                and controller.controller_id is not None
                and self._controllers[controller.controller_id].is_running
            ),
            None,
        )

    def _describe_controllers(self, ports: Sequence[int]) -> None:
        peers = [
            flag
            for peer, port in enumerate(ports, start=1)
            for flag in ("--peer", f"{peer}={_HOST}:{port}")
        ]
        identity = ["--cluster-id", self._cluster_id(), "--bootstrap"]
        for controller_id, port in enumerate(ports, start=1):
            self._controllers[controller_id] = self._process(
                "controller",
                controller_id,
                port,
                module=_CONTROLLER_MODULE,
                arguments=[*peers, *identity, *self._controller_arguments],
            )

    def _describe_node(self, node_id: int, port: int) -> None:
        controllers = ",".join(each.address for each in self._controllers.values())
        self._nodes[node_id] = self._process(
            "node",
            node_id,
            port,
            module=_NODE_MODULE,
            arguments=["--controllers", controllers, *self._node_arguments],
        )

    def _process(
        self, program: str, process_id: int, port: int, *, module: str, arguments: Sequence[str]
    ) -> LocalProcess:
        name = f"{program}-{process_id}"
        address = f"{_HOST}:{port}"
        data = self.data_directory / name
        identity = ["--id", str(process_id), "--listen", address, "--data", str(data)]
        return LocalProcess(
            f"{program} {process_id}",
            module=module,
            arguments=[*identity, *arguments],
            address=address,
            log_path=self.data_directory / "logs" / f"{name}.log",
        )

    def _cluster_id(self) -> str:
        """Return the id this directory's cluster has, a new one for a new directory."""
        path = self.data_directory / "cluster-id"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid.uuid4().hex)
        return path.read_text().strip()

    def _reserve(self, undo: AsyncExitStack, port: int = 0) -> int:
        """Hold a port until the cluster ends and return it."""
        held = undo.enter_context(socket.socket())
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((_HOST, port))
        except OSError as error:
            raise LocalProcessError(f"port {port} of {_HOST} is taken; choose another") from error
        number: int = held.getsockname()[1]
        return number

    async def _start_and_wait(self, process: LocalProcess, extra: Sequence[str]) -> None:
        await process.start(*extra)
        await process.ready(timeout_s=self._ready_timeout_s)

    async def _all_ready(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for process in (*self._controllers.values(), *self._nodes.values()):
                    group.create_task(process.ready(timeout_s=self._ready_timeout_s))
        except* LocalProcessError as failures:
            # The first to fail is the reason why others wait; one log is enough to read.
            raise failures.exceptions[0] from None


async def _stop(processes: Iterable[LocalProcess]) -> None:
    """Stop those of the processes that still run, all at once."""
    await asyncio.gather(*(process.stop() for process in processes if process.is_running))


async def _kill(processes: Iterable[LocalProcess]) -> None:
    """Kill those of the processes that still run, all at once."""
    await asyncio.gather(*(process.kill() for process in processes if process.is_running))

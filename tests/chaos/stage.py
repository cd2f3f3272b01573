"""Everything a run consists of: the cluster, its network, its clocks, its clients, its history."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster
from odradek.client.local.process import LocalProcess
from tests.chaos.clocks import Clocks
from tests.chaos.consuming import GROUPS, member_name
from tests.chaos.fabric import Fabric
from tests.chaos.history import HistoryFile, Stop, now_ns
from tests.chaos.progress import Progress

TOPIC: Final = "chaos"
_CONFIG: Final = {"message.timestamp.after.max.ms": str(1 << 40)}
"""A node whose clock is set back would rightly refuse every record as from the future."""
GROUP_SESSION_TIMEOUT_S: Final = 5.0
DELIVERY_TIMEOUT_S: Final = {"patient": 120.0, "hasty": 3.0}
"""The two kinds of producer: one outlives every fault, one gives up soon."""
_ROOT: Final = Path(__file__).parents[2]
_ENV: Final = shutil.which("env") or "/usr/bin/env"
DEADLINE_S: Final = 60.0
_POLL_INTERVAL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """How large a run is.

    Attributes:
        nodes: How many.
        controllers: 1, 3 or 5.
        replication: Replicas of each partition.
        partitions: Of the run's topic.
        rate: Send operations a second, over both producers.
        members: Processes that are members of both groups.
    """

    nodes: int = 3
    controllers: int = 3
    replication: int = 3
    partitions: int = 6
    rate: float = 100.0
    members: int = 2


class ChaosCluster(LocalCluster):
    """A local cluster whose processes each have a network interface and a clock of their own."""

    def __init__(
        self,
        options: StageOptions,
        directory: Path,
        fabric: Fabric,
        environments: Mapping[str, Mapping[str, str]],
    ) -> None:
        super().__init__(
            nodes=options.nodes,
            controllers=options.controllers,
            data_directory=directory,
            node_arguments=["--group-session-timeout-s", str(GROUP_SESSION_TIMEOUT_S)],
            ready_timeout_s=60.0,
        )
        self._fabric = fabric
        self._environments = environments

    def _process(
        self, program: str, process_id: int, port: int, *, module: str, arguments: Sequence[str]
    ) -> LocalProcess:
        made = super()._process(program, process_id, port, module=module, arguments=arguments)
        self._fabric.locate(made.name, made.address)  # before anybody dials it
        return with_environment(made, self._environments[made.name])


def with_environment(process: LocalProcess, variables: Mapping[str, str]) -> LocalProcess:
    """Let a process start with further environment variables; env(1) keeps its pid."""
    settings = [f"{name}={value}" for name, value in dict(variables).items()]
    process._command = (_ENV, *settings, *process._command)
    return process


class Stage:
    """A running cluster with its clients.

    Attributes:
        cluster: Controllers and nodes.
        fabric: The links between all processes, clients included.
        clocks: Of controllers and nodes; None where they cannot be set.
        admin: A client of the harness, whose links nobody cuts.
        history: What the nemesis does.
        progress: What the clients have achieved.
        producers: By what kind they are.
        readers: By name.
        members: The present members by name.
    """

    def __init__(self, options: StageOptions, directory: Path) -> None:
        self.options = options
        self.directory = directory
        self.fabric = Fabric()
        self.clocks = Clocks.build(directory / "clocks")
        self.history = HistoryFile(self._history_path("nemesis"))
        self.progress = Progress(self.history_directory)
        self.producers: dict[str, LocalProcess] = {}
        self.readers: dict[str, LocalProcess] = {}
        self.members: dict[str, LocalProcess] = {}
        self.cluster: ChaosCluster
        self.admin: Client
        self._resources = AsyncExitStack()
        self._worker_count = 0

    @property
    def history_directory(self) -> Path:
        """Where each process writes its part of the history."""
        return self.directory / "history"

    @property
    def servers(self) -> list[LocalProcess]:
        """Controllers and nodes."""
        return [*self.cluster.controllers.values(), *self.cluster.nodes.values()]

    @property
    def clients(self) -> list[LocalProcess]:
        """Producers, readers and members."""
        return [*self.producers.values(), *self.readers.values(), *self.members.values()]

    @property
    def client_names(self) -> list[str]:
        """The names of the present clients, as the fabric knows them."""
        return [each.name for each in self.clients]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.callback(self.history.close)
            await undo.enter_async_context(self.fabric)
            environments = {
                name: await self._environment(name)
                for program, count in (
                    ("controller", self.options.controllers),
                    ("node", self.options.nodes),
                )
                for name in (f"{program} {index}" for index in range(1, count + 1))
            }
            self.cluster = ChaosCluster(self.options, self.directory, self.fabric, environments)
            await undo.enter_async_context(self.cluster)
            self.admin = await undo.enter_async_context(Client(self.cluster.bootstrap))
            await self.admin.admin.create_topic(
                TOPIC,
                partitions=self.options.partitions,
                replication=self.options.replication,
                config=_CONFIG,
            )
            undo.push_async_callback(self._kill_clients)
            await self._start_clients()
            self._resources = undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    async def _environment(self, name: str) -> dict[str, str]:
        clock = self.clocks.environment(name) if self.clocks is not None else {}
        return await self.fabric.interface(name) | clock

    # Clients

    async def _start_clients(self) -> None:
        for kind in DELIVERY_TIMEOUT_S:
            await self.start_producer(kind)
        self.readers["reader"] = await self._start_worker("read", "reader")
        for _ in range(self.options.members):
            await self.start_member()

    async def start_producer(self, kind: str) -> None:
        """Start a producer in the place of one that was killed."""
        timeout_s = DELIVERY_TIMEOUT_S[kind]
        pace = ["--rate", str(self.options.rate / 2), "--delivery-timeout-s", str(timeout_s)]
        self.producers[kind] = await self._start_worker("produce", self._new_name(kind), *pace)

    async def kill_producer(self, kind: str) -> None:
        """Kill a producer; what became of its outstanding sends nobody knows."""
        await self.producers.pop(kind).kill()

    async def start_member(self) -> None:
        """Let another process join both groups."""
        name = self._new_name("member")
        self.members[name] = await self._start_worker("join", name)

    async def kill_member(self, name: str) -> None:
        """Kill a member."""
        at_ns = now_ns()
        self.history.write(
            *(Stop(at_ns, member_name(name, group), killed=True) for group in GROUPS)
        )
        await self.members.pop(name).kill()

    def _new_name(self, kind: str) -> str:
        self._worker_count += 1
        return f"{kind}-{self._worker_count}"

    async def stop_producers(self) -> None:
        """Let the producers finish what they have begun."""
        await _end(self.producers)

    async def stop_consumers(self) -> None:
        """Let readers and members end; members leave their groups."""
        await _end(self.readers)
        await _end(self.members)

    async def drain(self) -> None:
        """Read everything once more, from the start to the end."""
        final = await self._start_worker("drain", "final")
        self.readers["final"] = final
        status = await final.wait()
        assert status == 0, f"the final reader ended with {status}. {final.log_tail()}"
        del self.readers["final"]

    async def _start_worker(self, role: str, name: str, *more: str) -> LocalProcess:
        """Start a worker; return once it heeds SIGTERM, which its history file shows."""
        history = self._history_path(name)
        arguments = [role, name, "--bootstrap", self.cluster.bootstrap, "--topic", TOPIC]
        arguments += ["--partitions", str(self.options.partitions)]
        arguments += ["--history", str(history), *more]
        worker = LocalProcess(
            name,
            module="tests.chaos.worker",
            arguments=arguments,
            address="",
            log_path=self.directory / "logs" / f"{name}.log",
        )
        variables = await self.fabric.interface(name) | {"PYTHONPATH": _python_path()}
        await with_environment(worker, variables).start()

        async def has_begun() -> bool:
            return history.exists() or worker.crashed

        try:
            await until(has_begun, what=f"{name} writes its history")
        except BaseException:
            await worker.kill()  # nobody else knows it yet
            raise
        return worker

    def _history_path(self, name: str) -> Path:
        return self.history_directory / f"{name}.jsonl"

    async def _kill_clients(self) -> None:
        await asyncio.gather(*(each.kill() for each in self.clients if each.is_running))

    # State

    def crashes(self) -> list[str]:
        """Return what ended without having been asked to."""
        everything = [*self.servers, *self.clients]
        return [f"{each.name} crashed. {each.log_tail()}" for each in everything if each.crashed]

    async def active_controller(self) -> int:
        """Return which controller is active, once one is."""
        while True:
            described = await self.admin.admin.describe_cluster()
            for controller in described.controllers:
                if controller.active and controller.controller_id is not None:
                    return controller.controller_id
            await asyncio.sleep(0.1)

    async def leaders(self) -> dict[int, int]:
        """Return how many partitions each node leads."""
        topic = await self.admin.admin.describe_topic(TOPIC)
        counts = dict.fromkeys(self.cluster.nodes, 0)
        for partition in topic.partitions:
            if partition.leader is not None:
                counts[partition.leader] += 1
        return counts

    async def is_whole(self) -> bool:
        """Whether every partition has a leader and all its replicas in sync."""
        topic = await self.admin.admin.describe_topic(TOPIC)
        return all(
            each.leader is not None and set(each.isr) == set(each.replicas)
            for each in topic.partitions
        )

    async def until_whole(self) -> None:
        """Return once every replica is in sync.

        Raises:
            StuckError: It did not happen in time.
        """
        await until(self.is_whole, what="every partition led, with all replicas in sync")


def _python_path() -> str:
    """Return where a worker finds this package, and what this process was told to prefer."""
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))


async def _end(workers: dict[str, LocalProcess]) -> None:
    while workers:
        name, process = workers.popitem()
        status = await process.stop(timeout_s=DEADLINE_S)
        assert status == 0, f"{name} ended with {status}. {process.log_tail()}"


class StuckError(Exception):
    """Something that must happen by itself did not."""


async def until(
    holds: Callable[[], Awaitable[bool]], *, what: str, deadline_s: float = DEADLINE_S
) -> None:
    """Return once a condition holds; polls, since the world outside sends no events.

    Raises:
        StuckError: Not within the deadline.
    """
    try:
        async with asyncio.timeout(deadline_s):
            while not await holds():  # noqa: ASYNC110  other processes set no event of ours
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError:
        raise StuckError(f"not within {deadline_s:g} s: {what}") from None

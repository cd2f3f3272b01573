"""A real cluster whose machines can lose power: traced processes, killed, cut back, started again.

Problem: kill -9 leaves the page cache, and so never asks whether the syncs were right. Idea: each
process runs under the tracer; when its machine "loses power" it is killed, its trace replayed into
the model of its disk, and its directory replaced by what the model says may be left.

Invariant: before anything is cut, the replayed disk equals the real one: the tracer missed nothing.
"""

import asyncio
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Self

from odradek.client.local.cluster import LocalCluster
from odradek.client.local.process import LocalProcess
from tests.powerloss.batch_identities import BatchIdentities
from tests.powerloss.disk import Disk, Tree
from tests.powerloss.tracer import Tracer, build_tracer, differences, materialise, scan, subtree

_NODE_ARGUMENTS = ("--storage-reserve-bytes", str(64 << 20), "--group-session-timeout-s", "5")


class PowerLossCluster:
    """A local cluster under the tracer; an async context manager.

    Args:
        directory: For everything; kept, so that a failure can be looked at.
        nodes: How many nodes.
        controllers: How many controllers.
        chance: Decides what a cut leaves.
    """

    def __init__(
        self, directory: Path, *, chance: random.Random, nodes: int = 3, controllers: int = 3
    ) -> None:
        directory = directory.resolve()
        self._directory = directory
        self._chance = chance
        library = build_tracer(directory / "tracer")
        self._tracer = Tracer(library, directory / "disk", directory / "traces")
        self._tracer.prepare()
        self.local = LocalCluster(
            nodes=nodes,
            controllers=controllers,
            data_directory=self._tracer.root,
            node_arguments=_NODE_ARGUMENTS,
        )
        self._disks: dict[str, Disk] = {}
        self._identities = BatchIdentities(directory / "copy")
        self.cuts = 0
        """So many disks were cut."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            with _environment(self._tracer):
                await undo.enter_async_context(self.local)
            self._disks = {name: Disk({}) for name in self.processes}
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        everything = [each for each in self.processes.values() if each.is_running]
        await asyncio.gather(*(process.kill() for process in everything))
        await self._undo.aclose()

    @property
    def processes(self) -> dict[str, LocalProcess]:
        """Every process by the name of its directory: `node-1`, `controller-3`."""
        nodes = {f"node-{number}": node for number, node in self.local.nodes.items()}
        controllers = {
            f"controller-{number}": each for number, each in self.local.controllers.items()
        }
        return nodes | controllers

    async def lose_power(self, victims: Iterable[str]) -> None:
        """Cut the power of machines at once, and leave them off.

        Raises:
            AssertionError: One (partition, epoch, offset) names two batches.
        """
        victims = list(victims)
        pids = {name: self.processes[name].pid for name in victims}
        await asyncio.gather(*(self.processes[name].kill() for name in victims))
        for name in victims:
            await self._cut(name, pids[name])
        self._tracer.reboot()

    async def start(self, names: Iterable[str]) -> None:
        """Start machines; return once they serve.

        Raises:
            AssertionError: A node says that it lost data that was synced.
        """
        names = list(names)
        sizes = {name: self.processes[name].log_path.stat().st_size for name in names}
        with _environment(self._tracer):
            await asyncio.gather(*map(self._start, names))
        for name in names:
            said = self.processes[name].log_path.read_bytes()[sizes[name] :].decode()
            assert not _tells_lost_data(said), f"{name} lost data:\n{said}"

    async def _start(self, name: str) -> None:
        program, _, number = name.partition("-")
        if program == "node":
            await self.local.start_node(int(number))
        else:
            await self.local.start_controller(int(number))

    async def _cut(self, name: str, pid: int) -> None:
        root, disk = self._tracer.root, self._disks[name]
        operations = self._tracer.operations(pid)
        disk.on_process_ended()
        disk.apply_all(each.operation for each in operations)
        missed = differences(disk, _prefixed(name, scan(root / name)), operations)
        assert not missed, f"the tracer missed changes of {missed}"
        tree = disk.cut(self._chance)
        if name.startswith("node"):
            await self._identities.note(subtree(disk.current(), name))
            await self._identities.note(subtree(tree, name))
        materialise(subtree(tree, name), root / name)
        self._tracer.forget(pid)
        self._disks[name] = Disk(tree)
        self.cuts += 1


@contextmanager
def _environment(tracer: Tracer) -> Iterator[None]:
    """Have every process started meanwhile traced."""
    before = dict(os.environ)
    os.environ.update(tracer.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _prefixed(directory: str, tree: Tree) -> Tree:
    return {directory: None} | {f"{directory}/{path}": each for path, each in tree.items()}


def _tells_lost_data(said: str) -> bool:
    return any(
        "ready" in line and "lost_data" in line and "rue" in line for line in said.split("\n")
    )

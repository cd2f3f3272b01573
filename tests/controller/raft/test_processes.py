"""Real processes: kill -9, SIGSTOP, and a full disk. No acknowledged command may be lost."""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

DEADLINE_S = 20.0


class Member:
    """One process and the conversation with it."""

    def __init__(self, cluster: "ProcessCluster", number: int) -> None:
        self.number = number
        self._cluster = cluster
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[str, asyncio.Queue[Any]] = {}

    async def start(self, *extra: str) -> None:
        self._answers = {"status": asyncio.Queue(100), "keys": asyncio.Queue(100)}
        cluster = self._cluster
        with (cluster.base / f"{self.number}.log").open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.controller.raft.member",
                "--id", str(self.number), "--count", str(len(cluster.members)),
                "--base", str(cluster.base), *cluster.extra, *extra,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                limit=1 << 24,
            )  # fmt: skip
        self._reader = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while (line := (await process.stdout.readline()).decode()).endswith("\n"):
            kind, _, rest = line.strip().partition(" ")
            if kind in self._answers:
                self._answers[kind].put_nowait(json.loads(rest))
            elif kind == "acked":
                self._cluster.on_acked(rest)

    def tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(line.encode() + b"\n")

    async def ask(self, what: str) -> Any:
        """Return the answer, or None from a process that is dead or stopped."""
        self.tell(what)
        try:
            async with asyncio.timeout(1.0):
                return await self._answers[what].get()
        except TimeoutError:
            return None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        await self.ended()

    async def ended(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(DEADLINE_S):
            code = await self._process.wait()
            assert self._reader is not None
            await self._reader
        return code


class ProcessCluster:
    def __init__(self, base: Path, count: int, *extra: str) -> None:
        self.base = base
        self.extra = extra
        self.acked: set[str] = set()
        self.members = [Member(self, number) for number in range(count)]
        self.proposed = 0
        self._acked_more = asyncio.Event()

    async def leader(self, *, among: list[Member] | None = None) -> Member:
        """Wait for a controller that leads."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for member in among or self.members:
                    status = await member.ask("status")
                    if status is not None and status["is_leader"]:
                        return member

    async def propose(self, member: Member, count: int) -> None:
        """Hand over proposals; `acked` tells their fate."""
        for _ in range(count):
            self.proposed += 1
            member.tell(f"propose key-{self.proposed}")

    async def propose_until(self, member: Member, acked: int) -> None:
        """Keep a controller busy until so many proposals of all have been acknowledged."""
        async with asyncio.timeout(DEADLINE_S):
            while (before := len(self.acked)) < acked:
                await self.propose(member, 20)
                await self.wait_for_acked(before + 1)

    async def wait_for_acked(self, count: int) -> None:
        while len(self.acked) < count:
            await self._acked_more.wait()

    def on_acked(self, key: str) -> None:
        self.acked.add(key)
        self._acked_more.set()
        self._acked_more = asyncio.Event()

    async def check(self) -> None:
        """Wait until all have applied the same, then look for what was acknowledged."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                statuses = [await member.ask("status") for member in self.members]
                applied = {status and status["applied"] for status in statuses}
                if None not in applied and len(applied) == 1:
                    break
        keys = [await member.ask("keys") for member in self.members]
        assert all(one == keys[0] for one in keys)
        assert len(set(keys[0])) == len(keys[0])
        assert self.acked <= set(keys[0]), f"lost: {sorted(self.acked - set(keys[0]))[:5]}"


@contextlib.asynccontextmanager
async def running(count: int, *extra: str) -> AsyncIterator[ProcessCluster]:
    base = Path(tempfile.mkdtemp(prefix="raft-"))  # short: the paths of sockets are limited
    cluster = ProcessCluster(base, count, *extra)
    try:
        for member in cluster.members:
            await member.start()
        yield cluster
    finally:
        for member in cluster.members:
            await member.kill()
        shutil.rmtree(base)


async def test_one_controller_alone_leads_and_keeps_everything() -> None:
    async with running(1, "--snapshot-after", "100") as cluster:
        [member] = cluster.members
        for _ in range(3):
            await cluster.leader()
            await cluster.propose_until(member, len(cluster.acked) + 200)
            await member.kill()
            await member.start()
        await cluster.leader()
        await cluster.check()


async def test_kill_9_of_the_leader_again_and_again() -> None:
    async with running(3, "--snapshot-after", "150") as cluster:
        for _ in range(4):
            leader = await cluster.leader()
            await cluster.propose_until(leader, len(cluster.acked) + 100)
            await cluster.propose(leader, 50)
            await leader.kill()
            survivors = [member for member in cluster.members if member is not leader]
            successor = await cluster.leader(among=survivors)
            await cluster.propose_until(successor, len(cluster.acked) + 50)
            await leader.start()
        await cluster.leader()
        await cluster.check()
        assert len(cluster.acked) >= 600


async def test_kill_9_of_all_during_compaction() -> None:
    async with running(3, "--snapshot-after", "25") as cluster:
        for place in range(4):
            leader = await cluster.leader()
            # Snapshots are being written all the time.
            await cluster.propose_until(leader, len(cluster.acked) + 60 + 7 * place)
            await cluster.propose(leader, 30)
            for member in cluster.members:
                member.signal(signal.SIGKILL)
            for member in cluster.members:
                await member.ended()
            for member in cluster.members:
                await member.start()
        await cluster.leader()
        await cluster.check()


async def test_a_leader_that_slept_past_a_compaction() -> None:
    async with running(3, "--snapshot-after", "50") as cluster:
        sleeper = await cluster.leader()
        await cluster.propose_until(sleeper, 30)
        sleeper.signal(signal.SIGSTOP)
        await cluster.propose(sleeper, 20)  # it finds them when it wakes, deposed
        others = [member for member in cluster.members if member is not sleeper]
        successor = await cluster.leader(among=others)
        await cluster.propose_until(successor, 300)
        async with asyncio.timeout(DEADLINE_S):  # until what the sleeper lacks is compacted away
            while (await successor.ask("status"))["first"] < 150:
                await cluster.propose(successor, 10)
        sleeper.signal(signal.SIGCONT)
        await cluster.leader()
        await cluster.check()


async def test_a_full_disk_ends_the_controller_and_loses_nothing() -> None:
    async with running(3) as cluster:
        victim = cluster.members[0]
        await victim.kill()
        await victim.start("--file-bytes-max", "60000")
        leader = await cluster.leader()
        await cluster.propose_until(leader, 50)
        while len(cluster.acked) < 60_000 // 200 + 100:
            leader = await cluster.leader()
            await cluster.propose(leader, 50)
            with contextlib.suppress(TimeoutError):  # the leader may be the victim
                async with asyncio.timeout(2.0):
                    await cluster.wait_for_acked(len(cluster.acked) + 1)
        assert await victim.ended() == 70
        await victim.start()
        await cluster.leader()
        await cluster.check()


@pytest.mark.parametrize("flags", [["--rejoin"], []], ids=["rejoin", "bootstrap"])
async def test_a_replaced_disk_is_admitted(flags: list[str]) -> None:
    async with running(3, "--snapshot-after", "50") as cluster:
        leader = await cluster.leader()
        await cluster.propose_until(leader, 100)
        victim = next(member for member in cluster.members if member is not leader)
        await victim.kill()
        shutil.rmtree(cluster.base / str(victim.number))
        await victim.start(*flags)
        async with asyncio.timeout(DEADLINE_S):
            while not ((status := await victim.ask("status")) and status["is_voter"]):
                pass
        await leader.kill()  # the replaced one is needed for the quorum now
        others = [member for member in cluster.members if member is not leader]
        successor = await cluster.leader(among=others)
        await cluster.propose_until(successor, 150)
        await leader.start()
        await cluster.check()

"""A replicated log without replicas: for tests of what stands on it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum

from odradek.controller.committed import ClusterMachine
from odradek.controller.raft.interface import Leadership
from odradek.protocol.errors import NotControllerError, OutcomeUnknownError
from odradek.protocol.types import ControllerId


class Fate(Enum):
    """What becomes of a command; of the first two its proposer is told that nobody knows."""

    LOST = "lost"
    COMMITTED = "committed"
    ANSWERED = "answered"


class MemoryLog:
    """Commits at once, unless told otherwise."""

    def __init__(self, machine: ClusterMachine, *, self_id: int = 1) -> None:
        self.leader_id: ControllerId | None = None
        self.commands: list[bytes] = []
        self.barriers = 0
        self.open = asyncio.Event()
        """While cleared, nothing is committed."""
        self.open.set()
        self.fates: list[Fate] = []
        """Of the next commands."""
        self._machine = machine
        self._self_id = ControllerId(self_id)
        self._index = 0
        self._term = 0
        self._leads = False
        self._events: asyncio.Queue[Leadership] = asyncio.Queue()

    def lead(self) -> int:
        """Become the leader of a new term; return the term."""
        self._index += 1  # the no-op
        return self._change(self._term + 1, leads=True, leader_id=self._self_id)

    def follow(self, leader_id: int | None = None) -> None:
        """Stop leading."""
        leader = None if leader_id is None else ControllerId(leader_id)
        self._change(self._term + 1, leads=False, leader_id=leader)

    def _change(self, term: int, *, leads: bool, leader_id: ControllerId | None) -> int:
        self._term, self._leads, self.leader_id = term, leads, leader_id
        self._events.put_nowait(Leadership(term, leads, leader_id))
        return term

    async def leadership(self) -> AsyncIterator[Leadership]:
        while True:
            yield await self._events.get()

    async def propose(self, command: bytes, *, timeout_s: float, term: int | None = None) -> bytes:
        self._require_lead(term)
        await self._opened(timeout_s)
        self._require_lead(term)
        fate = self.fates.pop(0) if self.fates else None
        if fate is Fate.LOST:
            raise OutcomeUnknownError
        self.commands.append(command)
        self._index += 1
        answer = self._machine.apply(self._index, command)
        if fate is Fate.COMMITTED:
            raise OutcomeUnknownError
        return answer

    async def barrier(self, *, timeout_s: float) -> int:
        self._require_lead(None)
        await self._opened(timeout_s)
        self._require_lead(None)
        self.barriers += 1
        self._index += 1
        return self._index

    async def _opened(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self.open.wait()

    def _require_lead(self, term: int | None) -> None:
        if not self._leads or term not in {None, self._term}:
            raise NotControllerError("not the leader")


async def eventually(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
    """Return once the condition holds, giving other tasks their turns."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - any condition, not only an event
            await asyncio.sleep(0)

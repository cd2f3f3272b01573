"""Deciding, while this controller is the active one.

Problem: decisions must see all decisions before them, and none may be answered before it is
committed. Idea: rounds. Everything that waits is decided on one draft of the committed image, in
order; the records go to the Raft log as one command; then all are answered. One round is under way
at a time, so what waits meanwhile makes the next one: the busier, the larger.

Invariants: a round takes effect as a whole or not at all, however many commands hold it; a draft
lives for one round, whatever comes of it; refusals too are answered only after the round's command,
or a barrier when it has no records, has proved that this controller leads; a command counts as
accepted only if it is the next one of its epoch.

Source: Apache Kafka's QuorumController; the epoch is the Raft term.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import chain
from random import Random
from typing import Protocol

import structlog

from odradek.controller.committed import Committed
from odradek.controller.raft.interface import COMMAND_BYTES_MAX, Leadership
from odradek.controller.signals import Signal
from odradek.controller.state.decide import FinishElections, Reply, Request, decide
from odradek.controller.state.image import Draft, PossibleLoss
from odradek.controller.state.records import ControllerChanged
from odradek.controller.wire.records import decode_accepted, encode_command, encode_record
from odradek.controller.wire.requests import encode_reply
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    NotControllerError,
    OutcomeUnknownError,
    RequestTimedOutError,
    ThrottledError,
)
from odradek.protocol.names import begin_request
from odradek.protocol.types import ControllerId
from odradek.v1 import cluster_record_pb2

_log = structlog.get_logger()

# Room for the frame around the records.
_FRAME_BYTES = 1024
_RECORD_FRAME_BYTES = 8
_PENDING_COUNT_MAX = 2_000
_PENDING_BYTES_MAX = 32 * 1024 * 1024
_COMMIT_TIMEOUT_S = 5.0

Encoded = list[cluster_record_pb2.ClusterRecord]


class Log(Protocol):
    """What is needed of the replicated log (raft's `ReplicatedLog`)."""

    @property
    def leader_id(self) -> ControllerId | None:
        """The leader, if known."""
        ...

    def leadership(self) -> AsyncIterator[Leadership]:
        """Yield the present leadership and every change."""
        ...

    async def propose(self, command: bytes, *, timeout_s: float, term: int | None = None) -> bytes:
        """Append a command; return what applying it answered."""
        ...

    async def barrier(self, *, timeout_s: float) -> int:
        """Wait until everything acknowledged before is applied here."""
        ...


@dataclass(frozen=True, slots=True)
class Decided:
    """A reply and a metadata version that holds what it says, also of one decided before."""

    reply: Reply
    version: int


@dataclass(eq=False, slots=True)
class _Pending:
    request: Request
    bytes: int
    decided: asyncio.Future[Decided]
    # What the round under way made of it.
    outcome: Reply | BrokerError = None
    records: Encoded = field(default_factory=list)
    reports: tuple[PossibleLoss, ...] = ()


class ActiveController:
    """Decides while this controller leads; refuses with NOT_CONTROLLER otherwise."""

    def __init__(
        self,
        log: Log,
        committed: Committed,
        *,
        controller_id: ControllerId,
        cluster_id: str,
        chance: Random,
        command_bytes_max: int = COMMAND_BYTES_MAX,
    ) -> None:
        """Begin passive.

        Args:
            log: Where decisions are committed.
            committed: What they are decided on.
            controller_id: Who we are.
            cluster_id: What a cluster that has no id yet is to be called.
            chance: For topic ids and the choice between equal nodes.
            command_bytes_max: Larger decisions are committed in several commands.
        """
        self.changed = Signal()
        """Fires whenever `epoch` or `active_id` may have changed."""
        self._log = log
        self._committed = committed
        self._controller_id = controller_id
        self._cluster_id = cluster_id
        self._chance = chance
        self._records_bytes_max = command_bytes_max - _FRAME_BYTES
        self._epoch: int | None = None
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._batch: list[_Pending] = []
        self._arrived = asyncio.Event()

    @property
    def epoch(self) -> int | None:
        """The epoch in which this controller is active; None while it is not."""
        return self._epoch

    @property
    def active_id(self) -> ControllerId | None:
        """The active controller, as far as is known here."""
        if self._epoch is not None:
            return self._controller_id
        leader_id = self._log.leader_id
        # That we lead the log does not mean that we have taken over already.
        return None if leader_id == self._controller_id else leader_id

    def require_epoch(self) -> int:
        """Return the epoch in which this controller is active.

        Raises:
            NotControllerError: It is not; names the active one when that is known.
        """
        if self._epoch is None:
            raise self._not_active()
        return self._epoch

    async def request(self, request: Request, *, size_bytes: int = 0) -> Decided:
        """Decide a request; return once the decision is committed.

        Args:
            request: What to decide.
            size_bytes: Counts against what may wait; 0 for requests of this controller itself,
                which are few.

        Raises:
            NotControllerError: Not active; certainly nothing happened.
            ThrottledError: Too much is waiting; certainly nothing happened.
            OutcomeUnknownError: It may have happened, or happen later.
            BrokerError: The request was refused.
        """
        self.require_epoch()
        full = (
            len(self._pending) >= _PENDING_COUNT_MAX
            or self._pending_bytes + size_bytes > _PENDING_BYTES_MAX
        )
        if full and size_bytes:
            raise ThrottledError(
                f"{len(self._pending)} requests of {self._pending_bytes} bytes wait for decision",
                limit=f"{_PENDING_COUNT_MAX} requests, {_PENDING_BYTES_MAX} bytes",
            )
        return await self._enqueue(request, size_bytes)

    async def run(self) -> None:
        """Follow the log's leadership until cancelled: active when it leads, passive otherwise."""
        async with asyncio.TaskGroup() as tasks:
            term: asyncio.Task[None] | None = None
            async for leadership in self._log.leadership():
                if term is not None:
                    term.cancel()
                    await asyncio.wait([term])
                    term = None
                if leadership.is_leader:
                    term = tasks.create_task(self._lead(leadership.term), name="active")
                self.changed.fire()

    async def _lead(self, term: int) -> None:
        try:
            await self._begin(term)
            await self._finish_elections(term)
            self._epoch = term
            self.changed.fire()
            _log.info("active", epoch=term, cluster=self._committed.image.cluster_id)
            while True:
                await self._arrived.wait()
                await self._round(term)
        except NotControllerError:
            _log.info("another controller leads", epoch=term)
        finally:
            self._resign()

    async def _begin(self, term: int) -> None:
        """Commit that this controller is active."""
        self._committed.catch_up()
        changed = ControllerChanged(self._controller_id, self._cluster_id)
        while self._committed.image.controller_epoch != term:
            try:
                await self._commit(term, 0, [encode_record(changed)])
            except OutcomeUnknownError:
                _log.warning("taking over takes long", epoch=term)
                await self._settle(term)

    async def _finish_elections(self, term: int) -> None:
        """Do what a predecessor may have left half-done."""
        while True:
            elections = self._enqueue(FinishElections(), 0)
            await self._round(term)
            if elections.exception() is None:
                return

    async def _round(self, term: int) -> None:
        batch = self._decide_waiting()
        self._batch = batch
        commands = _pack([pending.records for pending in batch], self._records_bytes_max)
        sequence = self._committed.image.command_sequence
        done = 0
        try:
            for records in commands:
                position = (done > 0, done + 1 < len(commands))
                await self._commit(term, sequence + done + 1, records, *position)
                done += 1
            if not commands:
                await self._log.barrier(timeout_s=_COMMIT_TIMEOUT_S)
        except BrokerError as error:
            # Without its last command the round has no effect, now or later.
            last = done + 1 >= len(commands)
            certain = not last or isinstance(error, NotControllerError | ThrottledError)
            for pending in batch:
                unknown = bool(pending.records) and not certain
                _fail(pending, OutcomeUnknownError(error.message) if unknown else error)
            if isinstance(error, NotControllerError):
                raise
            await self._settle(term)
            return
        version = self._committed.image.version
        for pending in batch:
            self._tell_people(pending.reports)
            if isinstance(pending.outcome, BrokerError):
                _fail(pending, pending.outcome)
            elif not pending.decided.done():
                pending.decided.set_result(Decided(pending.outcome, version))

    def _tell_people(self, reports: tuple[PossibleLoss, ...]) -> None:
        image = self._committed.image
        for loss in reports:
            place = image.places.get(loss.uid)
            _log.warning(
                "acknowledged records may be lost: no replica in sync or eligible was left",
                topic=None if place is None else image.topics[place.topic_id].name,
                partition=None if place is None else place.index,
                leader=loss.leader,
                leader_epoch=loss.leader_epoch,
            )

    def _enqueue(self, request: Request, size_bytes: int) -> asyncio.Future[Decided]:
        pending = _Pending(request, size_bytes, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        self._pending_bytes += size_bytes
        self._arrived.set()
        return pending.decided

    def _decide_waiting(self) -> list[_Pending]:
        """Decide on one draft what waits, as much as fits about one command."""
        self._committed.catch_up()
        draft = Draft(self._committed.image)
        batch: list[_Pending] = []
        size = 0
        while self._pending and size < self._records_bytes_max:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.bytes
            if pending.decided.done():
                continue  # who asked has gone
            begin_request()
            try:
                pending.outcome = decide(draft, pending.request, self._chance, encode_reply)
            except BrokerError as error:
                pending.outcome = error
            pending.records = [encode_record(record) for record in draft.take_records()]
            pending.reports = draft.take_reports()
            sizes = [record.ByteSize() for record in pending.records]
            if max(sizes, default=0) + _RECORD_FRAME_BYTES > self._records_bytes_max:
                _fail(pending, _too_large(max(sizes), self._records_bytes_max))
                # The draft holds what must not be; begin again with the others.
                self._pending.extendleft(reversed(batch))
                self._pending_bytes += sum(each.bytes for each in batch)
                draft, batch, size = Draft(self._committed.image), [], 0
                continue
            size += sum(sizes)
            batch.append(pending)
        if not self._pending:
            self._arrived.clear()
        return batch

    async def _commit(
        self,
        term: int,
        sequence: int,
        records: Encoded,
        continued: bool = False,  # noqa: FBT001, FBT002 - the command's own words
        continues: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        command = encode_command(term, sequence, records, continued=continued, continues=continues)
        answer = await self._log.propose(command, timeout_s=_COMMIT_TIMEOUT_S, term=term)
        self._committed.catch_up()
        if not decode_accepted(answer):
            # An earlier command of unknown outcome was committed after all.
            raise OutcomeUnknownError(f"command {sequence} of epoch {term} was not the next one")

    async def _settle(self, term: int) -> None:
        """Wait until whatever was proposed in this term is applied, or never will be.

        Raises:
            NotControllerError: This controller does not lead any more.
        """
        while True:
            try:
                await self._log.barrier(timeout_s=_COMMIT_TIMEOUT_S)
            except RequestTimedOutError:
                _log.warning("no quorum answers", epoch=term)
            except ThrottledError:
                await asyncio.sleep(0.1)
            else:
                self._committed.catch_up()
                return

    def _resign(self) -> None:
        self._epoch = None
        for pending in self._batch:
            _fail(pending, OutcomeUnknownError() if pending.records else self._not_active())
        for pending in self._pending:
            _fail(pending, self._not_active())
        self._batch = []
        self._pending.clear()
        self._pending_bytes = 0
        self._arrived.clear()
        self.changed.fire()

    def _not_active(self) -> NotControllerError:
        active = self.active_id
        hint = "no active one is known" if active is None else f"controller {active} is"
        return NotControllerError(
            f"controller {self._controller_id} is not active; {hint}",
            field="controller_id",
            value=self._controller_id,
            limit="" if active is None else active,
        )


def _pack(decisions: list[Encoded], bytes_max: int) -> list[Encoded]:
    """Put decisions into as few commands as hold them, in order.

    Together they take effect with the last one, or not at all.
    """
    commands: list[Encoded] = []
    room = 0
    for record in chain.from_iterable(decisions):
        size = record.ByteSize() + _RECORD_FRAME_BYTES
        if size > room:
            commands.append([])
            room = bytes_max
        commands[-1].append(record)
        room -= size
    return commands


def _fail(pending: _Pending, error: BrokerError) -> None:
    if not pending.decided.done():
        pending.decided.set_exception(error)
        pending.decided.exception()  # who asked may have gone: nothing to complain about


def _too_large(size_bytes: int, bytes_max: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"the request makes a record of {size_bytes} bytes; split it",
        field="command",
        value=size_bytes,
        limit=bytes_max,
    )

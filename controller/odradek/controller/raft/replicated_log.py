"""The replicated log as asyncio sees it: proposals and barriers in, results and leadership out.

Problem: raft needs a thread of its own (an fsync or a busy event loop must not hold up elections),
its users live on the event loop. Idea: the tick thread owns the core, the disk and the state
machine; everything crosses by `Inbox` one way and `call_soon_threadsafe` the other.

Invariants: what the loop learns it learns in the order in which it happened; a future is resolved
on the loop only; after `fatal` the tick thread has stopped, and nothing is acknowledged any more.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from odradek.controller.raft.core import Applied, Failure, Proposal, RaftCore
from odradek.controller.raft.filesystem import DirectoryLock, FileSystem, OsFileSystem
from odradek.controller.raft.interface import (
    COMMAND_BYTES_MAX,
    Leadership,
    RaftOptions,
    RaftStatus,
    StateMachine,
)
from odradek.controller.raft.links import Inbox, LinkDown, Links, LinkUp, OpenChannel, Received
from odradek.controller.raft.storage import Storage, open_storage
from odradek.protocol.errors import (
    InvalidRequestError,
    NotControllerError,
    OutcomeUnknownError,
    RequestTimedOutError,
    ThrottledError,
)
from odradek.protocol.types import ControllerId
from odradek.v1 import raft_pb2_grpc

EXIT_FATAL = 70
PROPOSAL_OVERHEAD_BYTES = 512

_log = logging.getLogger(__name__)


def exit_process(error: BaseException) -> None:
    """End the process at once: after a failed fsync nothing in memory can be trusted."""
    _log.critical("the controller cannot go on: %r", error, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_FATAL)


@dataclass(slots=True)
class _Running:
    """What exists only between entering and leaving."""

    loop: asyncio.AbstractEventLoop
    storage: Storage
    executor: ThreadPoolExecutor
    lock: DirectoryLock
    core: RaftCore
    thread: threading.Thread | None = None
    links: asyncio.Task[None] | None = None
    stopping: bool = False


@dataclass(slots=True)
class _Pending:
    """Proposals handed over by the loop and not yet taken by the tick thread."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    proposals: list[Proposal] = field(default_factory=list)

    def put(self, proposal: Proposal) -> None:
        with self.lock:
            self.proposals.append(proposal)

    def take(self) -> list[Proposal]:
        with self.lock:
            taken, self.proposals = self.proposals, []
            return taken


class ReplicatedLog:
    """One controller's share of the replicated log; see the package's docstring for its promises.

    Args:
        options: Identity, peers, directory and timing.
        machine: The replicated state; called on the tick thread.
        open_channel: Makes the channel to a peer's address.
        fatal: Told of errors after which the controller must not go on.
        files: The disk.
    """

    def __init__(
        self,
        options: RaftOptions,
        machine: StateMachine,
        *,
        open_channel: OpenChannel,
        fatal: Callable[[BaseException], None] = exit_process,
        files: FileSystem | None = None,
    ) -> None:
        self._options = options
        self._machine = machine
        self._fatal = fatal
        self._files = files or OsFileSystem()
        self._inbox = Inbox()
        self._rng = random.SystemRandom()
        self._links = Links(options, open_channel, self._inbox, self._rng)
        self._pending = _Pending()
        self._pending_bytes = 0
        self._running: _Running | None = None
        self._leadership = Leadership(term=0, is_leader=False, leader_id=None)
        self._leadership_changed = asyncio.Event()
        self._closed = False

    @property
    def servicer(self) -> raft_pb2_grpc.RaftServiceServicer:
        """Serves the peers; add it to the controller's server before that starts."""
        return self._links

    async def __aenter__(self) -> Self:
        """Open the data directory, replay what is known, start the tick thread.

        Raises:
            DataDirectoryError: The directory cannot be trusted; nothing was started.
            InconsistentClusterIdError: It belongs to another cluster or controller.
        """
        assert self._running is None, "entered once"
        running = await asyncio.to_thread(self._open, asyncio.get_running_loop())
        self._running = running
        incarnation = running.storage.hard_state.state.incarnation
        running.links = self._links.start(incarnation)
        running.links.add_done_callback(self._links_ended)
        running.thread = threading.Thread(
            target=self._tick_forever, args=(running,), name="raft-tick", daemon=True
        )
        running.thread.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop. What has no outcome yet fails as unknown."""
        running = self._running
        assert running is not None
        assert running.links is not None
        assert running.thread is not None
        self._closed = True
        running.stopping = True
        self._inbox.wake()
        await asyncio.to_thread(running.thread.join)
        running.links.cancel()
        await asyncio.wait([running.links])
        await asyncio.to_thread(running.executor.shutdown)
        running.lock.release()
        self._leadership_changed.set()

    async def propose(self, command: bytes, *, timeout_s: float, term: int | None = None) -> bytes:
        """Append a command and return the state machine's answer once it is committed and applied.

        Commands are appended in the order of the calls.

        Args:
            command: Opaque; at most `COMMAND_BYTES_MAX`.
            timeout_s: Until committed and applied.
            term: The leadership under which the command was decided; None for any.

        Raises:
            NotControllerError: Certainly not in the log: not the leader, or of another term.
            ThrottledError: Certainly not in the log: too many proposals are waiting.
            OutcomeUnknownError: It may be in the log, now or later.
            InvalidRequestError: The command is too large.
        """
        if len(command) > COMMAND_BYTES_MAX:
            raise InvalidRequestError(
                f"a command of {len(command)} bytes exceeds {COMMAND_BYTES_MAX}",
                field="command",
                value=len(command),
                limit=COMMAND_BYTES_MAX,
            )
        try:
            outcome = await self._propose(command, term, timeout_s)
        except TimeoutError:
            raise OutcomeUnknownError(f"no quorum has answered within {timeout_s} s") from None
        if isinstance(outcome, Applied):
            return outcome.answer
        if outcome is Failure.UNKNOWN:
            raise OutcomeUnknownError
        raise self._not_leader()

    async def barrier(self, *, timeout_s: float) -> int:
        """Wait until everything acknowledged anywhere before this call is applied here.

        Calls that wait at the same time share one log entry.

        Returns:
            The raft index up to which at least is applied.

        Raises:
            NotControllerError: This controller does not lead (any more).
            ThrottledError: Too many proposals are waiting.
            RequestTimedOutError: No quorum has answered.
        """
        try:
            outcome = await self._propose(None, None, timeout_s)
        except TimeoutError:
            raise RequestTimedOutError(f"no quorum has answered within {timeout_s} s") from None
        if isinstance(outcome, Applied):
            return outcome.index
        raise self._not_leader()

    async def leadership(self) -> AsyncIterator[Leadership]:
        """Yield the present leadership and then every change, until the log is closed.

        Slow readers miss changes in between, but never that a leadership ended.
        """
        seen: Leadership | None = None
        while not self._closed:
            changed, present = self._leadership_changed, self._leadership
            if present == seen:
                await changed.wait()
                continue
            if seen is not None and seen.is_leader and present.is_leader:
                present = Leadership(present.term, is_leader=False, leader_id=None)
            seen = present
            yield present

    @property
    def term(self) -> int:
        """The latest term this controller has seen."""
        return self._leadership.term

    @property
    def is_leader(self) -> bool:
        """Whether this controller leads and has applied its term's no-op; may be out of date."""
        return self._leadership.is_leader

    @property
    def leader_id(self) -> ControllerId | None:
        """The leader, if known; may be out of date."""
        return self._leadership.leader_id

    def status(self) -> RaftStatus:
        """Return counters for metrics; read without a lock, so each is recent, not all together."""
        assert self._running is not None, "entered"
        return self._running.core.status()

    def _not_leader(self) -> NotControllerError:
        leader = self.leader_id
        hint = "" if leader is None else f"; controller {leader} is"
        return NotControllerError(f"controller {self._options.self_id} is not active{hint}")

    async def _propose(
        self, command: bytes | None, term: int | None, timeout_s: float
    ) -> Applied | Failure:
        running = self._running
        assert running is not None, "entered"
        size = PROPOSAL_OVERHEAD_BYTES + len(command or b"")
        if self._pending_bytes + size > self._options.pending_bytes_max:
            raise ThrottledError(
                "too many proposals wait for the log",
                field="pending_bytes",
                value=self._pending_bytes,
                limit=self._options.pending_bytes_max,
            )
        if self._closed:
            return Failure.NOT_LEADER
        outcome: asyncio.Future[Applied | Failure] = running.loop.create_future()

        def resolve(result: Applied | Failure) -> None:
            self._on_loop(running, partial(_set_result, outcome, result))

        self._pending_bytes += size
        try:
            self._pending.put(Proposal(command, term, resolve))
            self._inbox.wake()
            async with asyncio.timeout(timeout_s):
                return await outcome
        finally:
            self._pending_bytes -= size

    # Off the loop.

    def _open(self, loop: asyncio.AbstractEventLoop) -> _Running:
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="raft-snapshot")
        lock = DirectoryLock(self._options.data_directory)
        try:
            storage = open_storage(
                self._files, self._options, executor, unique_number=time.time_ns()
            )
            core = RaftCore(
                options=self._options,
                storage=storage,
                machine=self._machine,
                send=self._links.send,
                clock=time.monotonic,
                rng=self._rng,
            )
        except BaseException:
            lock.release()
            executor.shutdown()
            raise
        return _Running(loop, storage, executor, lock, core)

    def _tick_forever(self, running: _Running) -> None:
        announced = self._leadership
        try:
            while not running.stopping:
                self._tick(running)
                present = running.core.leadership()
                if present != announced:
                    announced = present
                    self._on_loop(running, partial(self._announce, present))
            running.core.submit(self._pending.take())
            running.core.close()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the controller must not go on
            self._fatal(error)

    def _tick(self, running: _Running) -> None:
        core = running.core
        for event in self._inbox.take(core.idle_s()):
            match event:
                case Received() if self._links.is_current(event):
                    core.deliver(event.sender, event.message)
                case LinkUp():
                    core.connected(event.peer)
                case LinkDown():
                    core.disconnected(event.peer)
        self._links.made_room()
        core.submit(self._pending.take())
        core.step()

    def _on_loop(self, running: _Running, callback: Callable[[], object]) -> None:
        if not running.loop.is_closed():
            running.loop.call_soon_threadsafe(callback)

    def _announce(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._leadership_changed.set()
        self._leadership_changed = asyncio.Event()

    def _links_ended(self, links: asyncio.Task[None]) -> None:
        if not links.cancelled() and (error := links.exception()) is not None:
            self._fatal(error)


def _set_result(outcome: asyncio.Future[Applied | Failure], result: Applied | Failure) -> None:
    if not outcome.done():
        outcome.set_result(result)

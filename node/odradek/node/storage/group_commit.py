"""One fsync for everything that was appended before it began.

Problem: an fsync costs 150-1000 us, appends arrive far more often, each waits for its own bytes.
Idea: appends are numbered by a counter of bytes, the *position*. At most one sync is in flight;
when it returns, every position appended before it began is durable. Whoever waits stands in a deque
of (position, callback), so that an ack costs microseconds however many wait.

A thread syncs, unless that would take longest of all: to hand a sync over and to come back costs
0.1 ms, a third of what a small one takes on a quick disk. Such a one is done on the loop.

Back-pressure: at most `unsynced_bytes_max` are appended and not yet durable. Beyond, `has_room` is
false and the append path waits with `room()`; so the loop never stalls in a write for long.

Invariants: durable <= appended; whoever waits is told only after its position is durable, in the
order of the calls, and once the next sync, if one is due, has begun. An fsync that fails leaves the
state of the page cache unknown: the process ends.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Self, TypeAlias

from odradek.protocol.errors import NodeShuttingDownError, StorageFullError

# With nobody waiting, a sync begins when this much is unsynced (and at every `tick`).
_START_SYNC_BYTES: Final = 1 << 20
# On the loop a sync covers no more than this, while the last ones took no longer than that, by a
# moving average over so many.
_ON_LOOP_BYTES: Final = 64 << 10
_ON_LOOP_S: Final = 0.002
_AVERAGED: Final = 8
# After a write stall the append path pauses this long; a memtable is on disk by then.
_STALL_S: Final = 0.002

Told: TypeAlias = Callable[[BaseException | None], None]
"""Called with None once a position is on disk, else with why that is not known."""


class GroupCommit:
    """Numbers appends and tells when they are durable.

    Use as an async context manager; leaving it ends the thread after the sync in flight.

    Args:
        sync: Blocks until everything written before the call is on disk; called from any thread.
        unsynced_bytes_max: Bound on what is appended and not durable.
        fatal: Called, from any thread, when `sync` fails other than for want of space.
        clock_s: The monotonic clock; tells how quick the disk is.
    """

    def __init__(
        self,
        sync: Callable[[], None],
        unsynced_bytes_max: int,
        fatal: Callable[[BaseException], None],
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sync = sync
        self._clock_s = clock_s
        self._fatal = fatal
        self._unsynced_bytes_max = unsynced_bytes_max
        self._requests: SimpleQueue[int | None] = SimpleQueue()
        self._waiters: deque[tuple[int, Told]] = deque()
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stalled = False
        self._paused = False
        self._expected_s = 1.0  # nobody knows the disk yet
        self.is_contended = False
        """Another thread may keep a sync waiting: none is done on the loop."""
        self.appended = 0
        """The position after the last append, in bytes since the start."""
        self.durable = 0
        """Everything before this position is on disk."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._requests.put(None)
        # The thread ends with its last sync; it never waits for the loop.
        await self._loop.run_in_executor(None, self._thread.join)
        self._fail_waiters(NodeShuttingDownError("the node is stopping", field="storage"))

    @property
    def has_room(self) -> bool:
        """Whether an append may happen now."""
        return not self._stalled and self.appended - self.durable < self._unsynced_bytes_max

    async def room(self) -> None:
        """Wait until `has_room`; in the order of the calls.

        Raises:
            StorageFullError: The disk filled up meanwhile.
        """
        while not self.has_room:
            waiter = self._loop.create_future()
            self._room_waiters.append(waiter)
            await waiter

    def on_appended(self, written_bytes: int) -> int:
        """Count an append; returns the position at which it is durable."""
        assert written_bytes > 0
        self.appended += written_bytes
        if self.appended - self.durable >= _START_SYNC_BYTES:
            self._start()
        return self.appended

    def on_write_stall(self) -> None:
        """RocksDB refused a write for the moment: `has_room` is false for some milliseconds."""
        if not self._stalled:
            self._stalled = True
            self._loop.call_later(_STALL_S, self._end_stall)

    def when_durable(self, position: int) -> asyncio.Future[None]:
        """Return a future that is done once a position is on disk.

        It fails with `StorageFullError` when the disk filled up before, the outcome being unknown.
        """
        assert position <= self.appended
        future = self._loop.create_future()
        if position <= self.durable:
            future.set_result(None)
        else:
            self.call_when_durable(position, lambda error: _settle(future, error))
        return future

    def call_when_durable(self, position: int, told: Told, *, hurry: bool = False) -> None:
        """Do without the future: call as soon as the position is on disk, never at once.

        Args:
            position: From `on_appended`.
            told: Whom to call.
            hurry: Ask the disk now, rather than for all that this pass of the loop brings.
        """
        assert position <= self.appended
        if position <= self.durable:
            self._loop.call_soon(told, None)
            return
        self._waiters.append((position, told))
        self._start(hurry=hurry)

    def tick(self) -> None:
        """Begin a sync, whether or not anybody waits; bounds the loss with `flush=os`."""
        self._start()

    async def pause(self) -> None:
        """Wait for the sync in flight, if any, and begin no other until `resume`."""
        self._paused = True
        await self._idle.wait()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self.tick()

    def _start(self, *, hurry: bool = False) -> None:
        if not self._idle.is_set() or self._paused:
            return
        self._idle.clear()
        if hurry and not self._suits_loop:
            self._requests.put(self.appended)
        else:
            # A pass later: what joins until then is covered, and what others wait for has left.
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        position = self.appended
        if self._suits_loop:
            self._on_synced(position, self._timed_sync())
        else:
            self._requests.put(position)

    @property
    def _suits_loop(self) -> bool:
        return (
            self._expected_s <= _ON_LOOP_S
            and self.appended - self.durable <= _ON_LOOP_BYTES
            and bool(self._waiters)
            and not self.is_contended
        )

    def _run(self) -> None:
        while (position := self._requests.get()) is not None:
            failure = self._timed_sync()
            self._loop.call_soon_threadsafe(self._on_synced, position, failure)

    def _timed_sync(self) -> BaseException | None:
        """Sync; return why what was appended may not be on disk."""
        began_s = self._clock_s()
        try:
            self._sync()
        except StorageFullError as error:
            return error
        except BaseException as error:  # noqa: BLE001 - nothing may survive it
            self._fatal(error)
            return error
        took_s = self._clock_s() - began_s
        self._expected_s += (took_s - self._expected_s) / _AVERAGED
        return None

    def _on_synced(self, position: int, failure: BaseException | None) -> None:
        if failure is not None:
            if isinstance(failure, StorageFullError):
                self._idle.set()  # after any other failure no sync means anything
            self._fail_waiters(failure)
            return
        self._idle.set()
        self.durable = position
        waiters, reached = self._waiters, []
        while waiters and waiters[0][0] <= position:
            reached.append(waiters.popleft()[1])
        if waiters or self.appended - position >= _START_SYNC_BYTES:
            self._start(hurry=True)
        self._wake_room()
        for told in reached:
            told(None)

    def _end_stall(self) -> None:
        self._stalled = False
        self._wake_room()

    def _wake_room(self) -> None:
        waiters, self._room_waiters = self._room_waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _fail_waiters(self, error: BaseException) -> None:
        waiting, room_waiters = list(self._waiters), list(self._room_waiters)
        self._waiters.clear()
        self._room_waiters.clear()
        for future in room_waiters:
            _settle(future, error)
        for _, told in waiting:
            told(error)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # whoever waits gets it; nobody waiting is no mistake

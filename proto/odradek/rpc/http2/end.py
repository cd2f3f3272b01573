"""One end of a call: messages in, messages out.

Idea: who reads awaits `next_message`; who cannot afford a wake-up of a task for each message
listens, and is handed each in the step in which it comes. Who is busy says so, and the peer runs
out of credit.

Invariants: messages are handed out in order, each once; a cancelled read loses none.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Final, Protocol, TypeAlias, cast

from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import MESSAGE_BYTES_MAX, Headers, Stream

_GATHERED_BYTES: Final = 16 << 10

Take: TypeAlias = Callable[[bytes], Awaitable[None] | None]


class Carrier(Protocol):
    """The connection, as its calls see it."""

    connection: Connection
    loop: asyncio.AbstractEventLoop
    blocked: "set[End]"
    """Ends that wait for the peer to take what they sent."""
    is_lost: bool
    peer: str

    def flush(self, *, at_once: bool = False) -> None:
        """Write what there is to write."""

    def hold(self) -> None:
        """Write little before `let_go`."""

    def let_go(self) -> None:
        """Undo a `hold`; after the last one, write."""

    def consume(self, stream: Stream, size_bytes: int) -> None:
        """A message is dealt with."""

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give a call up."""


class End(ABC):
    """Our end of one call: messages in, messages out."""

    def __init__(self, wire: Carrier, stream: Stream) -> None:
        self.wire = wire
        self.stream = stream
        stream.owner = self
        self._messages: deque[bytes] = deque()
        self._reading: asyncio.Future[None] | None = None
        self._writing: list[asyncio.Future[None]] = []
        self._take: Take
        self._listening: asyncio.Future[Awaitable[None] | None] | None = None
        self.is_over = False
        """Nothing more comes, nothing more is taken."""

    # What the wire tells

    @abstractmethod
    def on_headers(self, headers: Headers, *, ends: bool) -> None:
        """Headers came."""

    @abstractmethod
    def on_refused(self, reason: str) -> None:
        """A message came that cannot be taken."""

    @abstractmethod
    def on_ended(self) -> None:
        """The peer says nothing more."""

    @abstractmethod
    def on_reset(self, code: int) -> None:
        """The peer gave the call up."""

    @abstractmethod
    def on_lost(self, reason: str) -> None:
        """The connection is gone."""

    def on_message(self, data: bytes) -> None:
        """A message came."""
        listening = self._listening
        if listening is None or listening.done():
            self._messages.append(data)
            self._wake_reader()
            return
        self.wire.connection.consume(self.stream, len(data))
        try:
            later = self._take(data)
        except Exception as error:  # noqa: BLE001 it is raised to who listens
            if not listening.done():
                listening.set_exception(error)
        else:
            if later is not None and not listening.done():
                listening.set_result(later)
            elif isinstance(later, Coroutine):
                later.close()  # the call ended over it

    def on_drained(self) -> None:
        """What was written has left."""
        writing, self._writing = self._writing, []
        for each in writing:
            if not each.done():
                each.set_result(None)

    # What whoever calls, or is called, does

    async def next_message(self) -> bytes | None:
        """Return the next message; None when there will be none. Safe to cancel."""
        while not self._messages:
            if self.has_ended:
                return None
            self._reading = self.wire.loop.create_future()
            await self._reading
        data = self._messages.popleft()
        self.wire.consume(self.stream, len(data))
        return data

    async def listen(self, take: Take) -> None:
        """Hand each message over in the step in which it comes, until none will.

        Args:
            take: Returns what to wait for before it takes another one, or None.

        Raises:
            Exception: What `take` raised.
        """
        run = copy_context().run
        while True:
            while self._messages:
                data = self._messages.popleft()
                self.wire.consume(self.stream, len(data))
                later = take(data)
                del data  # who listens for long holds nothing
                if later is not None:
                    await later
            if self.has_ended:
                return
            self._listening = self.wire.loop.create_future()
            self._take = cast("Take", partial(run, take))  # type: ignore[call-arg]
            try:
                later = await self._listening
            except asyncio.CancelledError:
                self._drop(self._listening)
                raise
            if later is not None:
                await later

    @staticmethod
    def _drop(listening: "asyncio.Future[Awaitable[None] | None]") -> None:
        """Let go of what was to be waited for: who listens gave up in the same turn."""
        if listening.done() and not listening.cancelled() and listening.exception() is None:
            later = listening.result()
            if isinstance(later, Coroutine):
                later.close()

    @property
    def has_ended(self) -> bool:
        """Whether no message will come beyond those that wait."""
        return self.is_over or self.stream.is_ended_there

    def hold(self) -> None:
        """Something is to be sent in a moment: let it go along."""
        self.wire.hold()

    def let_go(self) -> None:
        """It was sent."""
        self.wire.let_go()

    def offer_bytes(self, data: bytes) -> bool:
        """Send a message; False: it waits for the peer, and so should whoever sends."""
        if len(data) > MESSAGE_BYTES_MAX:
            self.on_refused(f"a message of {len(data)} bytes; the limit is {MESSAGE_BYTES_MAX}")
            return True
        self.wire.connection.sender.message(self.stream, data)
        self.wire.flush(at_once=len(data) > _GATHERED_BYTES)
        return not self.stream.pending

    async def drained(self) -> None:
        """Wait until all that was sent has left, or nobody is there any more."""
        if self.stream.pending and not self.is_over:
            waiting = self.wire.loop.create_future()
            self._writing.append(waiting)
            self.wire.blocked.add(self)
            await waiting

    def _wake_reader(self) -> None:
        if self._listening is not None and not self._listening.done():
            self._listening.set_result(None)
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def _wake_all(self) -> None:
        self._wake_reader()
        self.wire.blocked.discard(self)
        self.on_drained()

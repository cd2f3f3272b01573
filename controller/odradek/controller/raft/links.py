"""The wire between controllers: one gRPC stream per ordered pair, one bounded inbox per process.

Problem: pysyncobj resolves names and dials on its tick thread, hangs on a black-holed SYN, trusts
self-claimed identities and unpickles before it knows the peer. Idea: the event loop owns gRPC; the
tick thread only appends to a queue per peer and reads an inbox. Each controller dials each other
one and sends on its own stream; the answers come on the other's.

Invariants:
- A message is delivered only if its stream is the newest of its sender: `Received.session` is
  compared again on the tick thread, so one that was superseded while queued is dropped too.
- Messages of one stream are delivered in order, without duplicates; a lost one ends the stream.
- Between `LinkUp` and `LinkDown` of a peer, what the tick thread sends is on one stream.
- Both queues are bounded in bytes. A full outgoing queue ends the stream; a full inbox makes the
  reader wait, and TCP the sender.
"""

import asyncio
import itertools
import logging
import random
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
import grpc.aio

from odradek.controller.raft.encoding import decode, encode
from odradek.controller.raft.interface import RaftOptions
from odradek.controller.raft.messages import AppendEntries, InstallSnapshot, Message
from odradek.protocol.errors import (
    InconsistentClusterIdError,
    InvalidRequestError,
    NodeShuttingDownError,
)
from odradek.protocol.types import ControllerId
from odradek.rpc.backoff import delays
from odradek.rpc.server import first_request
from odradek.v1 import raft_pb2, raft_pb2_grpc

OUTGOING_BYTES_MAX = 32 * 1024 * 1024
INBOX_BYTES_MAX = 32 * 1024 * 1024
FRAME_OVERHEAD_BYTES = 256
SIGN_OF_LIFE_INTERVAL_S = 1.0
REDIAL_DELAY_S = 0.1
REDIAL_DELAY_MAX_S = 1.0

_log = logging.getLogger(__name__)

OpenChannel = Callable[[str], grpc.aio.Channel]


@dataclass(frozen=True, slots=True)
class Received:
    """A message that arrived on the stream `session` of `sender`."""

    sender: ControllerId
    session: tuple[int, int]
    message: Message


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The peer accepted our stream."""

    peer: ControllerId


@dataclass(frozen=True, slots=True)
class LinkDown:
    """Our stream to the peer ended; what was sent may be lost."""

    peer: ControllerId


Event = Received | LinkUp | LinkDown


class Inbox:
    """What the event loop leaves for the tick thread; thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._events: deque[tuple[Event, int]] = deque()
        self._size_bytes = 0
        self._woken = False

    def put(self, event: Event, size_bytes: int) -> None:
        """Add an event and wake the tick thread. Check `is_full` before reading messages."""
        with self._condition:
            self._events.append((event, size_bytes))
            self._size_bytes += size_bytes
            self._woken = True
            self._condition.notify()

    def wake(self) -> None:
        """Wake the tick thread for something outside of the inbox."""
        with self._condition:
            self._woken = True
            self._condition.notify()

    @property
    def is_full(self) -> bool:
        """Whether readers of streams should wait."""
        return self._size_bytes >= INBOX_BYTES_MAX

    def take(self, timeout_s: float) -> list[Event]:
        """Wait for something, at most `timeout_s`; return all there is, in order."""
        with self._condition:
            if not self._woken:
                self._condition.wait(timeout_s)
            self._woken = False
            events = [event for event, _ in self._events]
            self._events.clear()
            self._size_bytes = 0
            return events


class _Outgoing:
    """What the tick thread leaves for one peer's writer; thread-safe but for `ready`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[Message] = []
        self._size_bytes = 0
        self._is_up = False
        self.ready = asyncio.Event()

    def set_up(self, *, is_up: bool) -> None:
        """Begin or end a stream; nothing queued before belongs to it."""
        with self._lock:
            self._is_up = is_up
            self._queue = []
            self._size_bytes = 0

    def put(self, message: Message) -> bool:
        """Queue a message; return whether the writer has to be woken."""
        with self._lock:
            if not self._is_up:
                return False
            if self._size_bytes <= OUTGOING_BYTES_MAX:  # beyond, it is lost, and the stream ends
                self._queue.append(message)
                self._size_bytes += _size_bytes(message)
            return len(self._queue) == 1

    def take(self) -> list[Message]:
        """Return what is queued.

        Raises:
            TimeoutError: More than the bound: the peer is too slow for this stream.
        """
        with self._lock:
            if self._size_bytes > OUTGOING_BYTES_MAX:
                raise TimeoutError(f"{self._size_bytes} bytes wait for a slow peer")
            queue, self._queue = self._queue, []
            self._size_bytes = 0
            return queue


class Links(raft_pb2_grpc.RaftServiceServicer):
    """Dials every peer, and serves the streams that peers dial."""

    def __init__(
        self,
        options: RaftOptions,
        open_channel: OpenChannel,
        inbox: Inbox,
        rng: random.Random,
    ) -> None:
        self._options = options
        self._open_channel = open_channel
        self._inbox = inbox
        self._rng = rng
        self._incarnation = 0
        self._outgoing = {peer: _Outgoing() for peer in options.peers}
        self._sessions: dict[ControllerId, tuple[int, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = asyncio.Event()

    def start(self, incarnation: int) -> asyncio.Task[None]:
        """Keep a stream to every peer until the task is cancelled; the tick thread may call now."""
        self._incarnation = incarnation
        self._loop = asyncio.get_running_loop()
        return self._loop.create_task(self._keep_links(), name="raft-links")

    async def _keep_links(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for peer, address in self._options.peers.items():
                tasks.create_task(self._keep_link(peer, address))

    # Called on the tick thread.

    def send(self, peer: ControllerId, message: Message) -> None:
        """Queue a message; dropped if there is no stream, as the network may drop any."""
        outgoing = self._outgoing[peer]
        if outgoing.put(message):
            self._call_soon(outgoing.ready.set)

    def is_current(self, received: Received) -> bool:
        """Whether no newer stream of the sender has been accepted since."""
        return self._sessions.get(received.sender) == received.session

    def made_room(self) -> None:
        """Tell waiting readers that the inbox was emptied."""
        if not self._room.is_set():
            self._call_soon(self._room.set)

    def _call_soon(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None, "started"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    # Dialling.

    async def _keep_link(self, peer: ControllerId, address: str) -> None:
        waits = delays(self._rng, initial_s=REDIAL_DELAY_S, max_s=REDIAL_DELAY_MAX_S)
        for session in itertools.count(1):
            # A fresh channel per stream: one that failed to dial waits on its own.
            channel = self._open_channel(address)
            try:
                if await self._run_link(peer, channel, session):
                    waits = delays(self._rng, initial_s=REDIAL_DELAY_S, max_s=REDIAL_DELAY_MAX_S)
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
                _log.debug("link to controller %d at %s: %r", peer, address, error)
            finally:
                await channel.close()
            await asyncio.sleep(next(waits))

    async def _run_link(self, peer: ControllerId, channel: grpc.aio.Channel, session: int) -> bool:
        stub = raft_pb2_grpc.RaftServiceStub(channel)
        call = stub.Exchange()
        try:
            async with asyncio.timeout(self._options.dial_timeout_s):
                await call.write(raft_pb2.ExchangeRequest(hello=self._hello(peer, session)))
                accepted = await call.read()
            if (
                not isinstance(accepted, raft_pb2.ExchangeResponse)
                or accepted.controller_id != peer
            ):
                _log.warning("controller %d refused our stream: %s", peer, await call.details())
                return False
            outgoing = self._outgoing[peer]
            outgoing.set_up(is_up=True)
            self._inbox.put(LinkUp(peer), 0)
            # Not a TaskGroup: in Python 3.11 an error of the peer would swallow our cancellation.
            both = {
                asyncio.create_task(self._write(call, outgoing)),
                asyncio.create_task(self._watch(call)),
            }
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                done.pop().result()
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
                _log.debug("link to controller %d: %r", peer, error)
            finally:
                for one in both:
                    one.cancel()
                outgoing.set_up(is_up=False)
                self._inbox.put(LinkDown(peer), 0)
                await asyncio.wait(both)
            return True
        finally:
            call.cancel()

    def _hello(self, peer: ControllerId, session: int) -> raft_pb2.RaftHello:
        return raft_pb2.RaftHello(
            cluster_id=self._options.cluster_id,
            from_id=self._options.self_id,
            to_id=peer,
            incarnation=self._incarnation,
            session=session,
        )

    async def _write(self, call: "_Call", outgoing: _Outgoing) -> None:
        while True:
            await outgoing.ready.wait()
            outgoing.ready.clear()
            for message in outgoing.take():
                async with asyncio.timeout(self._options.link_silence_timeout_s):
                    await call.write(encode(message))

    async def _watch(self, call: "_Call") -> None:
        """Return when the peer ends the stream."""
        while True:
            async with asyncio.timeout(self._options.link_silence_timeout_s):
                if await call.read() is grpc.aio.EOF:
                    return

    # Serving.

    async def Exchange(  # noqa: N802
        self,
        request_iterator: AsyncIterator[raft_pb2.ExchangeRequest],
        context: "_Context",
    ) -> AsyncIterator[raft_pb2.ExchangeResponse]:
        """Serve one stream of a peer."""
        del context
        first = await first_request(anext(aiter(request_iterator), None))
        if first is None:
            return
        self._check_hello(first)
        sender = ControllerId(first.hello.from_id)
        session = (first.hello.incarnation, first.hello.session)
        self._sessions[sender] = session
        reader = asyncio.create_task(self._read(request_iterator, sender, session))
        try:
            while not reader.done():
                yield raft_pb2.ExchangeResponse(controller_id=self._options.self_id)
                await asyncio.wait([reader], timeout=SIGN_OF_LIFE_INTERVAL_S)
            reader.result()
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    def _check_hello(self, first: raft_pb2.ExchangeRequest) -> None:
        hello, options = first.hello, self._options
        if first.WhichOneof("frame") != "hello":
            raise InvalidRequestError("the first frame must be a hello", field="frame")
        if hello.cluster_id != options.cluster_id:
            raise InconsistentClusterIdError(
                f"this is cluster {options.cluster_id!r}, not {hello.cluster_id!r}",
                field="hello.cluster_id",
                value=hello.cluster_id,
                limit=options.cluster_id,
            )
        if hello.to_id != options.self_id:
            raise InvalidRequestError(
                f"this is controller {options.self_id}, not {hello.to_id}",
                field="hello.to_id",
                value=hello.to_id,
                limit=options.self_id,
            )
        if hello.from_id not in options.peers:
            raise InvalidRequestError(
                f"controller {hello.from_id} is not one of this cluster",
                field="hello.from_id",
                value=hello.from_id,
                limit=sorted(options.peers),
            )
        newest = self._sessions.get(ControllerId(hello.from_id), (0, 0))
        if (hello.incarnation, hello.session) <= newest:
            raise InvalidRequestError(
                "a newer stream of this controller was accepted before",
                field="hello.session",
                value=(hello.incarnation, hello.session),
                limit=newest,
            )
        if self._loop is None:
            raise NodeShuttingDownError("this controller's log is not running")

    async def _read(
        self,
        frames: AsyncIterator[raft_pb2.ExchangeRequest],
        sender: ControllerId,
        session: tuple[int, int],
    ) -> None:
        async for frame in frames:
            if self._sessions.get(sender) != session:
                return
            message = decode(frame)
            while self._inbox.is_full:
                self._room.clear()
                if self._inbox.is_full:  # still: room made from here on is told
                    await self._room.wait()
            self._inbox.put(Received(sender, session, message), _size_bytes(message))


def _size_bytes(message: Message) -> int:
    match message:
        case AppendEntries():
            content = sum(len(entry.command) for entry in message.entries)
        case InstallSnapshot():
            content = len(message.data)
        case _:
            content = 0
    return FRAME_OVERHEAD_BYTES + content


_Call = grpc.aio.StreamStreamCall[raft_pb2.ExchangeRequest, raft_pb2.ExchangeResponse]
_Context = grpc.aio.ServicerContext[raft_pb2.ExchangeRequest, raft_pb2.ExchangeResponse]

"""An HTTP/2 connection on a socket.

Idea: what comes is dealt with in the step in which the loop hands it over; what is sent leaves in
the step in which it is said, or, a server's, in the next turn of the loop. Nothing waits for a
thread.

Invariants: each stream has one `End`, told exactly once that it is over; a peer that says nothing,
not even when asked, is given up.
"""

import asyncio
import fcntl
import socket
import termios
from collections.abc import Callable
from struct import Struct
from typing import Any, Final, cast

from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.end import End
from odradek.rpc.http2.events import (
    Event,
    HeadersReceived,
    MessageReceived,
    MessageRefused,
    StreamEnded,
    StreamReset,
)
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import (
    Headers,
    ProtocolViolationError,
    Stream,
)

_WRITE_HIGH_BYTES: Final = 1 << 20
_WRITE_LOW_BYTES: Final = 1 << 18
_GREETING_S: Final = 10.0
_LINGER_S: Final = 1.0
_INT: Final = Struct("i")
_ACKNOWLEDGED: Final = Struct("120xQ")
"""Linux's `tcp_info`, up to the bytes that the peer has acknowledged."""
_GATHERED_PIECES: Final = 64


class Wire(asyncio.Protocol):
    """A connection on its transport.

    Args:
        connection: Its state.
        on_opened: A server's: told of each new call. A client's wire has none.
        on_made: Told once that there is a transport.
        on_lost: Told then, once, that it is gone.
        keepalive_s: A peer silent for so long is asked whether it is there.
        keepalive_timeout_s: For so long it may be silent then.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        on_opened: Callable[["Wire", Stream, Headers], None] | None,
        on_made: Callable[["Wire"], None],
        on_lost: Callable[["Wire"], None],
        keepalive_s: float,
        keepalive_timeout_s: float,
    ) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self.loop.create_future()
        self.blocked: set[End] = set()
        """Ends that wait for the peer to take what they sent."""
        self.is_lost = False
        self.gone = asyncio.Event()
        """The transport is closed."""
        self.peer = ""
        self._on_opened = on_opened
        self._on_made = on_made
        self._on_lost = on_lost
        self._keepalive_s = keepalive_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._serves = on_opened is not None
        self._calling: list[asyncio.Future[None]] = []
        self._is_due = False
        self._holds = 0
        self._heard_s = self.loop.time()
        self._asked_s = 0.0
        self._taken_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    # What asyncio tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to talk."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_WRITE_HIGH_BYTES, _WRITE_LOW_BYTES)
        self.peer = _name(transport.get_extra_info("peername"))
        self._on_made(self)
        if self.is_lost:
            return
        self._timer = self.loop.call_later(min(_GREETING_S, self._keepalive_s), self._look)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Perform what the peer says."""
        self._heard_s = self.loop.time()
        try:
            events = self.connection.receive(data)
        except ProtocolViolationError as violation:
            self._perform_all(violation.events)
            self.close(f"the peer broke the protocol: {violation.reason}")
            return
        self._perform_all(events)
        if self.blocked:
            self._tell_drained()
        if self._calling or self.connection.is_going_away:
            self._on_fewer_calls()
        if not self.greeted.done() and self.connection.is_greeted:
            self.greeted.set_result(None)
        self.flush()

    def pause_writing(self) -> None:
        """Hold data back; who does not take answers is not asked for what."""
        self.connection.sender.is_paused = True
        if self._serves and self._transport is not None and not self.is_lost:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._serves and self._transport is not None and not self.is_lost:
            self._transport.resume_reading()
        self._heard_s = self.loop.time()  # it takes what we say
        self.connection.resume()
        self.flush()
        self._tell_drained()

    def eof_received(self) -> bool:
        """Let the transport close: a connection that is half closed is of no use."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell every call."""
        self._lose(f"the connection to {self.peer} broke" + (f": {error}" if error else ""))
        if self._lingering is not None:
            self._lingering.cancel()
        self.gone.set()
        self._on_lost(self)

    # What the ends do

    def flush(self, *, at_once: bool = False) -> None:
        """Write what there is to write.

        A server does so with all else that this turn of the loop says, unless that is much, or
        `at_once`: a write costs both ends more than what it carries.
        """
        out = self.connection.out
        if at_once or not (self._serves or self._holds) or len(out) > _GATHERED_PIECES:
            self._write()
        elif out and not (self._is_due or self._holds):
            self._is_due = True
            self.loop.call_soon(self._on_turn)

    def hold(self) -> None:
        """Write little before `let_go`: something more is to be said in a moment."""
        self._holds += 1

    def let_go(self) -> None:
        """Undo a `hold`; after the last one, write."""
        self._holds -= 1
        if not self._holds:
            self._write()

    def _on_turn(self) -> None:
        self._is_due = False
        if not self._holds:
            self._write()

    def _write(self) -> None:
        out = self.connection.out
        if not out:
            return
        pieces = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        if self._transport is not None and not self.is_lost:
            self._transport.write(pieces)

    def consume(self, stream: Stream, size_bytes: int) -> None:
        """A message is dealt with."""
        self.connection.consume(stream, size_bytes)
        self.flush()

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give a call up."""
        self.connection.reset(stream, code)
        self.flush()
        self._on_fewer_calls()

    async def open(self, headers: Headers) -> Stream:
        """Begin a call, as soon as the peer takes another; a client's.

        Raises:
            ConnectionError: It takes none any more.
        """
        while len(self.connection.streams) >= self.connection.calls_max and not self.is_lost:
            waiting = self.loop.create_future()
            self._calling.append(waiting)
            await waiting
        if self.connection.is_going_away:
            raise ConnectionError(f"{self.peer} takes no more calls on this connection")
        return self.connection.open(headers)

    def _on_fewer_calls(self) -> None:
        """Let those go on that waited to call; close what will not be called again."""
        connection = self.connection
        if self._calling and len(connection.streams) < connection.calls_max:
            calling, self._calling = self._calling, []
            for each in calling:
                if not each.done():
                    each.set_result(None)
        if connection.is_going_away and not connection.streams and not self._serves:
            self.close("the peer went away")

    def close(self, reason: str) -> None:
        """Close the transport once what was written has left; calls end at once."""
        self._write()
        if self._transport is not None and self._lingering is None:
            self._transport.close()
            self._lingering = self.loop.call_later(_LINGER_S, self._transport.abort)
        self._lose(reason)

    def abort(self, reason: str) -> None:
        """Close the transport at once."""
        if self._transport is not None:
            self._transport.abort()
        self._lose(reason)

    def _perform_all(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is MessageReceived and event.stream.owner is not None:  # nearly always
                event.stream.owner.on_message(event.data)
            else:
                self._perform(event)

    def _perform(self, event: Event) -> None:
        owner: End | None = event.stream.owner
        match event:
            case HeadersReceived() if owner is None:
                if self._on_opened is not None:
                    self._on_opened(self, event.stream, event.headers)
            case _ if owner is None:
                pass  # it was refused as it began
            case HeadersReceived():
                owner.on_headers(event.headers, ends=event.ends)
            case StreamEnded():
                owner.on_ended()
            case StreamReset():
                owner.on_reset(event.code)
            case MessageRefused():
                owner.on_refused(event.reason)

    def _tell_drained(self) -> None:
        for end in [end for end in self.blocked if not end.stream.pending]:
            self.blocked.discard(end)
            end.on_drained()

    def _lose(self, reason: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self.connection.is_going_away = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(reason))
            self.greeted.exception()
        for waiting in self._calling:
            if not waiting.done():
                waiting.set_result(None)
        streams = list(self.connection.streams.values())
        self.connection.streams.clear()
        for stream in streams:
            if stream.owner is not None:
                stream.owner.on_lost(reason)

    def _look(self) -> None:
        """See whether the peer is there."""
        now_s = self.loop.time()
        if not self.greeted.done():
            self.abort(f"{self.peer} does not speak HTTP/2")
            return
        if self._serves and self._is_taking():
            self._heard_s = now_s
        if self._asked_s > self._heard_s:
            self.abort(f"{self.peer} does not answer")
            return
        wait_s = self._heard_s + self._keepalive_s - now_s
        if wait_s <= 0:
            wait_s = self._keepalive_s
            if self._serves or self.connection.streams:
                self._asked_s = now_s
                self.connection.ping()
                self.flush()
                wait_s = self._keepalive_timeout_s
        self._timer = self.loop.call_later(wait_s, self._look)

    def _is_taking(self) -> bool:
        """Tell whether the peer takes what waits for it, if slowly, and our question last.

        Its kernel says so: over TLS, what waits in this process is not all to be seen.
        """
        end = None if self._transport is None else self._transport.get_extra_info("socket")
        if end is None or end.family == socket.AF_UNIX:
            return False
        waiting = fcntl.ioctl(end.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
        before_bytes = self._taken_bytes
        (self._taken_bytes,) = _ACKNOWLEDGED.unpack(info)
        return _INT.unpack(waiting) > (0,) and self._taken_bytes > before_bytes


def _name(address: Any) -> str:
    """Return the peer's address as gRPC writes it."""
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"

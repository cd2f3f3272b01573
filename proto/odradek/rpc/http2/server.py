"""The called end: takes connections, runs a task for each call.

Invariants: a task ends before its stream's place is given to another call, so that calls which are
given up as soon as they are made cost no more than those that stay; connections beyond the limit
are closed before they say anything.
"""

import asyncio
import inspect
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, Self, TypeAlias
from weakref import WeakKeyDictionary

import grpc
from grpc import StatusCode

from odradek.rpc.http2 import status as statuses
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.end import End
from odradek.rpc.http2.status import OK, Metadata, NoGrpcError, Request, Status
from odradek.rpc.http2.streams import Headers, Stream
from odradek.rpc.http2.wire import Wire

STREAMS_MAX: Final = 1_000
"""Of one connection: as many calls may begin in one turn of the loop."""
_BACKLOG: Final = 1_024
_HANDSHAKE_S: Final = 10.0
_KEEPALIVE_S: Final = 20.0
_KEEPALIVE_TIMEOUT_S: Final = 10.0

Deserializer: TypeAlias = Callable[[bytes], Any]

_log = logging.getLogger(__name__)


class AbortError(Exception):
    """Ends a call with a status."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


class Context(End):
    """What a handler knows of its call, and says to its caller."""

    def __init__(self, wire: Wire, stream: Stream, request: Request) -> None:
        super().__init__(wire, stream)
        self.request = request
        self.encode: Callable[[Any], bytes] | None = None
        self.decode: Callable[[bytes], Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self._is_begun = False
        self._deadline_s: float | None = None
        if request.timeout_s is not None:
            self._deadline_s = wire.loop.time() + request.timeout_s

    # What handlers use

    async def read(self) -> Any:
        """Return the next request, or `grpc.aio.EOF`. Safe to cancel."""
        data = await self.next_message()
        if data is None:
            return grpc.aio.EOF
        return data if self.decode is None else self.decode(data)

    async def hear(self, take: Callable[[Any], Awaitable[None] | None]) -> None:
        """Hand each request over in the step in which it comes; see `End.listen`."""
        decode = self.decode
        await self.listen(take if decode is None else lambda data: take(decode(data)))

    async def write(self, response: Any) -> None:
        """Send an answer; returns once it has left, or may as well have."""
        if not self.offer(response):
            await self.drained()

    def offer(self, response: Any) -> bool:
        """Send an answer; False: offer no other until `drained`."""
        if self.is_over:
            return True
        self._begin()
        data = response if self.encode is None else self.encode(response)
        return self.offer_bytes(data)

    async def abort(
        self, code: StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status."""
        raise AbortError(Status(code, details, tuple(trailing_metadata)))

    def peer(self) -> str:
        """Return the caller's address, as in `ipv4:127.0.0.1:1234`."""
        return self.wire.peer

    def time_remaining(self) -> float | None:
        """Return how long the caller waits, in seconds; None: for ever."""
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - self.wire.loop.time())

    def __aiter__(self) -> Self:
        """Iterate over the requests."""
        return self

    async def __anext__(self) -> Any:
        """Return the next request."""
        request = await self.read()
        if request is grpc.aio.EOF:
            raise StopAsyncIteration
        return request

    # What the wire tells

    def on_headers(self, headers: Headers, *, ends: bool) -> None:
        """Trailers of a request say only that it has ended."""
        del headers
        if ends:
            self._wake_reader()

    def on_refused(self, reason: str) -> None:
        """It sent what cannot be taken: nothing more of it will be understood."""
        self.finish(Status(StatusCode.RESOURCE_EXHAUSTED, reason))
        self._stop()

    def on_ended(self) -> None:
        """The caller asks for nothing more."""
        self._wake_reader()

    def on_reset(self, code: int) -> None:
        """The caller gave up."""
        del code
        self._stop()

    def on_lost(self, reason: str) -> None:
        """The caller is gone."""
        del reason
        self._stop()

    def _stop(self) -> None:
        self.is_over = True
        self._wake_all()
        if self.task is not None:
            self.task.cancel()

    # What the server does

    def finish(self, status: Status) -> None:
        """End the call, unless nobody is there any more."""
        if self.is_over:
            return
        self.is_over = True
        trailers = statuses.trailers(status, only=not self._is_begun)
        self.wire.connection.sender.end(self.stream, trailers)
        self.wire.flush()

    def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self.wire.connection.sender.headers(self.stream, statuses.response_headers())


class Http2Server:
    """Where generated code registers servicers.

    Args:
        connections_max: Further ones are closed at once.
        status_of: Says how a call ends whose handler raised this; None: nobody meant it to.
        bounded: Makes a deserializer refuse what is too large for it.
        on_call: Called in each call's task before its handler.
    """

    def __init__(
        self,
        *,
        connections_max: int,
        status_of: Callable[[Exception], Status | None],
        bounded: Callable[[Deserializer], Deserializer],
        on_call: Callable[[], object],
    ) -> None:
        self._connections_max = connections_max
        self._status_of = status_of
        self._bounded = bounded
        self._on_call = on_call
        self._handlers: dict[str, Any] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._wires: set[Wire] = set()
        self._tasks: WeakKeyDictionary[Wire, set[asyncio.Task[None]]] = WeakKeyDictionary()
        self._server: asyncio.Server | None = None
        self._is_stopping = False

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        """Take what `grpc.method_handlers_generic_handler` made."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Take what generated code registers."""
        self._handlers.update({f"/{service}/{name}": each for name, each in handlers.items()})

    async def listen(self, address: str, context: ssl.SSLContext | None) -> int:
        """Take connections at `host:port` or `unix:path`; return the port, or 0.

        Raises:
            OSError: Not there.
        """
        loop = asyncio.get_running_loop()
        host, _, port = address.rpartition(":")
        if host == "unix":
            self._server = await loop.create_unix_server(self._make_wire, port, backlog=_BACKLOG)
            return 0
        self._server = await loop.create_server(
            self._make_wire,
            host.strip("[]"),
            int(port),
            ssl=context,
            ssl_handshake_timeout=None if context is None else _HANDSHAKE_S,
            backlog=_BACKLOG,
        )
        name: tuple[Any, ...] = self._server.sockets[0].getsockname()
        return int(name[1])

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, give those that run some time, then end them."""
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
        for wire in list(self._wires):
            wire.connection.go_away()
            wire.flush()
        tasks = [task for of_one in self._tasks.values() for task in of_one]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        wires = list(self._wires)
        for wire in wires:
            wire.close("the server stops")
        for wire in wires:
            await wire.gone.wait()

    def _make_wire(self) -> asyncio.Protocol:
        if self._is_stopping or len(self._wires) >= self._connections_max:
            return _Refusal()
        return Wire(
            Connection(is_client=False, streams_max=STREAMS_MAX),
            on_opened=self._on_opened,
            on_made=self._on_made,
            on_lost=self._wires.discard,
            keepalive_s=_KEEPALIVE_S,
            keepalive_timeout_s=_KEEPALIVE_TIMEOUT_S,
        )

    def _on_made(self, wire: Wire) -> None:
        """Take a connection, unless others did while it shook hands."""
        if self._is_stopping or len(self._wires) >= self._connections_max:
            wire.abort("there are too many connections")
        else:
            self._wires.add(wire)

    def _on_opened(self, wire: Wire, stream: Stream, headers: Headers) -> None:
        try:
            request = statuses.parse_request(headers)
        except NoGrpcError as error:
            wire.connection.sender.headers(stream, [(":status", error.http_status)], ends=True)
            return
        context = Context(wire, stream, request)
        tasks = self._tasks.setdefault(wire, set())
        if len(tasks) >= STREAMS_MAX:
            context.finish(Status(StatusCode.UNAVAILABLE, "too many calls at a time"))
            return
        context.task = wire.loop.create_task(self._serve(context))
        tasks.add(context.task)
        context.task.add_done_callback(tasks.discard)

    def _find(self, request: Request) -> Any:
        handler = self._handlers.get(request.path)
        if handler is None:
            details = _Details(request.path, request.metadata)
            found = (each.service(details) for each in self._generic)
            handler = next((each for each in found if each is not None), None)
            if handler is not None:
                self._handlers[request.path] = handler
        return handler

    async def _serve(self, context: Context) -> None:
        deadline = asyncio.timeout(context.time_remaining())
        status = Status(StatusCode.UNAVAILABLE, "the server stops")
        try:
            async with deadline:
                await self._handle(context)
            status = OK
        except AbortError as error:
            status = error.status
        except Exception as error:  # noqa: BLE001 a handler's mistake ends its call, not the server
            if deadline.expired():
                status = Status(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            else:
                status = self._status_of(error) or _unexpected(context, error)
        finally:
            context.finish(status)

    async def _handle(self, context: Context) -> None:
        handler = self._find(context.request)
        if handler is None:
            reason = f"there is no method {context.request.path}"
            raise AbortError(Status(StatusCode.UNIMPLEMENTED, reason))
        context.encode = handler.response_serializer
        if handler.request_deserializer is not None:
            context.decode = self._bounded(handler.request_deserializer)
        self._on_call()
        forms = (
            *(handler.unary_unary, handler.unary_stream),
            *(handler.stream_unary, handler.stream_stream),
        )
        behaviour = next(form for form in forms if form is not None)
        argument: Any = context
        if not handler.request_streaming:
            argument = await context.read()
            if argument is grpc.aio.EOF:
                raise AbortError(Status(StatusCode.INTERNAL, "the call has no request"))
        if inspect.isasyncgenfunction(behaviour):
            async with aclosing(behaviour(argument, context)) as answers:
                async for answer in answers:
                    await context.write(answer)
            return
        answer = await behaviour(argument, context)
        if not handler.response_streaming:
            await context.write(answer)


class _Refusal(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Details(grpc.HandlerCallDetails):
    def __init__(self, method: str, metadata: Metadata) -> None:
        self.method = method
        self.invocation_metadata = metadata


def _unexpected(context: Context, error: Exception) -> Status:
    _log.error("a call failed: %s", context.request.path, exc_info=error)
    return Status(StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")

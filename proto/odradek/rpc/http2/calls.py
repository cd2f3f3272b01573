"""The caller's end of calls, as stubs and the product use it: `grpc.aio`'s, as far as it goes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import grpc
from grpc import StatusCode

from odradek.rpc.http2 import status as statuses
from odradek.rpc.http2.end import End, Take
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.status import Status
from odradek.rpc.http2.streams import Headers, Stream
from odradek.rpc.http2.wire import Wire

Q = TypeVar("Q")
A = TypeVar("A")


class Dialler(Protocol):
    """Where calls go."""

    address: str
    scheme: str

    async def wire(self) -> Wire:
        """Return the connection, dialling if need be."""


class _CallEnd(End):
    """The caller's end."""

    def __init__(self, wire: Wire, stream: Stream) -> None:
        super().__init__(wire, stream)
        self.status: Status | None = None
        self._is_answered = False

    def on_headers(self, headers: Headers, *, ends: bool) -> None:
        if not self._is_answered:
            self._is_answered = True
            failure = statuses.parse_response(headers)
            if failure is not None:
                self.finish(failure)
                return
        if ends:
            self.finish(statuses.parse_trailers(headers))

    def on_refused(self, reason: str) -> None:
        self.finish(Status(StatusCode.RESOURCE_EXHAUSTED, reason))

    def on_ended(self) -> None:
        self.finish(Status(StatusCode.INTERNAL, "the call ended without a status"))

    def on_reset(self, code: int) -> None:
        self.finish(statuses.reset_status(code))

    def on_lost(self, reason: str) -> None:
        self.finish(Status(StatusCode.UNAVAILABLE, reason))

    async def over(self) -> Status:
        """Return how the call ended, once it has."""
        while self.status is None:
            waiting = self.wire.loop.create_future()
            self._writing.append(waiting)
            await waiting
        return self.status

    def finish(self, status: Status) -> None:
        """Note how the call ended, unless it had."""
        if self.status is not None:
            return
        self.status = status
        self.is_over = True
        if not self.wire.is_lost:
            self.wire.reset(self.stream, ErrorCode.CANCEL)
        self._wake_all()


class Call(Generic[Q, A]):
    """A call with a stream of answers.

    Args:
        channel: Where.
        path: `/service/method`.
        encode: None: requests are bytes.
        decode: None: answers are bytes.
        timeout_s: From now on; None: for ever.
    """

    def __init__(
        self,
        channel: Dialler,
        path: str,
        encode: Callable[[Q], bytes] | None,
        decode: Callable[[bytes], A] | None,
        timeout_s: float | None,
    ) -> None:
        self._channel = channel
        self._path = path
        self._encode = encode
        self._decode = decode
        loop = asyncio.get_running_loop()
        self._end: _CallEnd | None = None
        self._status: Status | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            late = Status(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            self._timer = loop.call_later(timeout_s, self._fail, late)
        self._opening = loop.create_task(self._begin(timeout_s))
        self._opening.add_done_callback(hear)

    async def write(self, request: Q) -> None:
        """Send a request.

        Raises:
            grpc.aio.AioRpcError: The call has failed.
            asyncio.InvalidStateError: It has ended.
        """
        if self._end is None:
            await self._begun()
        if not self.offer(request):
            await self.drained()

    def hold(self) -> None:
        """Something is to be sent in a moment: let it go along."""
        assert self._end is not None, "it begins with `write`"
        self._end.hold()

    def let_go(self) -> None:
        """It was sent."""
        assert self._end is not None, "it was held"
        self._end.let_go()

    def offer(self, request: Q) -> bool:
        """Send a request on a call that has begun; False: offer no other until `drained`.

        Raises:
            As `write`.
        """
        end = self._end
        assert end is not None, "it begins with `write`"
        if end.is_over:
            self._raise_failure(end)
            raise asyncio.InvalidStateError("the call has ended")
        data = self._encode(request) if self._encode else request
        has_left = end.offer_bytes(data)  # type: ignore[arg-type]
        if end.is_over:
            self._raise_failure(end)
        return has_left

    async def drained(self) -> None:
        """Wait until all that was offered has left.

        Raises:
            grpc.aio.AioRpcError: The call has failed.
        """
        end = self._end
        assert end is not None, "something was offered"
        await end.drained()
        if end.is_over:
            self._raise_failure(end)

    async def read(self) -> A:
        """Return the next answer, or `grpc.aio.EOF`. Safe to cancel.

        Raises:
            grpc.aio.AioRpcError: The call has failed.
        """
        end = self._end or await self._begun()
        data = await end.next_message()
        if data is None:
            self._raise_failure(end)
            return grpc.aio.EOF  # type: ignore[return-value]
        return self._decoded(end, data)

    async def listen(self, take: Callable[[A], Awaitable[None] | None]) -> None:
        """Hand each answer over in the step in which it comes; returns when the call has ended.

        Raises:
            grpc.aio.AioRpcError: The call has failed.
            Exception: What `take` raised.
        """
        end = self._end or await self._begun()
        if self._decode is None:
            await end.listen(cast("Take", take))
        else:
            await end.listen(lambda data: take(self._decoded(end, data)))
        self._raise_failure(end)

    async def done_writing(self) -> None:
        """Say that no request follows."""
        end = self._end or await self._begun()
        if not end.is_over and not end.stream.is_ended_here:
            end.wire.connection.sender.end(end.stream)
            end.wire.flush()

    def cancel(self) -> bool:
        """Give the call up; False when it had ended."""
        return self._fail(Status(StatusCode.CANCELLED, "the caller gave up"))

    async def code(self) -> StatusCode:
        """Return how the call ended, once it has."""
        return (await self._outcome()).code

    async def details(self) -> str:
        """Return why it ended, in words, once it has."""
        return (await self._outcome()).details

    def __aiter__(self) -> AsyncIterator[A]:
        """Iterate over the answers."""
        return self._answers()

    async def _answers(self) -> AsyncIterator[A]:
        while (answer := await self.read()) is not grpc.aio.EOF:
            yield answer

    async def _outcome(self) -> Status:
        try:
            end = self._end or await self._begun()
        except grpc.aio.AioRpcError as error:
            return Status(error.code(), error.details() or "")
        return await end.over()

    def _fail(self, status: Status) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        if self._end is not None:
            was_over = self._end.is_over
            self._end.finish(status)
            return not was_over
        self._status = self._status or status
        return self._opening.cancel()

    async def _begun(self) -> _CallEnd:
        """Wait until the call has begun; cancelling who waits leaves the others alone."""
        try:
            return await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            if self._status is not None and self._opening.cancelled():
                raise error_of(self._status) from None
            raise

    async def _begin(self, timeout_s: float | None) -> _CallEnd:
        wire = await self._channel.wire()
        address, scheme = self._channel.address, self._channel.scheme
        headers = statuses.request_headers(self._path, address, scheme, timeout_s)
        try:
            stream = await wire.open(headers)
        except ConnectionError as error:
            raise error_of(Status(StatusCode.UNAVAILABLE, str(error))) from error
        self._end = _CallEnd(wire, stream)
        self._ask(self._end)
        wire.flush()
        return self._end

    def _ask(self, end: _CallEnd) -> None:
        """Say what belongs to the beginning."""

    def _decoded(self, end: _CallEnd, data: bytes) -> A:
        if self._decode is None:
            return data  # type: ignore[return-value]
        try:
            return self._decode(data)
        except Exception as error:
            status = Status(StatusCode.INTERNAL, f"the answer cannot be decoded: {error}")
            end.finish(status)
            raise error_of(status) from error

    def _raise_failure(self, end: _CallEnd) -> None:
        if self._timer is not None:
            self._timer.cancel()
        status = end.status
        if status is not None and status.code is not StatusCode.OK:
            raise error_of(status)


class AskedCall(Call[Q, A]):
    """A call of one request."""

    def __init__(
        self,
        channel: Dialler,
        path: str,
        encode: Callable[[Q], bytes] | None,
        decode: Callable[[bytes], A] | None,
        timeout_s: float | None,
        *,
        request: Q,
    ) -> None:
        self._data = encode(request) if encode else request
        super().__init__(channel, path, encode, decode, timeout_s)

    def _ask(self, end: _CallEnd) -> None:
        end.wire.connection.sender.message(end.stream, self._data)  # type: ignore[arg-type]
        end.wire.connection.sender.end(end.stream)


async def only_answer(call: AskedCall[Q, A]) -> A:
    """Return the answer of a call that has one.

    Raises:
        grpc.aio.AioRpcError: It has failed.
    """
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise error_of(Status(StatusCode.INTERNAL, "the call ended without an answer"))
    await call.read()  # its status
    return answer


def hear(task: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining that nobody asked how a call ended."""
    if not task.cancelled():
        task.exception()


def error_of(status: Status) -> grpc.aio.AioRpcError:
    """Return what a failed call raises."""
    return grpc.aio.AioRpcError(
        status.code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*status.metadata),
        details=status.details,
    )

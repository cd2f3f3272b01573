"""The server shell of a node and of a controller: limits, errors, health, drain.

The only place that listens. Handlers raise `BrokerError`s; the interceptor here turns them into a
status with the whole error beside it (rpc/errors.py).
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from odradek.protocol.errors import BrokerError, InvalidRequestError, RequestTimedOutError
from odradek.protocol.names import begin_request
from odradek.rpc.channels import MESSAGE_BYTES_MAX
from odradek.rpc.errors import error_metadata, status_for
from odradek.rpc.tls import TlsOptions

Handler = Callable[[Any, Any], Any]
Deserializer = Callable[[bytes], Any]
RequestT = TypeVar("RequestT")

FIRST_REQUEST_S: Final = 60.0
"""Longer than a client waits for an answer: it may be slow to send a large one."""

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a request that a generated class decodes: one of nothing but empty fields takes it 40 ms and
32 MiB of memory for each of its mebibytes. Who decodes records itself has gRPC's limit alone."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two processes on one port would share its connections in silence; refuse the second instead.
    ("grpc.so_reuseport", 0),
)


class AddressInUseError(OSError):
    """The address to listen on is taken, or is not one of this machine's."""


@dataclass(frozen=True, slots=True)
class Health:
    """What `grpc.health.v1.Health` answers. The empty name stands for the whole process."""

    _servicer: Any

    async def set(self, *, serving: bool, service: str = "") -> None:
        """Report a service, or the process, as serving or not; watchers are told at once."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        await self._servicer.set(service, status.SERVING if serving else status.NOT_SERVING)


class Server:
    """One listening gRPC server. Add servicers to `grpc`, then `start`, then `drain`."""

    def __init__(
        self, listen: str, *, tls: TlsOptions | None = None, connections_max: int = 10_000
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            listen: `host:port`; port 0 lets the system choose.
            tls: None for plain text.
            connections_max: Further connections are refused; those that stand are not touched.
        """
        self._listen = listen
        self._tls = tls
        self.grpc: grpc.aio.Server = grpc.aio.server(
            interceptors=[_ErrorsToStatus()],
            options=[*_OPTIONS, ("grpc.max_allowed_incoming_connections", connections_max)],
        )
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self.grpc)
        self.health = Health(servicer)

    async def start(self) -> int:
        """Listen; return the port.

        Raises:
            AddressInUseError: The address is taken or not ours.
        """
        await self.health.set(serving=False)
        try:
            if self._tls is None:
                port = self.grpc.add_insecure_port(self._listen)
            else:
                port = self.grpc.add_secure_port(self._listen, self._tls.server_credentials())
        except RuntimeError as error:
            port = 0
            cause: RuntimeError | None = error
        else:
            cause = None
        if port == 0:
            raise AddressInUseError(
                f"cannot listen on {self._listen}: the port is taken or the address is not this"
                " machine's; choose another with --listen"
            ) from cause
        await self.grpc.start()
        return port

    async def drain(self, grace_s: float) -> None:
        """Report not serving, take no new calls, give the running ones `grace_s`, then end them."""
        await self.health.set(serving=False)
        await self.grpc.stop(grace_s)


class _ErrorsToStatus(grpc.aio.ServerInterceptor):
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:  # an unknown method: gRPC answers UNIMPLEMENTED
            return None
        make, inner = _form_of(handler)
        if handler.request_streaming and handler.response_streaming:
            inner = _begun(inner)
        decode = handler.request_deserializer and _bounded(handler.request_deserializer)
        if handler.request_streaming:
            handle = _guard(inner)
        else:  # gRPC would decode it before the guard stands
            handle, decode = _guard(inner, decode or _as_it_came), None
        return make(
            handle,
            request_deserializer=decode,
            response_serializer=handler.response_serializer,
        )


async def first_request(reading: Awaitable[RequestT]) -> RequestT:
    """Return what is read first of a stream of requests; those after it may take any time.

    Raises:
        RequestTimedOutError: It did not come: who opens a stream has something to say.
    """
    try:
        async with asyncio.timeout(FIRST_REQUEST_S):
            return await reading
    except TimeoutError as error:
        raise RequestTimedOutError(
            f"the stream's first request did not come within {FIRST_REQUEST_S:g} s",
            field="request",
            limit=f"{FIRST_REQUEST_S:g} s",
        ) from error


def _form_of(handler: Any) -> tuple[Callable[..., Any], Handler]:
    """Return gRPC's constructor for this form of call, and the function that handles it."""
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            return grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream


def _begun(inner: Handler) -> Handler:
    """Send a conversation's initial metadata before anything else.

    gRPC would send it with the first message, and note so only when who wrote that is told; if that
    task was cancelled meanwhile, it sends the metadata once more with the status, which its core
    refuses: the caller would never hear that the stream has ended.
    """
    if inspect.isasyncgenfunction(inner):
        return inner  # each message is waited for

    async def begun(request: Any, context: Any) -> Any:
        await context.send_initial_metadata(())
        return await inner(request, context)

    return begun


def _bounded(deserialize: Deserializer) -> Deserializer:
    """Refuse what is too large to be decoded, or is no message, with an error of ours."""

    def decode(data: bytes) -> Any:
        if len(data) > REQUEST_BYTES_MAX:
            raise InvalidRequestError(
                f"a request of {len(data)} bytes is too large; send several",
                field="request",
                value=len(data),
                limit=REQUEST_BYTES_MAX,
            )
        try:
            return deserialize(data)
        except DecodeError as error:
            raise InvalidRequestError("the bytes are not the expected message") from error

    return decode


def _as_it_came(request: Any) -> Any:
    return request


def _guard(inner: Handler, decode: Deserializer = _as_it_came) -> Handler:
    if inspect.isasyncgenfunction(inner):

        async def guarded_stream(request: Any, context: Any) -> AsyncIterator[Any]:
            begin_request()
            try:
                async for response in inner(decode(request), context):
                    yield response
            except BrokerError as error:
                await _abort(context, error)

        return guarded_stream

    async def guarded(request: Any, context: Any) -> Any:
        begin_request()
        try:
            return await inner(decode(request), context)
        except BrokerError as error:
            await _abort(context, error)

    return guarded


async def _abort(context: Any, error: BrokerError) -> None:
    await context.abort(status_for(error), error.message, error_metadata(error))

"""The server shell of a node and of a controller: limits, errors, health, drain.

The only place that listens. Handlers raise `BrokerError`s; they become a status with the whole
error beside it (rpc/errors.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from odradek.protocol.errors import BrokerError, InvalidRequestError, RequestTimedOutError
from odradek.protocol.names import begin_request
from odradek.rpc.errors import error_metadata, status_for
from odradek.rpc.http2.server import Http2Server
from odradek.rpc.http2.status import Status
from odradek.rpc.tls import TlsOptions

Deserializer = Callable[[bytes], Any]
RequestT = TypeVar("RequestT")

FIRST_REQUEST_S: Final = 60.0
"""Longer than a client waits for an answer: it may be slow to send a large one."""

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a request that a generated class decodes: one of nothing but empty fields takes it 40 ms and
32 MiB of memory for each of its mebibytes. Who decodes records itself has gRPC's limit alone."""


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
        self._http2 = Http2Server(
            connections_max=connections_max,
            status_of=_status_of,
            bounded=_bounded,
            on_call=begin_request,
        )
        # To generated code: it registers servicers, and looks at nothing else.
        self.grpc = cast("grpc.aio.Server", self._http2)
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self.grpc)
        self.health = Health(servicer)

    async def start(self) -> int:
        """Listen; return the port.

        Raises:
            AddressInUseError: The address is taken or not ours.
        """
        await self.health.set(serving=False)
        context = None if self._tls is None else self._tls.server_context()
        try:
            return await self._http2.listen(self._listen, context)
        except OSError as error:
            raise AddressInUseError(
                f"cannot listen on {self._listen}: the port is taken or the address is not this"
                " machine's; choose another with --listen"
            ) from error

    async def drain(self, grace_s: float) -> None:
        """Report not serving, take no new calls, give the running ones `grace_s`, then end them."""
        await self.health.set(serving=False)
        await self._http2.stop(grace_s)


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


def _status_of(error: Exception) -> Status | None:
    if not isinstance(error, BrokerError):
        return None
    return Status(status_for(error), error.message, error_metadata(error))


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

"""Calls to one peer, over one connection that is dialled when it is needed.

A call fails at once while the peer cannot be reached: whoever calls knows what may be repeated, and
when. After a failed attempt the next one waits a little, whatever was called meanwhile fails with
the same reason. A connection that broke is dialled anew by the next call.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from grpc import StatusCode

from odradek.rpc.http2.calls import AskedCall, Call, error_of, hear, only_answer
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.status import Status
from odradek.rpc.http2.tunnel import find_proxy, open_tunnel
from odradek.rpc.http2.wire import Wire

Q = TypeVar("Q")
A = TypeVar("A")

_CONNECT_S: Final = 1.0
_CONNECT_TLS_S: Final = 3.0
_REDIAL_S: Final = 0.1


class Channel:
    """A peer.

    Args:
        address: `host:port`, or `unix:path`.
        context: For TLS; None for plain text.
        keepalive_s: While calls are under way, a peer silent for so long is asked whether it is
            there, and given up when it does not answer within half of that.
    """

    def __init__(self, address: str, *, context: ssl.SSLContext | None, keepalive_s: float) -> None:
        self.address = address
        self.scheme = "http" if context is None else "https"
        self._context = context
        self._connect_s = _CONNECT_S if context is None else _CONNECT_TLS_S
        self._keepalive_s = keepalive_s
        self._wires: set[Wire] = set()
        self._wire: Wire | None = None
        self._dialling: asyncio.Task[Wire] | None = None
        self._failure = ""
        self._redial_at_s = 0.0
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._is_closed = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait((self._dialling,))
        wires = list(self._wires)
        for wire in wires:
            wire.close("the channel was closed")
        for wire in wires:
            await wire.gone.wait()

    async def wire(self) -> Wire:
        """Return the connection, dialling if need be.

        Raises:
            grpc.aio.AioRpcError: The peer cannot be reached, or the channel is closed.
        """
        if self._is_closed:
            raise error_of(Status(StatusCode.UNAVAILABLE, "the channel was closed"))
        if self._wire is not None and not self._wire.connection.is_going_away:
            return self._wire
        loop = asyncio.get_running_loop()
        if self._dialling is None:
            if loop.time() < self._redial_at_s:
                raise error_of(Status(StatusCode.UNAVAILABLE, self._failure))
            self._dialling = loop.create_task(self._dial())
            self._dialling.add_done_callback(hear)  # whoever waits for it may leave first
        try:
            return await asyncio.shield(self._dialling)
        except asyncio.CancelledError:
            if self._is_closed:
                raise error_of(Status(StatusCode.UNAVAILABLE, "the channel was closed")) from None
            raise
        except (OSError, TimeoutError, ValueError, OverflowError) as error:
            raise error_of(Status(StatusCode.UNAVAILABLE, self._failure)) from error

    async def _dial(self) -> Wire:
        loop = asyncio.get_running_loop()
        try:
            self._wire = await self._dial_any()
        except BaseException as error:
            reason = str(error) or f"no answer within {self._connect_s:g} s"
            self._failure = f"cannot connect to {self.address}: {reason}"
            self._redial_at_s = loop.time() + _REDIAL_S
            raise
        finally:
            self._dialling = None
        return self._wire

    async def _dial_any(self) -> Wire:
        host, _, port = self.address.rpartition(":")
        name = host.strip("[]")
        proxy = None if host == "unix" else find_proxy(name)
        if proxy is not None:
            return await self._open(partial(self._connect_through, proxy, name))
        *others, last = [host] if host == "unix" else await self._hosts(name)
        for each in others:
            with suppress(OSError, TimeoutError):
                return await self._dial_one(each, port)
        return await self._dial_one(last, port)

    async def _hosts(self, host: str) -> list[str]:
        """Return every address that a name has; one that does not answer must not hide another."""
        with suppress(ValueError):
            return [str(ip_address(host))]
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(each[4][0]) for each in found))

    async def _dial_one(self, host: str, port: str) -> Wire:
        return await self._open(partial(self._connect, host, port))

    async def _open(self, connect: Callable[[], Awaitable[Wire]]) -> Wire:
        """Connect and exchange greetings, within the time for both."""
        wire: Wire | None = None
        try:
            async with asyncio.timeout(self._connect_s):
                wire = await connect()
                await wire.greeted
        except BaseException:
            if wire is not None:
                wire.abort(f"cannot connect to {self.address}")
            raise
        return wire

    async def _connect(self, host: str, port: str) -> Wire:
        loop = asyncio.get_running_loop()
        if host == "unix":
            _, wire = await loop.create_unix_connection(self._make_wire, port)
        else:
            name = None if self._context is None else self.address.rpartition(":")[0].strip("[]")
            _, wire = await loop.create_connection(
                self._make_wire, host, int(port), ssl=self._context, server_hostname=name
            )
        return wire

    async def _connect_through(self, proxy: str, host: str) -> Wire:
        """The proxy looks the name up; the peer's certificate is still the peer's."""
        loop = asyncio.get_running_loop()
        tunnel = await open_tunnel(proxy, self.address)
        _, wire = await loop.create_connection(
            self._make_wire,
            sock=tunnel,
            ssl=self._context,
            server_hostname=None if self._context is None else host,
        )
        return wire

    def _make_wire(self) -> Wire:
        return Wire(
            Connection(is_client=True),
            on_opened=None,
            on_made=self._wires.add,
            on_lost=self._wires.discard,
            keepalive_s=self._keepalive_s,
            keepalive_timeout_s=self._keepalive_s / 2,
        )

    # What generated stubs ask for

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Q], bytes] | None = None,
        response_deserializer: Callable[[bytes], A] | None = None,
        **_: Any,
    ) -> Callable[..., Awaitable[A]]:
        """Return how to call a method with one answer."""
        ask = self.unary_stream(method, request_serializer, response_deserializer)

        def call(request: Q, *, timeout: float | None = None) -> Awaitable[A]:
            one = ask(request, timeout=timeout)
            asking = asyncio.ensure_future(only_answer(one))
            asking.add_done_callback(hear)
            asking.add_done_callback(lambda _: one.cancel())  # also when it was, before it began
            return asking

        return call

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Q], bytes] | None = None,
        response_deserializer: Callable[[bytes], A] | None = None,
        **_: Any,
    ) -> Callable[..., "AskedCall[Q, A]"]:
        """Return how to call a method with a stream of answers."""

        def call(request: Q, *, timeout: float | None = None) -> "AskedCall[Q, A]":
            return AskedCall(
                self,
                method,
                request_serializer,
                response_deserializer,
                timeout,
                request=request,
            )

        return call

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Q], bytes] | None = None,
        response_deserializer: Callable[[bytes], A] | None = None,
        **_: Any,
    ) -> Callable[..., Call[Q, A]]:
        """Return how to call a method with a stream of requests, and one of answers."""

        def call(*, timeout: float | None = None) -> Call[Q, A]:
            return Call(self, method, request_serializer, response_deserializer, timeout)

        return call

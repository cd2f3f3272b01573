"""Servers and channels to test with: ours, and grpcio's."""

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from odradek.rpc.channels import open_channel
from odradek.rpc.http2.server import Http2Server
from odradek.rpc.tls import TlsOptions

OURS: Final = "ours"
GRPCIO: Final = "grpcio"
PAIRS: Final = [(OURS, GRPCIO), (GRPCIO, OURS), (OURS, OURS)]
"""Who calls, who is called."""
DEADLINE_S: Final = 20.0

_OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.max_ping_strikes", 0),
]


async def unary(request: bytes, _: Any) -> bytes:
    return request


async def numbers(request: bytes, _: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def echo(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def total(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    size = 0
    async for request in requests:
        size += len(request)
    yield b"%d" % size


def handlers_of(stream: Any = echo, one: Any = unary, many: Any = numbers) -> Any:
    return grpc.method_handlers_generic_handler(
        "test.Echo",
        {
            "Unary": grpc.unary_unary_rpc_method_handler(one),
            "Numbers": grpc.unary_stream_rpc_method_handler(many),
            "Converse": grpc.stream_stream_rpc_method_handler(stream),
            "Total": grpc.stream_stream_rpc_method_handler(total),
        },
    )


def our_server(handlers: Any, *, connections_max: int = 100) -> Http2Server:
    server = Http2Server(
        connections_max=connections_max,
        status_of=lambda _: None,
        bounded=lambda deserialize: deserialize,
        on_call=lambda: None,
    )
    server.add_generic_rpc_handlers((handlers,))
    return server


class Endpoints:
    """A channel to a server.

    Attributes:
        stop: Ends the server within some seconds.
    """

    def __init__(self, server: Any, channel: Any, stop: Callable[[float], Any]) -> None:
        self.server = server
        self.channel = channel
        self.stop = stop

    async def unary(self, request: bytes, timeout_s: float = DEADLINE_S) -> bytes:
        answer: bytes = await self.channel.unary_unary("/test.Echo/Unary")(
            request, timeout=timeout_s
        )
        return answer

    def numbers(self, request: bytes, timeout_s: float = DEADLINE_S) -> Any:
        return self.channel.unary_stream("/test.Echo/Numbers")(request, timeout=timeout_s)

    def converse(self, timeout_s: float = DEADLINE_S, method: str = "Converse") -> Any:
        return self.channel.stream_stream(f"/test.Echo/{method}")(timeout=timeout_s)


async def _listening(kind: str, handlers: Any, tls: TlsOptions | None) -> tuple[Any, int]:
    if kind == OURS:
        ours = our_server(handlers)
        context = None if tls is None else tls.server_context()
        return ours, await ours.listen("127.0.0.1:0", context)
    theirs = grpc.aio.server(options=_OPTIONS)
    theirs.add_generic_rpc_handlers((handlers,))
    if tls is None:
        port = theirs.add_insecure_port("127.0.0.1:0")
    else:
        assert tls.private_key is not None
        assert tls.certificate is not None
        credentials = grpc.ssl_server_credentials([(tls.private_key, tls.certificate)])
        port = theirs.add_secure_port("127.0.0.1:0", credentials)
    await theirs.start()
    return theirs, port


def channel_to(kind: str, port: int, tls: TlsOptions | None = None) -> grpc.aio.Channel:
    address = f"127.0.0.1:{port}"
    if kind == OURS:
        ours = None if tls is None else TlsOptions(authorities=tls.certificate)
        return open_channel(address, tls=ours)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(tls.certificate), options=_OPTIONS
    )


@asynccontextmanager
async def connected(
    pair: tuple[str, str], handlers: Any = None, tls: TlsOptions | None = None
) -> AsyncIterator[Endpoints]:
    """Run a server with a channel to it: who calls, who is called."""
    caller, called = pair
    server, port = await _listening(called, handlers or handlers_of(), tls)
    channel = channel_to(caller, port, tls)
    try:
        yield Endpoints(server, channel, server.stop)
    finally:
        await channel.close()
        await server.stop(0)


def self_signed(folder: Path) -> TlsOptions:
    """Return a certificate for loopback, and its key."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(key), "-out", str(certificate),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return TlsOptions(certificate=certificate.read_bytes(), private_key=key.read_bytes())

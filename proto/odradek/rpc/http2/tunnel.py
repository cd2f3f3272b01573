"""The way to a peer through an HTTP proxy, where the environment names one as it does for gRPC.

Of gRPC's variables `grpc_proxy` and `no_grpc_proxy` are heeded: who sets `http_proxy` seldom means
a message broker. The only module of SDK and servers that reads the environment for itself.

Source: gRPC core's environment variables; RFC 9110, section 9.3.6 (CONNECT).
"""

import asyncio
import os
import socket
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

VARIABLE: Final = "grpc_proxy"
_EXCEPTIONS: Final = "no_grpc_proxy"
_HEADER_BYTES_MAX: Final = 8192


def find_proxy(host: str) -> str | None:
    """Return the proxy that connections to a host are to take, None when there is none.

    The exceptions are a comma-separated list: of hosts, or of what their names end with.
    """
    exceptions = (each.strip() for each in os.environ.get(_EXCEPTIONS, "").split(","))
    if any(each and host.endswith(each) for each in exceptions):
        return None
    return os.environ.get(VARIABLE) or None


async def open_tunnel(proxy: str, target: str) -> socket.socket:
    """Return a socket that is connected, through a proxy, to `target`, `host:port`.

    Raises:
        OSError: The proxy cannot be reached, or refuses.
        ValueError: `proxy` is not `http://host:port`.
    """
    host, port = _endpoint(proxy)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, address = found[0]
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(connection, address)
        await _ask(connection, proxy, target)
    except BaseException:
        connection.close()
        raise
    return connection


def _endpoint(proxy: str) -> tuple[str, int]:
    url = urlsplit(proxy)
    with suppress(ValueError):
        if url.scheme == "http" and url.hostname and url.port:
            return url.hostname, url.port
    raise ValueError(f"{VARIABLE}={proxy!r} is not http://host:port")


async def _ask(connection: socket.socket, proxy: str, target: str) -> None:
    loop = asyncio.get_running_loop()
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
    await loop.sock_sendall(connection, head.encode())
    status = (await _read_header(connection)).split(None, 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        shown = b"".join(status).decode("ascii", "replace") or "nothing that is HTTP"
        raise ConnectionRefusedError(f"the proxy {proxy} answered {shown}")


async def _read_header(connection: socket.socket) -> bytes:
    """Read the proxy's answer and not a byte more: what follows it is the peer's."""
    loop = asyncio.get_running_loop()
    header = bytearray()
    while not header.endswith(b"\r\n\r\n"):
        byte = await loop.sock_recv(connection, 1)
        if not byte or len(header) == _HEADER_BYTES_MAX:
            raise ConnectionResetError(f"the proxy ended the connection ({VARIABLE})")
        header += byte
    return bytes(header)

"""A channel takes the way through a proxy, where the environment names one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from odradek.rpc.channels import open_channel
from odradek.rpc.http2.tunnel import VARIABLE
from odradek.rpc.tls import TlsOptions
from tests.rpc.http2.endpoints import DEADLINE_S, OURS, connected, self_signed

HOST: Final = "127.0.0.1"
ACCEPTS: Final = b"HTTP/1.1 200 OK\r\nVia: test\r\n\r\n"


class Proxy:
    """Connects to whatever it is asked for.

    Attributes:
        targets: What it was asked for.
    """

    def __init__(self, answer: bytes) -> None:
        self.targets: list[str] = []
        self._answer = answer
        self._carriers: set[asyncio.Task[None]] = set()

    async def serve(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        target = (await near.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.targets.append(target)
        if self._answer != ACCEPTS:
            near_writer.write(self._answer)
            near_writer.close()
            return
        far, far_writer = await asyncio.open_connection(*target.rsplit(":", 1))
        near_writer.write(self._answer)
        for reader, writer in ((near, far_writer), (far, near_writer)):
            self._carriers.add(asyncio.create_task(_carry(reader, writer)))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def proxied(monkeypatch: pytest.MonkeyPatch, answer: bytes = ACCEPTS) -> AsyncIterator[Proxy]:
    proxy = Proxy(answer)
    server = await asyncio.start_server(proxy.serve, HOST, 0)
    monkeypatch.setenv(VARIABLE, f"http://{HOST}:{server.sockets[0].getsockname()[1]}")
    try:
        yield proxy
    finally:
        server.close()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_calls_pass_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, encrypted: bool
) -> None:
    tls: TlsOptions | None = self_signed(tmp_path) if encrypted else None
    async with proxied(monkeypatch) as proxy, connected((OURS, OURS), tls=tls) as ends:
        large = bytes(300_000)
        assert await ends.unary(large) == large
        assert proxy.targets == [ends.channel.address]


@pytest.mark.parametrize("exceptions", ["127.0.0.1", ".internal, 0.0.1"])
async def test_some_hosts_are_dialled_directly(
    monkeypatch: pytest.MonkeyPatch, exceptions: str
) -> None:
    monkeypatch.setenv("no_grpc_proxy", exceptions)
    async with proxied(monkeypatch) as proxy, connected((OURS, OURS)) as ends:
        assert await ends.unary(b"hello") == b"hello"
        assert proxy.targets == []


@pytest.mark.parametrize("exceptions", ["", ",", "127.0.0.1.example, 10.0.0.1"])
async def test_other_hosts_are_not(monkeypatch: pytest.MonkeyPatch, exceptions: str) -> None:
    monkeypatch.setenv("no_grpc_proxy", exceptions)
    async with proxied(monkeypatch) as proxy, connected((OURS, OURS)) as ends:
        await ends.unary(b"hello")
        assert proxy.targets == [ends.channel.address]


async def test_the_proxy_looks_names_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied(monkeypatch, b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy:
        reason = await failure("broker.invalid:7070")
    assert proxy.targets == ["broker.invalid:7070"]
    assert "broker.invalid:7070" in reason
    assert "answered 502" in reason


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-hello\r\n\r\n", b"x" * 10_000])
async def test_what_is_no_proxy_is_named(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    async with proxied(monkeypatch, answer):
        assert "proxy" in await failure(f"{HOST}:7070")


@pytest.mark.parametrize("value", ["nowhere", "socks5://here:1", "http://here:port"])
async def test_a_proxy_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    reason = await failure(f"{HOST}:7070")
    assert VARIABLE in reason
    assert value in reason


async def failure(address: str) -> str:
    channel: Any = open_channel(address)
    async with channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Echo/Unary")(b"", timeout=DEADLINE_S)
    return caught.value.details() or ""

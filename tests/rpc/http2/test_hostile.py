"""Peers that mean harm, or are broken: they get nothing, and the others go on."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

import grpc
import pytest

from odradek.rpc.channels import open_channel
from odradek.rpc.http2 import frames
from odradek.rpc.http2 import server as server_module
from odradek.rpc.http2 import wire as wire_module
from odradek.rpc.http2.frames import ErrorCode, Setting
from odradek.rpc.http2.server import Http2Server
from odradek.rpc.http2.streams import PREFIX, Headers
from odradek.rpc.tls import TlsOptions
from tests.rpc.http2.endpoints import DEADLINE_S, handlers_of, our_server, self_signed
from tests.rpc.http2.peers import GREETING, REQUEST, Blocks, Frame, data, prefixed

pytestmark = pytest.mark.timeout(60)

CONVERSE: Headers = [*REQUEST[:2], (":path", "/test.Echo/Converse"), *REQUEST[3:]]


class Attacker:
    """A socket that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.blocks = Blocks()

    async def says(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def hides(self) -> None:
        """Speak TLS from here on, to whoever is there."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        await self.writer.start_tls(context)

    async def frame(self) -> Frame:
        head = await self.reader.readexactly(frames.HEADER_BYTES)
        upper, lower, kind, flags, stream_id = frames.HEADER.unpack(head)
        return kind, flags, stream_id, await self.reader.readexactly(upper << 8 | lower)

    async def until(self, kind: int, flags: int = 0) -> Frame:
        """Read up to a frame of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                frame = await self.frame()
                if frame[0] == kind and frame[1] & flags == flags:
                    return frame

    async def is_shut_out(self) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while await self.reader.read(1 << 16):
                    pass
            except ConnectionError:
                pass


class Served:
    """A server that is under attack."""

    def __init__(self, server: Http2Server, port: int, tls: TlsOptions | None) -> None:
        self.server = server
        self.port = port
        self._tls = tls
        self._attackers: list[Attacker] = []

    async def attacker(self) -> Attacker:
        attacker = Attacker(*await asyncio.open_connection("127.0.0.1", self.port))
        self._attackers.append(attacker)
        return attacker

    async def deaf_attacker(self) -> Attacker:
        """Return one that never reads."""
        deaf = socket.create_connection(("127.0.0.1", self.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        attacker = Attacker(*await asyncio.open_connection(sock=deaf, limit=1))
        self._attackers.append(attacker)
        transport: Any = attacker.writer.transport
        transport.pause_reading()
        return attacker

    async def serves(self) -> bool:
        tls = None if self._tls is None else TlsOptions(authorities=self._tls.certificate)
        channel: Any = open_channel(f"127.0.0.1:{self.port}", tls=tls)
        async with channel:
            call = channel.unary_unary("/test.Echo/Unary")
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    with suppress(grpc.aio.AioRpcError):  # for a moment it may be too busy to greet
                        return bool(await call(b"as ever", timeout=DEADLINE_S) == b"as ever")
                    await asyncio.sleep(0)

    async def all_leave(self) -> None:
        for each in self._attackers:
            each.writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.all_leave()
        await asyncio.wait_for(self.server.stop(0), DEADLINE_S)


@asynccontextmanager
async def attacked(
    stream: Any = None, *, connections_max: int = 100, tls: TlsOptions | None = None
) -> AsyncIterator[Served]:
    handlers = handlers_of() if stream is None else handlers_of(stream)
    server = our_server(handlers, connections_max=connections_max)
    port = await server.listen("127.0.0.1:0", None if tls is None else tls.server_context())
    async with Served(server, port, tls) as served:
        yield served


async def eventually(is_so: Callable[[], bool]) -> bool:
    """Let the loop run until something is so."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 it has no event
            await asyncio.sleep(0)
    return True


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server wait for little."""
    monkeypatch.setattr(server_module, "_KEEPALIVE_S", 0.1)
    monkeypatch.setattr(server_module, "_KEEPALIVE_TIMEOUT_S", 0.05)


GARBAGE = {
    "noise": bytes(range(255, 0, -1)) * 100,
    "HTTP/1.1": b"POST /test.Echo/Unary HTTP/1.1\r\nHost: a\r\n\r\n",
    "half a preface and noise": frames.PREFACE[:12] + b"?" * 40,
    "no settings": frames.PREFACE + frames.encode(frames.PING, 0, 0, bytes(8)),
    "an endless frame": GREETING + frames.HEADER.pack(0xFFFF, 0xFF, 1, 0, 1) + bytes(70_000),
    "headers that are no text": GREETING
    + frames.encode(frames.HEADERS, 5, 1, b"\x00\x02:x\x02\xff\xfe"),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_who_speaks_no_http2_is_shut_out(name: str) -> None:
    async with attacked() as served:
        attacker = await served.attacker()
        await attacker.says(GARBAGE[name])
        await attacker.is_shut_out()
        assert await eventually(lambda: not served.server._wires)
        assert await served.serves()


@pytest.mark.parametrize("raw", [b"", frames.PREFACE[:10], frames.PREFACE, GREETING[:-3]])
async def test_who_does_not_greet_is_shut_out_soon(
    raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "_GREETING_S", 0.05)
    async with attacked() as served:
        attacker = await served.attacker()
        await attacker.says(raw)
        await attacker.is_shut_out()
        assert await served.serves()


@pytest.mark.parametrize("rest", [b"", frames.HEADER.pack(1, 0, 0, 0, 1) + b"x", b"\0\0"])
@pytest.mark.usefixtures("hasty")
async def test_who_stops_in_mid_frame_and_answers_no_ping_is_shut_out(rest: bytes) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def waits(requests: Any, _: Any) -> None:
        begun.set()
        try:
            await requests.read()
        finally:
            ended.set()

    async with attacked(waits) as served:
        attacker = await served.attacker()
        await attacker.says(GREETING + attacker.blocks.opened(1, CONVERSE) + rest)
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        await attacker.is_shut_out()
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
        assert await served.serves()


def calls_of(served: Served) -> list[asyncio.Task[None]]:
    return [task for tasks in served.server._tasks.values() for task in tasks]


async def test_calls_reset_as_soon_as_made_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STREAMS_MAX", 50)
    running = running_max = tasks_max = 0

    async def waits(_: Any, __: Any) -> None:
        nonlocal running, running_max
        running += 1
        running_max = max(running, running_max)
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    async with attacked(waits) as served:
        attacker = await served.attacker()
        await attacker.says(GREETING)
        for first in range(1, 20_001, 200):
            raw = b""
            for stream_id in range(first, first + 200, 2):
                raw += attacker.blocks.opened(stream_id, CONVERSE)
                raw += frames.encode_reset(stream_id, ErrorCode.CANCEL)
            await attacker.says(raw)
            await asyncio.sleep(0)
            tasks_max = max(tasks_max, len(calls_of(served)))
        assert await served.serves()
        assert tasks_max <= 50
        assert running_max <= 50
        assert await eventually(lambda: not calls_of(served))
        assert running == 0


async def test_connections_beyond_the_limit_are_closed_and_their_places_come_back() -> None:
    async with attacked(connections_max=3) as served:
        attackers = [await served.attacker() for _ in range(40)]
        for each in attackers[3:]:
            await each.is_shut_out()
        assert len(served.server._wires) == 3
        await served.all_leave()
        assert await eventually(lambda: not served.server._wires)
        assert await served.serves()


async def test_handshakes_that_fail_take_no_places(tmp_path: Path) -> None:
    async with attacked(connections_max=3, tls=self_signed(tmp_path)) as served:
        for _ in range(6):
            attacker = await served.attacker()
            await attacker.says(b"GET / HTTP/1.1\r\n\r\n")
            await attacker.is_shut_out()
        assert await served.serves()


async def test_what_a_deaf_peer_is_told_is_bounded() -> None:
    async def talks(_: Any, context: Any) -> None:
        for _ in range(1_000):
            await context.write(bytes(1 << 20))

    async with attacked(talks) as served:
        attacker = await served.deaf_attacker()
        window = frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: frames.WINDOW_BYTES_MAX})
        more = frames.encode_window_update(0, 1 << 30)
        await attacker.says(frames.PREFACE + window + more + attacker.blocks.opened(1, CONVERSE))
        assert await served.serves()
        await eventually(lambda: any(w.connection.sender.is_paused for w in served.server._wires))
        assert buffered(served) <= 4 << 20
        assert await served.serves()


def buffered(served: Served) -> int:
    return sum(
        each._transport.get_write_buffer_size()
        for each in served.server._wires
        if each._transport is not None
    )


@pytest.mark.parametrize("headers", [REQUEST, [(":method", "POST")]], ids=["calls", "no calls"])
async def test_answers_that_a_deaf_peer_does_not_take_do_not_pile_up(headers: Headers) -> None:
    async with attacked() as served:
        attacker = await served.deaf_attacker()
        await attacker.says(frames.PREFACE + frames.encode_settings({Setting.HEADER_TABLE_SIZE: 0}))
        unknown = [*headers, (":path", "/" + "x" * 3_800)]
        try:
            for turn in range(4_000):
                await attacker.says(attacker.blocks.opened(2 * turn + 1, unknown, ends=True))
        except ConnectionError:
            pass
        assert await served.serves()
        assert buffered(served) <= 4 << 20


@pytest.mark.usefixtures("hasty")
async def test_a_deaf_peer_that_breaks_the_protocol_keeps_no_socket() -> None:
    async def talks(_: Any, context: Any) -> None:
        await context.write(bytes(16 << 20))

    async with attacked(talks) as served:
        attacker = await served.deaf_attacker()
        window = frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: frames.WINDOW_BYTES_MAX})
        more = frames.encode_window_update(0, 1 << 30)
        await attacker.says(frames.PREFACE + window + more + attacker.blocks.opened(1, CONVERSE))
        await eventually(lambda: any(w.connection.sender.is_paused for w in served.server._wires))
        (wire,) = served.server._wires
        await attacker.says(frames.encode_window_update(0, 0))
        assert await eventually(lambda: wire.is_lost)
        transport: Any = wire._transport
        assert await eventually(lambda: not transport.get_write_buffer_size())


STRANGE: dict[str, Headers] = {
    "no gRPC": [(":method", "POST"), (":path", "/"), ("content-type", "text/html")],
    "no type": [(":method", "POST"), (":path", "/")],
    "a GET": [(":method", "GET"), *REQUEST[1:]],
    "no path": [*REQUEST[:2], *REQUEST[3:]],
    "no method": REQUEST[1:],
    "nothing": [],
    "a bad deadline": [*REQUEST, ("grpc-timeout", "soon")],
    "bad metadata": [*REQUEST, ("a-bin", "☃"), ("b-bin", "a")],
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("rest", ["end", "body", "reset"])
async def test_a_strange_request_costs_the_connections_other_calls_nothing(
    name: str, rest: str
) -> None:
    headers = STRANGE[name]
    async with attacked() as served:
        attacker = await served.attacker()
        raw = GREETING + attacker.blocks.opened(1, CONVERSE)
        raw += attacker.blocks.opened(3, headers, ends=rest == "end")
        if rest == "body":
            raw += data(3, prefixed(b"one")) + data(3, b"not a message" * 9, ends=True)
        if rest == "reset":
            raw += frames.encode_reset(3, ErrorCode.CANCEL)
        await attacker.says(raw + data(1, prefixed(b"still here")))
        kind, _, stream_id, payload = await attacker.until(frames.DATA)
        assert (kind, stream_id, payload) == (frames.DATA, 1, prefixed(b"still here"))


@pytest.mark.parametrize("payload", [prefixed(b"x", flag=1), PREFIX.pack(0, 1 << 31)])
async def test_a_message_that_cannot_be_taken_ends_its_call_alone(payload: bytes) -> None:
    async with attacked() as served:
        attacker = await served.attacker()
        raw = GREETING + attacker.blocks.opened(1, CONVERSE) + attacker.blocks.opened(3, CONVERSE)
        await attacker.says(raw + data(3, payload) + data(3, bytes(999)))
        assert (await attacker.until(frames.HEADERS, frames.END_STREAM))[2] == 3
        await attacker.says(data(1, prefixed(b"still here")))
        assert (await attacker.until(frames.DATA))[2] == 1


async def test_a_request_that_is_cut_short_is_no_end() -> None:
    said: list[object] = []
    begun = asyncio.Event()

    async def listens(requests: Any, _: Any) -> None:
        begun.set()
        said.append(await requests.read())

    async with attacked(listens) as served:
        attacker = await served.attacker()
        await attacker.says(GREETING + attacker.blocks.opened(1, CONVERSE))
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        await attacker.says(data(1, prefixed(b"whole")[:-1], ends=True))
        assert await eventually(lambda: not calls_of(served))
    assert grpc.aio.EOF not in said

"""Every call hears once that it is over, whatever ends it, and takes no other with it."""

import asyncio
import gc
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from odradek.rpc.channels import open_channel
from odradek.rpc.http2 import frames
from odradek.rpc.http2 import server as server_module
from odradek.rpc.http2 import wire as wire_module
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.events import StreamReset
from odradek.rpc.http2.frames import ErrorCode, Setting
from odradek.rpc.http2.streams import ProtocolViolationError
from tests.rpc.http2.endpoints import DEADLINE_S, OURS, connected, handlers_of, self_signed
from tests.rpc.http2.peers import GREETING, Blocks, greeted_server, sent
from tests.rpc.http2.test_hostile import CONVERSE, attacked, calls_of, eventually

PUSH = frames.encode(frames.PUSH_PROMISE, 0, 1, bytes(4))


def test_what_came_before_a_violation_is_told() -> None:
    server = greeted_server()
    server.receive(Blocks().opened(1))
    with pytest.raises(ProtocolViolationError) as caught:
        server.receive(frames.encode_reset(1, ErrorCode.CANCEL) + PUSH)
    (event,) = caught.value.events
    assert isinstance(event, StreamReset)


async def test_handlers_end_whose_callers_leave_and_break_the_protocol_at_once() -> None:
    async def waits(_: Any, __: Any) -> None:
        await asyncio.Event().wait()

    async with attacked(waits) as served:
        attacker = await served.attacker()
        calls = range(1, 41, 2)
        opened = b"".join(attacker.blocks.opened(each, CONVERSE) for each in calls)
        await attacker.says(GREETING + opened)
        assert await eventually(lambda: len(calls_of(served)) == len(calls))
        tasks = calls_of(served)
        resets = b"".join(frames.encode_reset(each, ErrorCode.CANCEL) for each in calls)
        await attacker.says(resets + PUSH)
        assert await eventually(lambda: all(task.done() for task in tasks))


def test_a_header_table_that_was_made_small_stays_small() -> None:
    server = greeted_server()
    server.receive(frames.encode_settings({Setting.HEADER_TABLE_SIZE: 0}))
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 1_000}))
    assert server.sender._encoder.header_table_size == 0


async def test_an_answer_that_cannot_be_decoded_ends_its_call_alone() -> None:
    def refuses(_: bytes) -> bytes:
        raise ValueError("no")

    async with connected((OURS, OURS)) as ends:
        other = ends.converse()
        await other.write(b"1")
        call = ends.channel.stream_stream("/test.Echo/Converse", None, refuses)()
        listening = asyncio.create_task(call.listen(lambda _: None))
        await call.write(b"x")
        with pytest.raises(grpc.aio.AioRpcError, match="cannot be decoded"):
            await asyncio.wait_for(listening, DEADLINE_S)
        assert await other.read() == b"1"
        other.cancel()


async def test_who_listens_hears_in_order_also_what_waits_while_it_is_busy() -> None:
    heard: list[bytes] = []
    busy = asyncio.Event()

    async def listens(_: Any, context: Any) -> None:
        async def rest(data: bytes) -> None:
            await busy.wait()
            heard.append(data)

        def take(data: bytes) -> Any:
            if data == b"2":
                return rest(data)
            heard.append(data)
            return None

        await context.hear(take)
        await context.write(b"ended")

    async with connected((OURS, OURS), handlers_of(listens)) as ends:
        call = ends.converse()
        for number in range(6):
            await call.write(b"%d" % number)
        await call.done_writing()
        assert await eventually(lambda: heard == [b"0", b"1"])
        busy.set()
        assert await call.read() == b"ended"
    assert heard == [b"%d" % number for number in range(6)]


async def test_more_calls_than_the_peer_takes_wait_for_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "STREAMS_MAX", 3)
    async with connected((OURS, OURS)) as ends:
        answers = await asyncio.gather(*(ends.unary(b"%d" % each) for each in range(20)))
    assert answers == [b"%d" % each for each in range(20)]


async def test_a_call_that_is_cancelled_before_it_began_leaves_nothing() -> None:
    async with connected((OURS, OURS)) as ends:
        await ends.unary(b"x")
        calls = [ends.channel.unary_unary("/test.Echo/Unary")(b"x") for _ in range(5)]
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        (wire,) = ends.channel._wires
        assert await eventually(lambda: not wire.connection.streams)


@pytest.mark.parametrize("is_hidden", [False, True], ids=["plain", "TLS"])
async def test_a_reader_that_is_slow_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_hidden: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(server_module, "_KEEPALIVE_S", 0.05)
    monkeypatch.setattr(server_module, "_KEEPALIVE_TIMEOUT_S", 0.05)
    size = 6 << 20

    async def talks(_: Any, context: Any) -> None:
        await context.write(bytes(size))

    async with attacked(talks, tls=self_signed(tmp_path) if is_hidden else None) as served:
        attacker = await served.attacker()
        if is_hidden:
            await attacker.hides()
        assert await eventually(lambda: bool(served.server._wires))
        (wire,) = served.server._wires
        assert wire._transport is not None
        end = wire._transport.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        window = frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: frames.WINDOW_BYTES_MAX})
        more = frames.encode_window_update(0, 1 << 30)
        await attacker.says(frames.PREFACE + window + more + attacker.blocks.opened(1, CONVERSE))
        read_bytes = 0
        async with asyncio.timeout(DEADLINE_S):
            while read_bytes < size:
                chunk = await attacker.reader.read(1 << 14)
                assert chunk, f"closed after {read_bytes} bytes"
                read_bytes += len(chunk)
                await asyncio.sleep(0.002)  # slow is what it is about


async def test_a_name_leads_to_whichever_of_its_addresses_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected((OURS, OURS)) as ends:
        port = ends.channel.address.rpartition(":")[2]
        loop = asyncio.get_running_loop()

        async def found(*_: Any, **__: Any) -> Any:
            return [(0, 0, 0, "", (each, 0)) for each in ("127.0.0.9", "127.0.0.1")]

        monkeypatch.setattr(loop, "getaddrinfo", found)
        channel: Any = open_channel(f"some.name:{port}")
        async with channel:
            assert await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=5) == b"x"


async def test_a_connection_that_breaks_ends_every_call_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire_module, "_LINGER_S", 0.1)
    async with connected((OURS, OURS)) as ends:
        calls = [ends.converse() for _ in range(3)]
        for call in calls:
            await call.write(b"x")
            assert await call.read() == b"x"
        (wire,) = ends.channel._wires
        wire.abort("the cable was pulled")
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is StatusCode.UNAVAILABLE
        assert await ends.unary(b"again") == b"again"


def test_a_client_takes_the_limit_of_calls_from_the_settings() -> None:
    client = Connection(is_client=True)
    sent(client)
    client.receive(frames.encode_settings({Setting.MAX_CONCURRENT_STREAMS: 7}))
    assert client.calls_max == 7


async def test_an_attempt_to_dial_that_nobody_waits_for_any_more_is_no_news() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    channel: Any = open_channel("127.0.0.1:1")  # refused
    async with channel:
        call = asyncio.ensure_future(channel.unary_unary("/test.Echo/Unary")(b"", timeout=5))
        assert await eventually(lambda: channel._dialling is not None)
        call.cancel()
        assert await eventually(lambda: channel._dialling is None)
        await asyncio.wait((call,))
    del call
    gc.collect()
    assert told == []

"""Servers that are none: a call of ours fails as gRPC's would."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from odradek.rpc.channels import open_channel
from odradek.rpc.http2 import frames
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import Headers
from tests.rpc.http2.peers import Blocks, sent

SETTINGS = frames.encode_settings({})


def answer(headers: Headers) -> bytes:
    return SETTINGS + Blocks().opened(1, headers, ends=True)


FRAUDS = {
    "is silent and leaves": b"",
    "speaks HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "goes away at once": SETTINGS + frames.encode_goaway(0, ErrorCode.NO_ERROR),
    "answers in HTML": answer([(":status", "200"), ("content-type", "text/html")]),
    "answers 503": answer([(":status", "503")]),
    "gives no status": answer([(":status", "200")]),
    "gives a status of many digits": answer([(":status", "200"), ("grpc-status", "9" * 5_000)]),
    "gives an unknown status": answer([(":status", "200"), ("grpc-status", "77")]),
    "gives bad details": answer(
        [(":status", "200"), ("grpc-status", "14"), ("grpc-message", "%ff%zz%")]
    ),
}


@pytest.mark.parametrize("name", FRAUDS)
async def test_a_server_that_is_none_fails_the_call_as_grpc_would(name: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = sent(Connection(is_client=True))
        await reader.readexactly(len(greeting))
        fraud = FRAUDS[name]
        if fraud.startswith(SETTINGS) and name != "goes away at once":
            writer.write(SETTINGS)
            await reader.readexactly(2 * frames.HEADER_BYTES)  # taken; a call begins
            fraud = fraud.removeprefix(SETTINGS)
        writer.write(fraud)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        channel: Any = open_channel(f"127.0.0.1:{port}")
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Echo/Unary")(b"x", timeout=5)
    assert caught.value.code() not in {StatusCode.OK, StatusCode.DEADLINE_EXCEEDED}

"""A stream that a handler ends has ended for its caller too, whatever was under way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from odradek.protocol.errors import InvalidRequestError
from odradek.rpc.channels import error_from_rpc, open_channel
from odradek.rpc.http2.credit import STREAM_WINDOW_BYTES
from odradek.rpc.server import REQUEST_BYTES_MAX, Server

DEADLINE_S = 5.0


async def begin_to_write(context: Any) -> None:
    """Leave a first message on its way, more than the caller takes at once, unwaited for."""
    writing = asyncio.ensure_future(context.write(bytes(2 * STREAM_WINDOW_BYTES)))
    await asyncio.sleep(0)  # one pass: it has begun
    writing.cancel()
    await asyncio.wait({writing})
    assert writing.cancelled()


async def returns(_: Any, context: Any) -> None:
    await begin_to_write(context)


async def fails(_: Any, context: Any) -> None:
    await begin_to_write(context)
    raise InvalidRequestError("no more")


@asynccontextmanager
async def called(
    behaviour: Any, decode: Callable[[bytes], Any] | None = None
) -> AsyncIterator[Any]:
    server = Server("127.0.0.1:0")
    handler: Any = grpc.stream_stream_rpc_method_handler(behaviour, request_deserializer=decode)
    server.grpc.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Streams", {"Converse": handler}),)
    )
    port = await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield channel.stream_stream("/test.Streams/Converse")()
    finally:
        await server.drain(0)


async def read_to_end(call: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await call.read() is not grpc.aio.EOF:
            pass


async def test_a_stream_ends_although_its_first_message_was_given_up() -> None:
    async with called(returns) as call:
        await read_to_end(call)
        assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_fails_although_its_first_message_was_given_up() -> None:
    async with called(fails) as call:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_end(call)
        assert isinstance(error_from_rpc(caught.value), InvalidRequestError)


async def echoes(_: Any, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(b"%d" % len(request))


async def test_only_requests_that_are_decoded_for_the_handler_are_small() -> None:
    large = bytes(REQUEST_BYTES_MAX + 1)
    async with called(echoes) as call:
        await call.write(large)
        assert await call.read() == b"%d" % len(large)
    async with called(echoes, bytes) as call:
        await call.write(large[1:])
        assert await call.read() == b"%d" % REQUEST_BYTES_MAX
        await call.write(large)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_end(call)
        assert isinstance(error_from_rpc(caught.value), InvalidRequestError)

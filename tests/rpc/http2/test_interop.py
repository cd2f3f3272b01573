"""Our two ends speak with grpcio's, and with each other, in every form of call."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from odradek.rpc.channels import open_channel
from odradek.rpc.http2 import server as server_module
from tests.rpc.http2.endpoints import (
    DEADLINE_S,
    GRPCIO,
    OURS,
    PAIRS,
    Endpoints,
    connected,
    handlers_of,
    self_signed,
)

MIB = 1 << 20
Pair = tuple[str, str]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]} calls {pair[1]}")
def pair(request: pytest.FixtureRequest) -> Pair:
    chosen: Pair = request.param
    return chosen


async def failure_of(awaited: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(DEADLINE_S):
            await awaited
    return caught.value


async def read_all(call: Any) -> list[bytes]:
    async with asyncio.timeout(DEADLINE_S):
        return [each async for each in call]


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_530, 65_531, 1 << 20, 8 << 20])
async def test_a_message_of_any_size_goes_and_comes(pair: Pair, size: int) -> None:
    async with connected(pair) as ends:
        assert await ends.unary(b"\xa5" * size) == b"\xa5" * size


async def test_a_call_with_many_answers_yields_them_all_in_order(pair: Pair) -> None:
    async with connected(pair) as ends:
        assert await read_all(ends.numbers(b"5000")) == [b"%d" % each for each in range(5000)]
        assert await read_all(ends.numbers(b"0")) == []


async def test_a_conversation_takes_turns(pair: Pair) -> None:
    async with connected(pair) as ends:
        call = ends.converse()
        for size in (0, 1, 70_000, 0, 3 * MIB, 2):
            await call.write(bytes(size))
            assert await call.read() == bytes(size)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is StatusCode.OK


async def test_a_reader_hears_that_the_caller_has_said_all(pair: Pair) -> None:
    async with connected(pair) as ends:
        call = ends.converse(method="Total")
        for _ in range(300):
            await call.write(bytes(1000))
        await call.done_writing()
        assert await read_all(call) == [b"300000"]


async def test_much_flows_both_ways_at_once(pair: Pair) -> None:
    async with connected(pair) as ends:
        call = ends.converse()

        async def say() -> None:
            for each in range(60):
                await call.write(bytes([each]) * MIB)
            await call.done_writing()

        async with asyncio.TaskGroup() as group:
            group.create_task(say())
            answers = await read_all(call)
    assert answers == [bytes([each]) * MIB for each in range(60)]


async def test_many_calls_share_a_connection(pair: Pair) -> None:
    async with connected(pair) as ends:
        async with asyncio.TaskGroup() as group:
            small = [group.create_task(ends.unary(b"%d" % each)) for each in range(400)]
            large = [group.create_task(ends.unary(bytes(each + 300_000))) for each in range(20)]
            streams = [group.create_task(read_all(ends.numbers(b"50"))) for _ in range(50)]
        assert [await each for each in small] == [b"%d" % each for each in range(400)]
        assert [len(await each) for each in large] == [each + 300_000 for each in range(20)]
        assert {len(await each) for each in streams} == {50}
        if pair == (OURS, OURS):
            assert len(ends.server._wires) == 1


@pytest.mark.parametrize("code", [each for each in StatusCode if each is not StatusCode.OK])
async def test_a_status_crosses_with_its_details_and_metadata(pair: Pair, code: StatusCode) -> None:
    details, metadata = "Grüße: 100 % ☃\n\t%41", (("some-bin", bytes(range(256))), ("text", "t x"))

    async def aborts(_: bytes, context: Any) -> bytes:
        await context.abort(code, details, metadata)
        return b""

    async with connected(pair, handlers_of(one=aborts)) as ends:
        error = await failure_of(ends.unary(b"x"))
    assert (error.code(), error.details()) == (code, details)
    trailing = dict(error.trailing_metadata())
    assert (trailing["some-bin"], trailing["text"]) == (bytes(range(256)), "t x")


async def test_a_status_follows_the_answers_given_before(pair: Pair) -> None:
    async def fails(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await context.abort(StatusCode.DATA_LOSS, "no more")

    async with connected(pair, handlers_of(many=fails)) as ends:
        call = ends.numbers(b"first")
        assert await call.read() == b"first"
        error = await failure_of(call.read())
    assert (error.code(), error.details()) == (StatusCode.DATA_LOSS, "no more")


class Hanging:
    """A handler that waits until it is given up."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.remaining_s: float | None = None

    async def converse(self, _: Any, context: Any) -> None:
        self.remaining_s = context.time_remaining()
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def unary(self, request: bytes, context: Any) -> bytes:
        await self.converse(None, context)
        return request


async def test_a_deadline_ends_the_call_and_its_handler(pair: Pair) -> None:
    hanging = Hanging()
    async with connected(pair, handlers_of(one=hanging.unary)) as ends:
        assert (await failure_of(ends.unary(b"", 0.2))).code() is StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(hanging.cancelled.wait(), DEADLINE_S)
    assert hanging.remaining_s is not None
    assert 0 < hanging.remaining_s <= 0.25


@pytest.mark.parametrize("timeout_s", [None, 7.5, 3_600.0, 10.0**6])
async def test_a_handler_knows_how_long_its_caller_waits(
    pair: Pair, timeout_s: float | None
) -> None:
    hanging = Hanging()
    async with connected(pair, handlers_of(hanging.converse)) as ends:
        call = ends.channel.stream_stream("/test.Echo/Converse")(timeout=timeout_s)
        await call.write(b"")
        await asyncio.wait_for(hanging.begun.wait(), DEADLINE_S)
        call.cancel()
        await asyncio.wait_for(hanging.cancelled.wait(), DEADLINE_S)
    if timeout_s is None:
        assert hanging.remaining_s is None or hanging.remaining_s > 10.0**6
    else:
        assert hanging.remaining_s == pytest.approx(timeout_s, rel=0.02, abs=1.0)


async def test_a_call_given_up_is_given_up_at_its_handler(pair: Pair) -> None:
    hanging = Hanging()
    async with connected(pair, handlers_of(hanging.converse)) as ends:
        call = ends.converse()
        reading = asyncio.ensure_future(call.read())
        await call.write(b"x")
        await asyncio.wait_for(hanging.begun.wait(), DEADLINE_S)
        assert call.cancel()
        await asyncio.wait_for(hanging.cancelled.wait(), DEADLINE_S)
        await asyncio.wait({reading}, timeout=DEADLINE_S)
        assert reading.done()
        assert await ends.unary(b"still there") == b"still there"


async def test_a_task_that_calls_may_be_cancelled(pair: Pair) -> None:
    hanging = Hanging()
    async with connected(pair, handlers_of(one=hanging.unary)) as ends:
        task = asyncio.ensure_future(ends.unary(b"x"))
        await asyncio.wait_for(hanging.begun.wait(), DEADLINE_S)
        task.cancel()
        await asyncio.wait_for(hanging.cancelled.wait(), DEADLINE_S)
        assert task.cancelled() or await asyncio.wait({task}, timeout=DEADLINE_S)


async def test_an_unknown_method_is_unimplemented(pair: Pair) -> None:
    async with connected(pair) as ends:
        call = ends.channel.unary_unary("/test.Echo/Nowhere")
        assert (await failure_of(call(b"", timeout=5))).code() is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "text", ["boom", "x" * 100_000, "☃" * 30_000, "\udcff"], ids=["short", "long", "snow", "half"]
)
@pytest.mark.parametrize("caller", [OURS, GRPCIO])
async def test_a_handler_that_fails_ends_its_call_and_no_other(caller: str, text: str) -> None:
    async def fails(_: bytes, __: Any) -> bytes:
        raise ValueError(text)

    async with connected((caller, OURS), handlers_of(one=fails)) as ends:
        other = ends.converse()
        await other.write(b"1")
        assert await other.read() == b"1"
        error = await failure_of(ends.unary(b"", 5))
        assert error.code() is StatusCode.UNKNOWN
        await other.write(b"2")
        assert await other.read() == b"2"
        other.cancel()


async def test_a_server_that_stops_lets_calls_end_and_takes_no_others(pair: Pair) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes, _: Any) -> bytes:
        begun.set()
        await released.wait()
        return request

    async with connected(pair, handlers_of(one=slow)) as ends:
        running = asyncio.ensure_future(ends.unary(b"running"))
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        stopping = asyncio.ensure_future(ends.stop(DEADLINE_S))
        begun.clear()
        refused = {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}  # the latter is grpcio's word
        assert (await failure_of(new_call(ends))).code() in refused
        released.set()
        assert await running == b"running"
        await asyncio.wait_for(stopping, DEADLINE_S)
    assert not begun.is_set()


async def new_call(ends: Endpoints) -> bytes:
    await asyncio.sleep(0)  # `stop` has begun
    return await ends.unary(b"late", 5)


async def test_a_server_that_stops_at_once_ends_its_calls(pair: Pair) -> None:
    hanging = Hanging()
    async with connected(pair, handlers_of(hanging.converse)) as ends:
        call = ends.converse()
        await call.write(b"x")
        await asyncio.wait_for(hanging.begun.wait(), DEADLINE_S)
        await asyncio.wait_for(ends.stop(0), DEADLINE_S)
        error = await failure_of(call.read())
    assert error.code() in {StatusCode.UNAVAILABLE, StatusCode.CANCELLED}
    assert hanging.cancelled.is_set()


async def test_an_answer_may_come_before_the_caller_has_said_all(pair: Pair) -> None:
    async def hasty(requests: Any, context: Any) -> None:
        await anext(aiter(requests))
        await context.write(b"enough")

    async with connected(pair, handlers_of(hasty)) as ends:
        call = ends.converse()
        await call.write(bytes(100))
        assert await read_all(call) == [b"enough"]
        assert await call.code() is StatusCode.OK
        with pytest.raises((asyncio.InvalidStateError, grpc.aio.AioRpcError)):
            await call.write(b"more")
        assert await ends.unary(b"next") == b"next"


async def test_an_unread_large_request_does_not_stop_the_answer(pair: Pair) -> None:
    async def hasty(_: Any, context: Any) -> None:
        await context.abort(StatusCode.ABORTED, "too much")

    async with connected(pair, handlers_of(hasty)) as ends:
        call = ends.converse()
        for _ in range(3):
            try:
                await asyncio.wait_for(call.write(bytes(16 * MIB)), DEADLINE_S)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                break
        code = (await failure_of(call.read())).code()
        if pair[0] == OURS:  # grpcio itself may say that it could not write
            assert code is StatusCode.ABORTED
        assert await ends.unary(bytes(MIB)) == bytes(MIB)


async def stalled(writing: "asyncio.Task[None]", written: list[int]) -> int:
    """Return how many were written once none was for a while."""
    count = -1
    while count != len(written) and not writing.done():
        count = len(written)
        await asyncio.wait({writing}, timeout=0.15)
    return len(written)


async def write_all(end: Any, written: list[int], count: int) -> None:
    for each in range(count):
        await end.write(bytes(MIB))
        written.append(each)


async def test_a_caller_waits_for_a_handler_that_does_not_read(pair: Pair) -> None:
    released = asyncio.Event()

    async def slow(requests: Any, context: Any) -> None:
        await released.wait()
        read = [request async for request in requests]
        await context.write(b"%d" % len(read))

    written: list[int] = []
    async with connected(pair, handlers_of(slow)) as ends:
        call = ends.converse()
        writing = asyncio.create_task(write_all(call, written, 100))
        assert await stalled(writing, written) <= 32
        assert await ends.unary(b"others go on") == b"others go on"
        released.set()
        await asyncio.wait_for(writing, DEADLINE_S)
        await call.done_writing()
        assert await read_all(call) == [b"100"]


async def test_a_handler_waits_for_a_caller_that_does_not_read(pair: Pair) -> None:
    written: list[int] = []
    begun: asyncio.Future[asyncio.Task[None]] = asyncio.get_running_loop().create_future()

    async def talks(_: Any, context: Any) -> None:
        begun.set_result(asyncio.create_task(write_all(context, written, 100)))
        await begun.result()

    async with connected(pair, handlers_of(talks)) as ends:
        call = ends.converse()
        await call.write(b"go")
        writing = await asyncio.wait_for(begun, DEADLINE_S)
        assert await stalled(writing, written) <= 32
        assert await ends.unary(b"others go on") == b"others go on"
        assert len(await read_all(call)) == 100


@pytest.mark.parametrize("called", [OURS, GRPCIO])
async def test_our_pings_keep_a_quiet_call(called: str) -> None:
    async with connected((OURS, called)) as ends:
        channel: Any = open_channel(ends.channel.address, keepalive_s=0.03)
        call = channel.stream_stream("/test.Echo/Converse")()
        await call.write(b"1")
        assert await call.read() == b"1"
        reading = asyncio.ensure_future(call.read())
        await asyncio.wait({reading}, timeout=0.3)
        await call.write(b"2")
        assert await asyncio.wait_for(reading, DEADLINE_S) == b"2"
        await channel.close()


@pytest.mark.parametrize("caller", [OURS, GRPCIO])
async def test_our_server_pings_a_quiet_caller_and_keeps_it(
    caller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_KEEPALIVE_S", 0.03)
    monkeypatch.setattr(server_module, "_KEEPALIVE_TIMEOUT_S", 0.1)
    async with connected((caller, OURS)) as ends:
        call = ends.converse()
        await call.write(b"1")
        assert await call.read() == b"1"
        reading = asyncio.ensure_future(call.read())
        await asyncio.wait({reading}, timeout=0.3)
        await call.write(b"2")
        assert await asyncio.wait_for(reading, DEADLINE_S) == b"2"


async def test_tls_hides_the_same_calls(pair: Pair, tmp_path_factory: Any) -> None:
    async with connected(pair, tls=self_signed(tmp_path_factory.mktemp("tls"))) as ends:
        assert await ends.unary(bytes(3 * MIB)) == bytes(3 * MIB)
        assert len(await read_all(ends.numbers(b"300"))) == 300

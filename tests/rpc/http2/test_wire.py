"""When a connection writes: what is said in one moment leaves in one piece."""

import asyncio
from typing import Any

from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.wire import Wire


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        pass


def wire_of(*, serves: bool) -> tuple[Wire, Transport]:
    """Return a connection that has greeted its peer."""
    wire = Wire(
        Connection(is_client=not serves),
        on_opened=(lambda *_: None) if serves else None,
        on_made=lambda _: None,
        on_lost=lambda _: None,
        keepalive_s=60.0,
        keepalive_timeout_s=60.0,
    )
    transport = Transport()
    wire.connection_made(transport)
    wire.flush(at_once=True)
    transport.writes.clear()
    return wire, transport


def say(wire: Wire) -> None:
    wire.connection.ping()
    wire.flush()


async def test_a_server_writes_once_a_pass() -> None:
    wire, transport = wire_of(serves=True)
    say(wire)
    say(wire)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert len(transport.writes) == 1
    wire.abort("the test ends")


async def test_who_is_held_writes_once_the_last_one_has_spoken() -> None:
    for serves in (True, False):
        wire, transport = wire_of(serves=serves)
        wire.hold()
        wire.hold()
        say(wire)
        wire.let_go()
        say(wire)
        await asyncio.sleep(0)
        assert transport.writes == []
        wire.let_go()
        assert len(transport.writes) == 1
        wire.abort("the test ends")


async def test_nothing_said_is_nothing_written() -> None:
    wire, transport = wire_of(serves=True)
    wire.flush()
    wire.hold()
    wire.let_go()
    await asyncio.sleep(0)
    assert transport.writes == []
    wire.abort("the test ends")

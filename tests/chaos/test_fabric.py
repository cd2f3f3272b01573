"""Links that are cut keep bytes back, and deliver them when they are healed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.chaos.fabric import HOST, Fabric

DEADLINE_S = 10.0
LONG_ENOUGH_S = 0.2
"""For bytes on loopback that are not kept back."""


class Wire:
    """A process `near` that dials a process `far` which echoes, and what either of them does."""

    def __init__(self, fabric: Fabric, proxy: str) -> None:
        self._fabric = fabric
        self._proxy_port = int(proxy.rpartition(":")[2])
        self._accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )
        self.far_address = ""

    async def serve(self, stack: AsyncExitStack) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stack.callback(writer.close)
            await self._accepted.put((reader, writer))

        server = await asyncio.start_server(accept, HOST, 0)
        stack.callback(server.close)
        self.far_address = f"{HOST}:{server.sockets[0].getsockname()[1]}"
        self._fabric.locate("far", self.far_address)

    async def dial(
        self, stack: AsyncExitStack
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self._proxy_port)
        stack.callback(writer.close)
        writer.write(f"CONNECT {self.far_address} HTTP/1.1\r\n\r\n".encode())
        return reader, writer

    async def accepted(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.wait_for(self._accepted.get(), DEADLINE_S)

    @property
    def dialled_count(self) -> int:
        return self._accepted.qsize()


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as open_things:
        yield open_things


@pytest_asyncio.fixture
async def fabric() -> AsyncIterator[Fabric]:
    async with Fabric() as entered:
        yield entered


@pytest_asyncio.fixture
async def wire(fabric: Fabric, stack: AsyncExitStack) -> Wire:
    made = Wire(fabric, (await fabric.interface("near"))["grpc_proxy"])
    await made.serve(stack)
    return made


class Line:
    """An established connection."""

    def __init__(self, wire: Wire, stack: AsyncExitStack) -> None:
        self._wire, self._stack = wire, stack

    async def open(self) -> "Line":
        self.near, self.near_writer = await self._wire.dial(self._stack)
        self.far, self.far_writer = await self._wire.accepted()
        await asyncio.wait_for(self.near.readuntil(b"\r\n\r\n"), DEADLINE_S)
        return self


async def arrives(reader: asyncio.StreamReader, data: bytes) -> bool:
    return await asyncio.wait_for(reader.readexactly(len(data)), DEADLINE_S) == data


async def stays_away(reader: asyncio.StreamReader) -> bool:
    try:
        await asyncio.wait_for(reader.read(1), LONG_ENOUGH_S)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_in_order_both_ways(wire: Wire, stack: AsyncExitStack) -> None:
    line = await Line(wire, stack).open()
    sent = bytes(range(256)) * 20_000
    line.near_writer.write(sent)
    line.far_writer.write(b"back")
    assert await arrives(line.far, sent)
    assert await arrives(line.near, b"back")


async def test_a_one_way_cut_keeps_back_one_direction(
    fabric: Fabric, wire: Wire, stack: AsyncExitStack
) -> None:
    line = await Line(wire, stack).open()
    fabric.cut("near", "far")
    line.near_writer.write(b"there")
    line.far_writer.write(b"back")
    assert await arrives(line.near, b"back")
    assert await stays_away(line.far)
    fabric.heal()
    assert await arrives(line.far, b"there")


async def test_an_end_is_kept_back_too(fabric: Fabric, wire: Wire, stack: AsyncExitStack) -> None:
    line = await Line(wire, stack).open()
    fabric.cut("near", "far")
    line.near_writer.write(b"last words")
    line.near_writer.close()
    assert await stays_away(line.far)
    fabric.heal()
    assert await arrives(line.far, b"last words")
    assert await asyncio.wait_for(line.far.read(), DEADLINE_S) == b""


async def test_it_is_known_whether_a_cut_had_anything_to_keep_back(
    fabric: Fabric, wire: Wire, stack: AsyncExitStack
) -> None:
    line = await Line(wire, stack).open()
    fabric.cut("near", "far")
    line.far_writer.write(b"back")
    assert await arrives(line.near, b"back")
    assert not fabric.has_kept_back("near", "far")
    line.near_writer.write(b"there")
    assert await stays_away(line.far)
    assert fabric.has_kept_back("near", "far")
    fabric.heal()
    fabric.cut("near", "far")
    assert not fabric.has_kept_back("near", "far")
    reader, _ = await wire.dial(stack)
    assert await stays_away(reader)
    assert fabric.has_kept_back("near", "far")


async def test_without_a_cut_an_end_is_known_at_once(wire: Wire, stack: AsyncExitStack) -> None:
    line = await Line(wire, stack).open()
    line.far_writer.close()
    assert await asyncio.wait_for(line.near.read(), DEADLINE_S) == b""


@pytest.mark.parametrize("direction", [("near", "far"), ("far", "near")])
async def test_nobody_connects_over_a_cut_link(
    fabric: Fabric, wire: Wire, stack: AsyncExitStack, direction: tuple[str, str]
) -> None:
    fabric.cut(*direction)
    reader, _ = await wire.dial(stack)
    assert await stays_away(reader)
    assert wire.dialled_count == 0
    fabric.heal()
    await wire.accepted()


async def test_who_does_not_listen_is_refused(
    fabric: Fabric, wire: Wire, stack: AsyncExitStack
) -> None:
    wire.far_address = f"{HOST}:1"
    fabric.locate("far", wire.far_address)
    reader, _ = await wire.dial(stack)
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""


async def test_an_address_of_nobody_is_refused_or_its_links_could_not_be_cut(
    wire: Wire, stack: AsyncExitStack
) -> None:
    known, wire.far_address = wire.far_address, "localhost:" + wire.far_address.split(":")[1]
    assert known != wire.far_address
    reader, _ = await wire.dial(stack)
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
    assert wire.dialled_count == 0


async def test_a_cut_holds_a_flood_without_taking_it_into_memory(
    fabric: Fabric, wire: Wire, stack: AsyncExitStack
) -> None:
    line = await Line(wire, stack).open()
    fabric.cut("near", "far")
    flood = bytes(64 << 20)
    line.near_writer.write(flood)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(line.near_writer.drain(), LONG_ENOUGH_S)
    fabric.heal()
    assert await arrives(line.far, flood)


async def test_a_slow_link_delays_each_byte_and_keeps_the_order(
    fabric: Fabric, wire: Wire, stack: AsyncExitStack
) -> None:
    line = await Line(wire, stack).open()
    fabric.slow("near", "far", 0.1)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number in range(10):
        line.near_writer.write(bytes([number]) * 1000)
        await asyncio.sleep(0)
    fabric.slow("near", "far", 0.0)
    line.near_writer.write(b"end")
    assert await arrives(
        line.far, b"".join(bytes([number]) * 1000 for number in range(10)) + b"end"
    )
    assert loop.time() - began_s >= 0.09

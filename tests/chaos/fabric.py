"""The network between the processes of a test: every link can be cut, one way or both, and slowed.

Problem: cutting a link between two processes of one machine needs privileges, or a hook in the
product. Idea: whoever speaks gRPC dials through an HTTP proxy when `grpc_proxy` is set, and names
the target in its CONNECT. Each process is given a proxy port of its own, so the port tells who
dials and the target whom: one gate per ordered pair, and the product knows nothing of it.

A closed gate keeps bytes back, ends of connections included, and never tells: what a network does
that drops packets. While a pair is cut in one direction, no connection between the two is made
(there is no handshake), but established ones go on carrying bytes in the other. Opened again, a
gate lets everything pass that TCP would have sent again.

Source: gRPC core's environment variables (`grpc_proxy`); RFC 9110, section 9.3.6 (CONNECT).
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

HOST: Final = "127.0.0.1"
_KEPT_BACK_BYTES_MAX: Final = 256 * 1024
_HEADER_BYTES_MAX: Final = 8192


class Gate:
    """One direction between two processes.

    Attributes:
        is_open: Whether bytes pass.
        delay_s: How long each byte is under way.
        has_kept_back: Whether anybody wished to pass since it was last closed.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.has_kept_back = False
        self.delay_s = 0.0
        self._pipes: set[_Pipe] = set()
        self._opened = asyncio.Event()
        self._opened.set()

    def set(self, *, is_open: bool | None = None, delay_s: float | None = None) -> None:
        """Change what is given."""
        if delay_s is not None:
            self.delay_s = delay_s
        if is_open is not None:
            self.is_open = is_open
            self.has_kept_back &= is_open
            (self._opened.set if is_open else self._opened.clear)()
        for pipe in list(self._pipes):
            pipe.pump()

    async def until_open(self) -> None:
        """Return once bytes pass."""
        self.has_kept_back |= not self.is_open
        await self._opened.wait()

    def add(self, pipe: "_Pipe") -> None:
        """Tell a pipe from now on when the gate changes."""
        self._pipes.add(pipe)

    def remove(self, pipe: "_Pipe") -> None:
        """Forget a pipe."""
        self._pipes.discard(pipe)


class _Pipe:
    """One direction of one connection: what is under way, in order; None is its end."""

    def __init__(self, gate: Gate, source: "_End", sink: "_End") -> None:
        self._gate = gate
        self._source = source
        self._sink = sink
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._kept_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        gate.add(self)

    def feed(self, data: bytes | None) -> None:
        if not self._under_way and self._gate.is_open and not self._gate.delay_s:
            self._deliver(data)
            return
        self._gate.has_kept_back |= not self._gate.is_open
        self._under_way.append((self._loop.time() + self._gate.delay_s, data))
        self._kept_bytes += len(data or b"")
        if self._kept_bytes > _KEPT_BACK_BYTES_MAX:
            self._source.pause()
        self.pump()

    def pump(self) -> None:
        """Deliver what is due, and come back for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = self._loop.time()
        while self._gate.is_open and self._under_way and self._under_way[0][0] <= now_s:
            _, data = self._under_way.popleft()
            self._kept_bytes -= len(data or b"")
            self._deliver(data)
        if self._gate.is_open and self._under_way:
            self._timer = self._loop.call_at(self._under_way[0][0], self.pump)
        if self._kept_bytes <= _KEPT_BACK_BYTES_MAX:
            self._source.resume()

    def _deliver(self, data: bytes | None) -> None:
        if data is None:
            self.drop()
            self._sink.close()
        else:
            self._sink.write(data)

    def drop(self) -> None:
        """Forget everything: nobody is there any more to receive it."""
        if self._timer is not None:
            self._timer.cancel()
        self._under_way.clear()
        self._gate.remove(self)


class _End(asyncio.Protocol):
    """The proxy's socket towards one of the two processes of a connection."""

    def __init__(self, ends: "set[_End]") -> None:
        self.peer: _End | None = None
        self.outgoing: _Pipe | None = None
        """What this end's process says, on its way to the other."""
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._ends = ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self.outgoing is not None:
            self.outgoing.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._ends.discard(self)
        if self.peer is not None and self.peer.outgoing is not None:
            self.peer.outgoing.drop()
        if self.outgoing is not None:
            self.outgoing.feed(None)

    def pause_writing(self) -> None:
        if self.peer is not None:
            self.peer.pause()

    def resume_writing(self) -> None:
        if self.peer is not None:
            self.peer.resume()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._lost:
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None and not self._lost and self._transport.is_reading():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._lost and not self._transport.is_reading():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Dialler(_End):
    """A process that dials: its first line says whom."""

    def __init__(self, fabric: "Fabric", source: str) -> None:
        super().__init__(fabric.ends)
        self._fabric = fabric
        self._source = source
        self._header: bytearray | None = bytearray()
        self._dialling: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        if self._header is None:
            super().data_received(data)
            return
        self._header += data
        if self._header.endswith(b"\r\n\r\n"):
            target = self._header.split(maxsplit=2)[1].decode()
            self._header = None
            self._dialling = self._fabric.spawn(self._dial(target))
        elif len(self._header) > _HEADER_BYTES_MAX:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        super().connection_lost(exc)

    async def _dial(self, target: str) -> None:
        gates = self._fabric.gates(self._source, target)
        if gates is None:
            self.close()
            return
        there, back = gates
        while not (there.is_open and back.is_open):
            await there.until_open()
            await back.until_open()
        host, _, port = target.rpartition(":")
        try:
            _, other = await asyncio.get_running_loop().create_connection(
                lambda: _End(self._fabric.ends), host, int(port)
            )
        except OSError:
            self.close()
            return
        self._fabric.silent.discard(self._source)
        self.peer, other.peer = other, self
        self.outgoing = _Pipe(there, self, other)
        other.outgoing = _Pipe(back, other, self)
        self.write(b"HTTP/1.1 200 OK\r\n\r\n")


class Fabric:
    """All links between named processes. Enter it before the first process is started.

    Attributes:
        ends: The sockets of all connections.
        silent: The processes that have not connected to anybody through it: cuts do not reach them.
    """

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self._resources = AsyncExitStack()
        self._gates: dict[tuple[str, str], Gate] = {}
        self._names: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.ends: set[_End] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in list(self.ends):
            end.close()
        await self._resources.aclose()

    async def interface(self, name: str) -> dict[str, str]:
        """Return the environment that makes a process of this name dial through the fabric."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Dialler(self, name), HOST, 0)
        self._resources.callback(server.close)
        self.silent.add(name)
        return {"grpc_proxy": f"http://{HOST}:{server.sockets[0].getsockname()[1]}"}

    def locate(self, name: str, address: str) -> None:
        """Say which process serves an address, before anybody dials it."""
        self._names[address] = name

    def gates(self, source: str, target: str) -> tuple[Gate, Gate] | None:
        """Return the gates there and back between a process and an address; None: nobody's."""
        destination = self._names.get(target)
        if destination is None:
            return None
        return self._gate(source, destination), self._gate(destination, source)

    def cut(self, source: str, destination: str) -> None:
        """Let nothing pass from one process to another; what flows back is not touched."""
        self._gate(source, destination).set(is_open=False)

    def has_kept_back(self, source: str, destination: str) -> bool:
        """Whether a cut link has had anything to keep back, bytes or a wish to connect."""
        return self._gate(source, destination).has_kept_back

    def slow(self, source: str, destination: str, delay_s: float) -> None:
        """Let everything from one process to another take so long."""
        self._gate(source, destination).set(delay_s=delay_s)

    def heal(self) -> None:
        """Make every link whole and quick."""
        for gate in self._gates.values():
            gate.set(is_open=True, delay_s=0.0)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as the fabric lives."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _gate(self, source: str, destination: str) -> Gate:
        return self._gates.setdefault((source, destination), Gate())

"""The bounds and deadlines of the wire between controllers: no slow or silent peer holds one up.

One side is real, over real gRPC; the other does what a peer should not.
"""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from odradek.controller.raft import RaftOptions, links
from odradek.controller.raft.encoding import encode
from odradek.controller.raft.links import Event, Inbox, LinkDown, Links, LinkUp, Received
from odradek.controller.raft.messages import AppendEntries, Entry, Message
from odradek.protocol.types import ControllerId
from odradek.rpc.channels import open_channel
from odradek.rpc.server import Server
from odradek.v1 import raft_pb2, raft_pb2_grpc

DEADLINE_S = 10.0
NEVER_S = 60.0  # longer than a test may take
SELF, PEER = ControllerId(0), ControllerId(1)


class Peer(raft_pb2_grpc.RaftServiceServicer):
    """A controller that may be silent from the beginning, from its acceptance on, or deaf."""

    def __init__(self, *, accepts: bool = True, lives: bool = False, reads: bool = False) -> None:
        self.sessions: asyncio.Queue[int] = asyncio.Queue()
        self.read: asyncio.Queue[raft_pb2.ExchangeRequest] = asyncio.Queue()
        self._accepts = accepts
        self._lives = lives
        self._reads = reads

    async def Exchange(  # noqa: N802
        self, request_iterator: AsyncIterator[raft_pb2.ExchangeRequest], context: Any
    ) -> AsyncIterator[raft_pb2.ExchangeResponse]:
        self.sessions.put_nowait((await anext(aiter(request_iterator))).hello.session)
        if self._accepts:
            yield raft_pb2.ExchangeResponse(controller_id=PEER)
        if self._reads:
            async for frame in request_iterator:
                self.read.put_nowait(frame)
        while self._lives:
            await asyncio.wait([asyncio.Future()], timeout=0.005)
            yield raft_pb2.ExchangeResponse(controller_id=PEER)
        await asyncio.Event().wait()


@pytest.fixture
def base() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="links-"))  # short: the paths of sockets are limited
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _redial_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "REDIAL_DELAY_S", 0.001)
    monkeypatch.setattr(links, "REDIAL_DELAY_MAX_S", 0.001)


class Side:
    """The real one, and what its tick thread would see."""

    def __init__(self, address: str, inbox: Inbox, **options: Any) -> None:
        self.inbox = inbox
        chosen = RaftOptions(
            cluster_id="test",
            self_id=SELF,
            peers={PEER: address},
            data_directory=Path("/unused"),
            **{"dial_timeout_s": NEVER_S, "link_silence_timeout_s": NEVER_S, **options},
        )
        self.links = Links(chosen, open_channel, self.inbox, random.Random(1))
        self._events: deque[Event] = deque()

    async def event(self) -> Event:
        """Return the next event, once there is one."""
        while not self._events:
            self._events.extend(await asyncio.to_thread(self.inbox.take, DEADLINE_S))
        return self._events.popleft()

    def received(self) -> list[Message]:
        """Take what has been received, as the tick thread does."""
        messages = [each.message for each in self.inbox.take(0) if isinstance(each, Received)]
        self.links.made_room()
        return messages


@contextlib.asynccontextmanager
async def side(address: str, inbox: Inbox | None = None, **options: Any) -> AsyncIterator[Side]:
    made = Side(address, inbox or Inbox(), **options)
    keeping = made.links.start(incarnation=1)
    try:
        yield made
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


@contextlib.asynccontextmanager
async def dialling(base: Path, peer: Peer, **options: Any) -> AsyncIterator[Side]:
    """Let the real one dial a peer."""
    address = f"unix:{base}/peer.sock"
    server = Server(address)
    raft_pb2_grpc.add_RaftServiceServicer_to_server(peer, server.grpc)
    await server.start()
    try:
        async with asyncio.timeout(DEADLINE_S), side(address, **options) as made:
            yield made
    finally:
        await server.drain(0)


def message(number: int, *, size_bytes: int = 0) -> AppendEntries:
    entries = (Entry(bytes(size_bytes), number + 1, 1),) if size_bytes else ()
    return AppendEntries(1, 0, number, 0 if number == 0 else 1, entries)


async def stream_of(messages: Sequence[Message]) -> AsyncIterator[raft_pb2.ExchangeRequest]:
    hello = raft_pb2.RaftHello(
        cluster_id="test", from_id=PEER, to_id=SELF, incarnation=1, session=1
    )
    yield raft_pb2.ExchangeRequest(hello=hello)
    for each in messages:
        yield encode(each)


async def test_a_peer_that_does_not_accept_is_dialled_anew(base: Path) -> None:
    peer = Peer(accepts=False)
    async with dialling(base, peer, dial_timeout_s=0.02) as here:
        assert [await peer.sessions.get() for _ in range(3)] == [1, 2, 3]
        assert here.inbox.take(0) == [], "nothing is sent to who has not accepted"


async def test_a_peer_that_falls_silent_is_dialled_anew(base: Path) -> None:
    peer = Peer()
    async with dialling(base, peer, link_silence_timeout_s=0.02) as here:
        for session in (1, 2):
            assert await here.event() == LinkUp(PEER)
            assert await here.event() == LinkDown(PEER)
            assert await peer.sessions.get() == session


async def test_a_peer_that_reads_nothing_is_dialled_anew(base: Path) -> None:
    """It gives signs of life all the time: only what cannot be written tells."""
    peer = Peer(lives=True)
    async with dialling(base, peer, link_silence_timeout_s=0.2) as here:
        assert await here.event() == LinkUp(PEER)
        for number in range(16):
            here.links.send(PEER, message(number, size_bytes=1 << 19))
        assert await here.event() == LinkDown(PEER)
        assert [await peer.sessions.get() for _ in range(2)] == [1, 2]


async def test_more_than_the_bound_for_a_slow_peer_ends_its_stream(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "OUTGOING_BYTES_MAX", 10_000)
    peer = Peer(reads=True)
    async with dialling(base, peer) as here:
        assert await here.event() == LinkUp(PEER)
        large = message(0, size_bytes=9_000)
        for _ in range(2):
            here.links.send(PEER, large)
            assert await peer.read.get() == encode(large), "only what waits is counted"
        for _ in range(2):
            here.links.send(PEER, large)
        assert await here.event() == LinkDown(PEER)
        assert await here.event() == LinkUp(PEER)
        here.links.send(PEER, message(7))
        assert await peer.read.get() == encode(message(7)), "nothing of before goes to a new stream"


async def test_what_is_beyond_the_bound_is_not_kept(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "OUTGOING_BYTES_MAX", 10_000)
    async with dialling(base, Peer(reads=True)) as here:
        assert await here.event() == LinkUp(PEER)
        sent = [message(number, size_bytes=9_000) for number in range(20)]
        before = [sys.getrefcount(each) for each in sent]
        for number in range(20):  # in one go: the writer had no turn
            here.links.send(PEER, sent[number])
        after = [sys.getrefcount(each) for each in sent]
        kept = [more > less for less, more in zip(before, after, strict=True)]
        assert kept == [True] * 2 + [False] * 18
        assert await here.event() == LinkDown(PEER)


async def test_a_full_inbox_makes_readers_wait_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links, "INBOX_BYTES_MAX", 1_000)
    monkeypatch.setattr(links, "SIGN_OF_LIFE_INTERVAL_S", 0.005)
    sent = [message(number, size_bytes=300) for number in range(10)]

    async with asyncio.timeout(DEADLINE_S), side("unix:/nowhere") as here:
        exchange = here.links.Exchange(stream_of(sent), None)  # type: ignore[arg-type]
        await anext(exchange)  # accepted
        # Between two signs of life it reads all that it may.
        taken = [here.received() async for _ in exchange]
        taken.append(here.received())
    assert [each for part in taken for each in part] == sent
    assert max(len(part) for part in taken) == 2, "the second makes it full"


class EmptiedInbox(Inbox):
    """Emptied as soon as a reader has seen that it is full, by a tick thread that comes between."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Event] = []
        self.links: Links | None = None

    @property
    def is_full(self) -> bool:
        """Whether it was."""
        was_full = super().is_full
        if was_full and self.links is not None:
            self.taken += self.take(0)
            self.links.made_room()
        return was_full


async def test_room_made_meanwhile_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "INBOX_BYTES_MAX", 1_000)
    sent = [message(number, size_bytes=900) for number in range(4)]
    inbox = EmptiedInbox()
    async with asyncio.timeout(DEADLINE_S), side("unix:/nowhere", inbox=inbox) as here:
        inbox.links = here.links
        async for _ in here.links.Exchange(stream_of(sent), None):  # type: ignore[arg-type]
            pass
    received = [*inbox.taken, *inbox.take(0)]
    assert [each.message for each in received if isinstance(each, Received)] == sent

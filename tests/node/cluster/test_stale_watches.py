"""When clients are sent to another node for the metadata; in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Self

import pytest

from odradek.node.cluster import stale_watches
from odradek.node.cluster.image import ImageUpdate
from odradek.node.cluster.session import Session
from odradek.node.cluster.stale_watches import end_stale_watches
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import NotLeaderOrFollowerError
from odradek.protocol.types import Incarnation
from tests.virtual_time import run

SESSION_S = 6.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Node:
    """One that registered just now, and whose watches end with its session."""

    def __init__(self) -> None:
        self.session = Session()
        self.session.on_registered(Incarnation(1), SESSION_S, now_s())
        self.view = ClusterView()
        self.view.publish(ImageUpdate(version=1, snapshot=True))
        self._ending = asyncio.create_task(end_stale_watches(self.session, self.view))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.cancel()
        await asyncio.wait([self._ending])


@pytest.fixture(autouse=True)
def _virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale_watches, "time", SimpleNamespace(monotonic=now_s))


@asynccontextmanager
async def sent_elsewhere() -> AsyncIterator[None]:
    with pytest.raises(NotLeaderOrFollowerError, match="not heard from the controllers"):
        async with asyncio.timeout(2 * SESSION_S):
            yield


def test_each_end_of_the_session_ends_the_watches() -> None:
    async def scenario() -> None:
        async with Node() as node:
            for _ in range(2):
                heard_s = now_s()
                node.session.on_contact(heard_s, fenced=False)
                with node.view.watch() as watcher:
                    updates = watcher.updates()
                    assert (await anext(updates)).snapshot
                    async with sent_elsewhere():
                        await anext(updates)
                assert SESSION_S < now_s() - heard_s < SESSION_S + 0.2

    run(scenario())


def test_whoever_comes_after_the_end_of_the_session_may_stay() -> None:
    async def scenario() -> None:
        async with Node() as node:
            with node.view.watch() as first:
                updates = first.updates()
                await anext(updates)
                async with sent_elsewhere():
                    await anext(updates)
            with node.view.watch() as second:
                updates = second.updates()
                await anext(updates)
                node.view.publish(ImageUpdate(version=2))
                assert (await anext(updates)).version == 2
                waiting = asyncio.ensure_future(anext(updates))
                ended, _ = await asyncio.wait([waiting], timeout=2 * SESSION_S)
                assert not ended
                waiting.cancel()
                await asyncio.wait([waiting])

    run(scenario())

"""When clients are sent to another node for the metadata."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from odradek.node.cluster.image import ImageUpdate
from odradek.node.cluster.session import Session
from odradek.node.cluster.stale_watches import end_stale_watches
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import NotLeaderOrFollowerError
from odradek.protocol.types import Incarnation

SESSION_S = 0.3


@pytest.fixture
async def session() -> Session:
    """Registered just now."""
    session = Session()
    session.on_registered(Incarnation(1), SESSION_S, time.monotonic())
    return session


@pytest.fixture
async def view(session: Session) -> AsyncIterator[ClusterView]:
    """Whose watches end with the session."""
    view = ClusterView()
    view.publish(ImageUpdate(version=1, snapshot=True))
    ending = asyncio.create_task(end_stale_watches(session, view))
    yield view
    ending.cancel()
    await asyncio.wait([ending])


async def test_each_end_of_the_session_ends_the_watches(
    session: Session, view: ClusterView
) -> None:
    for _ in range(2):
        session.on_contact(time.monotonic(), fenced=False)
        with view.watch() as watcher:
            updates = watcher.updates()
            assert (await anext(updates)).snapshot
            with pytest.raises(NotLeaderOrFollowerError, match="not heard from the controllers"):
                async with asyncio.timeout(10):
                    await anext(updates)
        assert session.lapsed(time.monotonic()) is not None


async def test_whoever_comes_after_the_end_of_the_session_may_stay(
    session: Session, view: ClusterView
) -> None:
    with view.watch() as first:
        updates = first.updates()
        await anext(updates)
        with pytest.raises(NotLeaderOrFollowerError):
            await anext(updates)
    with view.watch() as second:
        updates = second.updates()
        await anext(updates)
        view.publish(ImageUpdate(version=2))
        assert (await anext(updates)).version == 2
        waiting = asyncio.ensure_future(anext(updates))
        ended, _ = await asyncio.wait([waiting], timeout=2 * SESSION_S)
        assert not ended
        waiting.cancel()
        await asyncio.wait([waiting])

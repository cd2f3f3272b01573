"""What a reader of committed offsets may rely on, while commits are on their way."""

import asyncio

import pytest

from odradek.node.coordination.offsets import Commit
from odradek.protocol.types import Offset

from .broker import running_broker, until_serving
from .cluster import GPS, GROUP


async def test_offsets_are_read_after_the_commits_that_were_here_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the client of the last one has gone."""
    async with running_broker() as broker:
        broker.world.lead()
        await until_serving(broker)
        led, may_append = broker.world.led, asyncio.Event()
        append = led.append

        async def held(batch: bytes) -> Offset:
            await may_append.wait()
            return await append(batch)

        monkeypatch.setattr(led, "append", held)
        groups = broker.world.coordination.of_group(GROUP)
        commits = [
            groups.accept(groups.committer(GROUP, "", -1), Commit(GPS, "gps", index, offset, 0, ""))
            for index, offset in enumerate([5, 6])
        ]
        first, last = (asyncio.create_task(groups.append([each])) for each in commits)
        await asyncio.sleep(0)
        last.cancel()
        reading = asyncio.create_task(groups.committed(GROUP))
        await asyncio.wait((reading,), timeout=0)
        may_append.set()
        assert [each.offset for each in await reading] == [5, 6]
        await first

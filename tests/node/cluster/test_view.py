"""Waiting for versions, watching changes."""

import asyncio

import pytest

from odradek.node.cluster.image import ClusterImage, ImageUpdate, NodeState
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import RequestTimedOutError
from odradek.protocol.types import Incarnation, NodeId


def _update(version: int) -> ImageUpdate:
    node = NodeState(
        node_id=NodeId(version), host="h", port=1, incarnation=Incarnation(version), rack=""
    )
    return ImageUpdate(version=version, nodes=(node,))


async def test_waiting_for_a_version_ends_with_an_image_that_has_it() -> None:
    view = ClusterView()
    waiting = [asyncio.create_task(view.at_least(version, 5.0)) for version in (2, 1, 3)]
    await asyncio.sleep(0)
    view.publish(_update(2))
    done, pending = await asyncio.wait(waiting[:2])
    assert not pending
    assert {task.result().version for task in done} == {2}
    assert not waiting[2].done()
    view.publish(_update(7))
    assert (await waiting[2]).version == 7


async def test_waiting_is_bounded_and_names_both_versions() -> None:
    view = ClusterView()
    view.publish(_update(2))
    with pytest.raises(RequestTimedOutError) as caught:
        await view.at_least(9, 0.01)
    assert (caught.value.value, caught.value.limit) == ("9", "2")
    view.publish(_update(9))  # nobody is left behind


async def test_a_watcher_gets_the_image_then_every_change() -> None:
    view = ClusterView()
    view.publish(_update(1))
    with view.watch() as watcher:
        updates = watcher.updates()
        first = await anext(updates)
        assert (first.snapshot, first.version) == (True, 1)
        view.publish(_update(2))
        view.publish(_update(3))
        seen = [await anext(updates), await anext(updates)]
        assert [(each.snapshot, each.version) for each in seen] == [(False, 2), (False, 3)]


async def test_what_the_first_image_holds_is_not_sent_again() -> None:
    view = ClusterView()
    with view.watch() as watcher:
        view.publish(_update(1))
        updates = watcher.updates()
        assert (await anext(updates)).version == 1
        view.publish(_update(2))
        assert (await anext(updates)).version == 2


async def test_a_watcher_that_falls_behind_gets_a_whole_image_and_costs_no_memory() -> None:
    view = ClusterView()
    with view.watch() as watcher:
        updates = watcher.updates()
        image = ClusterImage().apply(await anext(updates))
        for version in range(1, 1001):
            view.publish(_update(version))
        while image.version < 1000:
            image = image.apply(await anext(updates))
        assert image == view.image
        view.publish(_update(1001))
        assert (await anext(updates)).version == 1001


async def test_a_version_that_changes_nothing_for_a_watcher_is_told_all_the_same() -> None:
    view = ClusterView()
    with view.watch() as watcher:
        updates = watcher.updates(lambda update: update if update.snapshot else None)
        assert (await anext(updates)).snapshot
        for version in (1, 2, 3):
            view.publish(_update(version))
        async with asyncio.timeout(5):
            assert await anext(updates) == ImageUpdate(version=3)


async def test_what_matters_is_told_at_once_and_its_version_once() -> None:
    view = ClusterView()
    with view.watch() as watcher:
        updates = watcher.updates(lambda update: update if update.version % 2 == 0 else None)
        await anext(updates)
        for version in (1, 2, 3, 4, 5):
            view.publish(_update(version))
        seen = [await anext(updates) for _ in range(3)]
        assert [(each.version, bool(each.nodes)) for each in seen] == [
            (2, True),
            (4, True),
            (5, False),
        ]

"""The image in force, and those who wait for the next one.

Problem: requests want an image at or after a version, clients want every change from now on, and
neither may hold the node's memory or its metadata stream. Idea: waiters are futures beside a
version; watchers have a bounded queue, and one that falls behind gets the whole image anew.

Invariants: `publish` never waits; a watcher sees versions in order, and what it saw adds up to an
image that was once in force.
"""

import asyncio
import bisect
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from odradek.node.cluster.image import ClusterImage, ImageUpdate
from odradek.protocol.errors import RequestTimedOutError

_PENDING_UPDATES_MAX: Final = 256


@dataclass(slots=True, eq=False)
class Watcher:
    """One subscriber's queue; iterate it."""

    _view: "ClusterView"
    _pending: deque[ImageUpdate] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, update: ImageUpdate) -> None:
        """Queue an update, or give up the queue for a snapshot to be taken later."""
        if len(self._pending) >= _PENDING_UPDATES_MAX:
            self._pending.clear()
            update = ImageUpdate(version=update.version, snapshot=True)
        if self._pending and self._pending[-1].snapshot:
            return  # a snapshot not taken yet will hold this update too
        self._pending.append(update)
        self._wake.set()

    async def updates(self) -> AsyncIterator[ImageUpdate]:
        """Yield the image, then each change; ends with the caller."""
        seen = self._view.image.version
        yield self._view.image.snapshot()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                update = self._pending.popleft()
                if update.version <= seen:
                    continue  # it was part of a snapshot taken meanwhile
                if update.snapshot:
                    update = self._view.image.snapshot()
                seen = update.version
                yield update


class ClusterView:
    """What this node knows of its cluster. Use from the loop's thread only."""

    def __init__(self) -> None:
        self.cluster_id = ""
        self.image = ClusterImage()
        self._watchers: set[Watcher] = set()
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiter_count = 0

    def publish(self, update: ImageUpdate) -> None:
        """Step to the next image; versions never go backwards."""
        self.image = self.image.apply(update)
        while self._waiters and self._waiters[0][0] <= update.version:
            _, _, waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
        for watcher in self._watchers:
            watcher.offer(update)

    async def at_least(self, version: int, timeout_s: float) -> ClusterImage:
        """Return an image at or after a version.

        Raises:
            RequestTimedOutError: This node did not hear of that version in time.
        """
        if self.image.version >= version:
            return self.image
        waiter = asyncio.get_running_loop().create_future()
        self._waiter_count += 1
        entry = (version, self._waiter_count, waiter)
        bisect.insort(self._waiters, entry)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise RequestTimedOutError(
                f"this node knows metadata version {self.image.version}; version {version} did not"
                f" arrive within {timeout_s:g} s",
                field="min_version",
                value=version,
                limit=self.image.version,
            ) from None
        finally:
            if entry in self._waiters:
                self._waiters.remove(entry)
        return self.image

    @contextmanager
    def watch(self) -> Iterator[Watcher]:
        """Subscribe for as long as the context lasts."""
        watcher = Watcher(self)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

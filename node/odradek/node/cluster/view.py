"""The image in force, and those who wait for the next one.

Problem: requests want an image at or after a version, clients want every change from now on, and
neither may hold the node's memory or its metadata stream. Idea: waiters are futures beside a
version; watchers have a bounded queue, and one that falls behind gets the whole image anew.

Invariants: `publish` never waits; a watcher sees versions in order, and what it saw adds up to an
image that was once in force; it is told of each version, or a later one, within a tenth of a second
even when nothing that concerns it has changed: its client may be waiting for that version.
"""

import asyncio
import bisect
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from odradek.node.cluster.image import ClusterImage, ImageUpdate
from odradek.protocol.errors import BrokerError, RequestTimedOutError

_PENDING_UPDATES_MAX: Final = 256
# A step that concerns a watcher in nothing but its version may wait for one that does.
_VERSION_DELAY_S: Final = 0.1


@dataclass(slots=True, eq=False)
class Watcher:
    """One subscriber's queue; iterate it."""

    _view: "ClusterView"
    _pending: deque[ImageUpdate] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _ended_by: BrokerError | None = None

    def offer(self, update: ImageUpdate) -> None:
        """Queue an update, or give up the queue for a snapshot to be taken later."""
        if len(self._pending) >= _PENDING_UPDATES_MAX:
            self._pending.clear()
            update = ImageUpdate(version=update.version, snapshot=True)
        if self._pending and self._pending[-1].snapshot:
            return  # a snapshot not taken yet will hold this update too
        self._pending.append(update)
        self._wake.set()

    def end(self, reason: BrokerError) -> None:
        """Have `updates` raise."""
        self._ended_by = reason
        self._wake.set()

    async def updates(
        self, part_of: Callable[[ImageUpdate], ImageUpdate | None] = lambda update: update
    ) -> AsyncIterator[ImageUpdate]:
        """Yield the image, then each change; ends with the caller.

        Args:
            part_of: Returns the part of an update that matters; None when there is none: then
                the version alone is told, a little later.
        """
        clock_s = asyncio.get_running_loop().time
        seen = self._view.image.version
        due_at_s = math.inf  # for telling the version alone
        yield part_of(self._view.image.snapshot()) or ImageUpdate(version=seen)
        while True:
            if self._ended_by is not None:
                raise self._ended_by
            if clock_s() >= due_at_s:
                due_at_s = math.inf
                yield ImageUpdate(version=seen)
            elif not self._pending:
                await self._news(due_at_s)
            elif (update := self._next(seen)) is not None:
                seen = update.version
                part = part_of(update)
                if part is None:
                    due_at_s = min(due_at_s, clock_s() + _VERSION_DELAY_S)
                else:
                    due_at_s = math.inf
                    yield part

    async def _news(self, until_s: float) -> None:
        """Return once there is an update, or at the given time of the loop's clock."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await self._wake.wait()

    def _next(self, seen: int) -> ImageUpdate | None:
        """Take the next update; None when a snapshot taken meanwhile held it."""
        update = self._pending.popleft()
        if update.version <= seen:
            return None
        return self._view.image.snapshot() if update.snapshot else update


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

    def end_watches(self, reason: BrokerError) -> None:
        """End every present watch with an error: another node may know more."""
        for watcher in self._watchers:
            watcher.end(reason)

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

"""Those who wait for a replica: producers for their acknowledgement, readers for records.

Problem: thousands of appends wait for the same high watermark. Idea: they stand in a queue ordered
by the offset they wait for, so that an advance costs only those it releases; no future, no
condition.

Invariants: ends in a queue never fall from front to back; whoever enters is handed out once.
"""

import asyncio
from bisect import insort
from collections import deque
from operator import attrgetter
from typing import Protocol

from msgspec import Struct

from odradek.protocol.errors import BrokerError
from odradek.protocol.types import Offset


class Waiter(Protocol):
    """Whoever appended; told once per index."""

    def committed(
        self, index: int, base_offset: Offset, log_append_time_ms: int, log_start_offset: Offset
    ) -> None:
        """The batches are acknowledged."""

    def failed(self, index: int, error: BrokerError) -> None:
        """They were refused, or their outcome is unknown."""


class Reader(Protocol):
    """Whoever reads a replica as it grows."""

    def wake(self) -> None:
        """There may be something to read."""

    def end(self, error: BrokerError) -> None:
        """The replica can no longer be read here."""


class FutureWaiter:
    """Lets a coroutine wait for its append."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Offset] = asyncio.get_running_loop().create_future()

    def committed(
        self, index: int, base_offset: Offset, log_append_time_ms: int, log_start_offset: Offset
    ) -> None:
        """Return the base offset to whoever awaits `future`."""
        del index, log_append_time_ms, log_start_offset
        if not self.future.done():
            self.future.set_result(base_offset)

    def failed(self, index: int, error: BrokerError) -> None:
        """Raise the error where `future` is awaited."""
        del index
        if not self.future.done():
            self.future.set_exception(error)


class Pending(Struct, frozen=True, gc=False):
    """An append on its way to its acknowledgement; light, because two are made for each.

    Attributes:
        end: Acknowledged once everything below is safe (exclusive end).
        size_bytes: What it adds to the bytes that are not committed.
        waiter: None when nobody waits for this one.
    """

    end: Offset
    size_bytes: int
    waiter: Waiter | None
    index: int
    base_offset: Offset
    log_append_time_ms: int


_end_of = attrgetter("end")


class AckQueue:
    """Appends in the order of their ends."""

    __slots__ = ("_pending", "size_bytes")

    def __init__(self) -> None:
        self._pending: deque[Pending] = deque()
        self.size_bytes = 0

    def add(self, pending: Pending) -> None:
        """Queue an append; a duplicate of an earlier one stands beside the original."""
        queue = self._pending
        self.size_bytes += pending.size_bytes
        if queue and queue[-1].end > pending.end:
            insort(queue, pending, key=_end_of)
        else:
            queue.append(pending)

    def take_through(self, end: Offset) -> list[Pending]:
        """Remove what an offset covers; return those that somebody waits for."""
        queue = self._pending
        taken = []
        while queue and queue[0].end <= end:
            pending = queue.popleft()
            self.size_bytes -= pending.size_bytes
            if pending.waiter is not None:
                taken.append(pending)
        return taken

    def take_all(self) -> list[Pending]:
        """Empty the queue; return those that somebody waits for."""
        taken = [pending for pending in self._pending if pending.waiter is not None]
        self._pending.clear()
        self.size_bytes = 0
        return taken

"""Writes processed offsets to the group's coordinator: every second, on revocation, on closing.

One commit at a time, so that an older one never overtakes a newer; and each has its number, so that
one that was delayed on its way takes nothing back. What may be committed is decided by `Positions`;
this module only carries it, and repeats what is retriable.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from odradek.client.cluster.coordinator import Coordinator
from odradek.client.cluster.retries import retrying
from odradek.client.cluster.scope import Scope
from odradek.client.consuming.positions import CommitPoint, Positions
from odradek.client.errors import NotAssignedError
from odradek.protocol.errors import OdradekError
from odradek.protocol.types import MemberId, TopicPartition

Offsets: TypeAlias = Mapping[TopicPartition, int] | Mapping[tuple[str, int], int]
"""The next offset to read, by partition, as callers name one."""

_log = logging.getLogger(__name__)


class Commits:
    """The commits of one consumer.

    Args:
        scope: The client.
        coordinator: The group's.
        positions: What may be committed.
        member: Returns member id and epoch; read anew for each attempt.
    """

    def __init__(
        self,
        scope: Scope,
        coordinator: Coordinator,
        positions: Positions,
        member: Callable[[], tuple[MemberId, int]],
    ) -> None:
        self._scope = scope
        self._coordinator = coordinator
        self._positions = positions
        self._member = member
        self._turn = asyncio.Lock()

    async def run(self, interval_s: float, settle: Callable[[], None]) -> None:
        """Commit what is due, again and again, until cancelled.

        Args:
            interval_s: How often.
            settle: Called before each commit to bring `positions` up to date.
        """
        while True:
            await asyncio.sleep(interval_s)
            settle()
            await self.commit_due(timeout_s=max(interval_s, self._scope.options.request_timeout_s))

    async def commit_due(
        self, partitions: Iterable[TopicPartition] | None = None, *, timeout_s: float
    ) -> None:
        """Commit what was processed; a failure is logged, and repeats records after a crash."""
        try:
            async with self._turn:
                points = self._positions.commits_due(partitions)
                if points:
                    await self._commit(points, timeout_s, "")
        except OdradekError as error:
            _log.warning("offsets were not committed: %s: %s", type(error).__name__, error)

    async def commit(
        self, points: Sequence[CommitPoint], *, timeout_s: float, metadata: str = ""
    ) -> None:
        """Commit these offsets.

        Raises:
            OdradekError: Why the first refused one was refused, or what the call met in the end.
        """
        async with self._turn:
            if points:
                await self._commit(points, timeout_s, metadata)

    async def commit_given_up(self, points: Sequence[CommitPoint], *, timeout_s: float) -> None:
        """Commit what was processed of partitions the application no longer reads by `assign`."""
        results: Sequence[OdradekError | None]
        try:
            async with self._turn:
                results = await retrying(
                    lambda: self._coordinator.commit(points, self._member()),
                    what="commit",
                    timeout_s=timeout_s,
                    chance=self._scope.chance,
                )
        except OdradekError as error:
            results = (error,)
        for result in results:
            if result is not None:
                _log.warning("offsets were not committed: %s: %s", type(result).__name__, result)

    async def _commit(self, points: Sequence[CommitPoint], timeout_s: float, metadata: str) -> None:
        left = list(points)

        async def attempt() -> None:
            for point in left:
                self._check_assigned(point)
            results = await self._coordinator.commit(left, self._member(), metadata)
            outcome = list(zip(left, results, strict=True))
            self._positions.on_committed(point for point, error in outcome if error is None)
            left[:] = [point for point, error in outcome if error is not None]
            for _, error in outcome:
                if error is not None:
                    raise error

        await retrying(attempt, what="commit", timeout_s=timeout_s, chance=self._scope.chance)

    def _check_assigned(self, point: CommitPoint) -> None:
        """Refuse what was given up since: its new owner's commit must not be overwritten."""
        state = self._positions.get(point.partition.name)
        if state is None or state.id != point.partition:
            raise NotAssignedError(
                f"{point.partition} is not assigned to this consumer: its offset"
                f" {point.offset} was not committed",
                field="partition",
                value=point.partition,
            )

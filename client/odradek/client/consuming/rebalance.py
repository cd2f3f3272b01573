"""How a consumer lets go of partitions and takes others over, without losing or repeating records.

On revocation: hand out nothing more, wait until the application is done with what it holds (for
most of the rebalance time-out: other members wait for us), commit, tell, forget. On assignment:
tell first, so that the application may seek, then hand out.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from odradek.client.config import ConsumerOptions, RebalanceCallback
from odradek.client.consuming.commits import Commits
from odradek.client.consuming.positions import TopicIdPartition
from odradek.client.consuming.reader import Reader
from odradek.protocol.errors import OdradekError
from odradek.protocol.types import TopicPartition

_WAIT_FRACTION: Final = 0.8  # of the rebalance time-out; the rest is for committing and telling

_log = logging.getLogger(__name__)


class Rebalance:
    """Performs what the group session asks for.

    Args:
        options: The consumer's.
        reader: What is read.
        commits: Where processed offsets go.
        let_go: Makes the application's next step come back to us: what it was handed of these
            partitions and did not look at yet returns, and what it is done with is noted.
    """

    def __init__(
        self,
        options: ConsumerOptions,
        reader: Reader[Any, Any],
        commits: Commits,
        let_go: Callable[[Iterable[TopicPartition]], None],
    ) -> None:
        self._options = options
        self._reader = reader
        self._commits = commits
        self._let_go = let_go
        self._progress = asyncio.Event()
        self._is_hurried = False
        self._revoked: set[TopicPartition] = set()
        self._lost: set[TopicPartition] = set()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """For the length of a block, wait for no records that the application still processes."""
        self._is_hurried = True
        self._progress.set()
        try:
            yield
        finally:
            self._is_hurried = False

    def on_progress(self) -> None:
        """The application is done with something."""
        self._progress.set()

    async def reconcile(
        self, revoked: frozenset[TopicIdPartition], assigned: frozenset[TopicIdPartition]
    ) -> None:
        """Finish, commit and give up some partitions, then take others over."""
        if revoked:
            await self.revoke(_names(revoked))
        if assigned:
            names = _names(assigned)
            self._reader.assign(sorted(assigned), held=True)
            await _call(self._options.on_assigned, names)
            self._reader.release_hold(names)

    async def revoke(self, names: list[TopicPartition]) -> None:
        """Give partitions up while they are still ours."""
        self._reader.positions.hold(names)
        self._let_go(names)
        await self._wait_processed(names)
        await self.finish(names, timeout_s=self._options.rebalance_timeout_s)

    async def finish(self, names: list[TopicPartition], *, timeout_s: float) -> None:
        """Commit (giving up after a while) and tell, then read no longer."""
        self._let_go(names)
        if self._options.auto_commit:
            await self._commits.commit_due(names, timeout_s=timeout_s)
        # Without what was lost meanwhile, or what another of us is telling already.
        names = [each for each in self._known(names) if each not in self._revoked]
        self._revoked.update(names)
        try:
            await _call(self._options.on_revoked, names)
            self._reader.unassign(names)
        finally:
            self._revoked.difference_update(names)

    def drop(self, partitions: frozenset[TopicIdPartition]) -> None:
        """Stop reading at once: others may read these already."""
        names = self._known(_names(partitions))
        self._lost = set(names).difference(self._revoked)
        self._reader.positions.hold(names)
        self._let_go(names)
        self._reader.unassign(names)

    async def tell_lost(
        self, partitions: frozenset[TopicIdPartition], reason: OdradekError | None
    ) -> None:
        """Tell the application what was dropped, but for what it knows to be given up."""
        names = [each for each in _names(partitions) if each in self._lost]
        if not names:
            return
        _log.warning(
            "group %s: lost %s (%s); joining again",
            self._options.group,
            ", ".join(map(str, names)),
            reason or "no contact to the coordinator for a session",
        )
        await _call(self._options.on_lost or self._options.on_revoked, names)

    def _known(self, names: Iterable[TopicPartition]) -> list[TopicPartition]:
        return [each for each in names if self._reader.positions.get(each) is not None]

    def fail(self, error: BaseException) -> None:
        """Give the application an error at its next step."""
        self._reader.handout.fail(error)

    async def _wait_processed(self, names: list[TopicPartition]) -> None:
        try:
            async with asyncio.timeout(self._options.rebalance_timeout_s * _WAIT_FRACTION):
                while not (self._is_hurried or self._reader.positions.are_settled(names)):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            _log.warning(
                "group %s: the application still processes records of %s that go to another"
                " member, which will see them again",
                self._options.group,
                ", ".join(map(str, names)),
            )


def _names(partitions: frozenset[TopicIdPartition]) -> list[TopicPartition]:
    return [each.name for each in sorted(partitions)]


async def _call(callback: RebalanceCallback | None, names: list[TopicPartition]) -> None:
    """Call back, if there is whom and about what.

    Raises:
        RuntimeError: The callback raised CancelledError and nobody had cancelled it: a task it
            awaited, say. Passed on, that would silently end whoever called.
    """
    if callback is None or not names:
        return
    try:
        outcome = callback(tuple(names))
        if inspect.isawaitable(outcome):
            await outcome
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("a rebalance callback raised CancelledError") from error

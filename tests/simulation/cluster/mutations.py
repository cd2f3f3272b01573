"""Planted bugs: what the simulator must find, or its silence means nothing.

Each is a mistake somebody made in a real system, or could make here with one line.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from odradek.node.replication.follower import Effect as FollowerEffect
from odradek.node.replication.follower import FollowerReplica, Truncate
from odradek.node.replication.leader import Effect as LeaderEffect
from odradek.node.replication.leader import LeaderReplica
from odradek.node.storage.producers import ProducerStates
from odradek.protocol.types import Offset

_on_appended = LeaderReplica.on_appended
_on_connected = FollowerReplica.on_connected
_on_pushed = FollowerReplica.on_pushed


def _counts_before_sync(self: LeaderReplica, log_end: Offset) -> list[LeaderEffect]:
    return [*_on_appended(self, log_end), *self.on_durable(log_end)]


def _acks_before_sync(self: FollowerReplica, *arguments: Any) -> list[FollowerEffect]:
    self.durable_end = self.log_end_offset
    return [*_on_appended_by_follower(self, *arguments), *self.on_durable(self.log_end_offset)]


_on_appended_by_follower = FollowerReplica.on_appended


def _truncates_by_high_watermark(self: FollowerReplica) -> list[FollowerEffect]:
    if self.session or self.high_watermark == self.log_end_offset:
        return _on_connected(self)
    self._connected = True
    return [Truncate(self.high_watermark)]


def _does_nothing(*arguments: Any, **more: Any) -> None:
    del arguments, more


@dataclass(frozen=True, slots=True)
class Mutation:
    """One planted bug.

    Attributes:
        name: What is wrong.
        target: Whose.
        attribute: Which function.
        replacement: What it does instead.
        seeds: So many find it at the latest.
    """

    name: str
    target: Any
    attribute: str
    replacement: Callable[..., Any] | property
    seeds: int = 60

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Run with the bug."""
        with ExitStack() as stack:
            stack.enter_context(patch.object(self.target, self.attribute, self.replacement))
            yield


MUTATIONS = (
    Mutation(
        "the leader counts itself before its sync",
        LeaderReplica,
        "on_appended",
        _counts_before_sync,
    ),
    Mutation(
        "a follower acknowledges before its sync",
        FollowerReplica,
        "on_appended",
        _acks_before_sync,
    ),
    Mutation(
        "a follower truncates by its high watermark",
        FollowerReplica,
        "on_connected",
        _truncates_by_high_watermark,
    ),
    Mutation(
        "the high watermark moves below the minimum ISR",
        LeaderReplica,
        "has_enough_replicas",
        property(lambda _: True),
    ),
    Mutation(
        "batches sent again are appended again",
        ProducerStates,
        "check",
        _does_nothing,
    ),
)

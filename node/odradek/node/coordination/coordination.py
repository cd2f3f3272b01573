"""All groups this node coordinates: one `PartitionGroups` for each internal partition it leads.

The node tells in one step of its cluster image what it leads and what the controller says of those
groups, in this order: `on_resigned`, `on_leading`, `on_groups`. Nothing here waits inside a step.

Invariant: at most one `PartitionGroups` serves a partition, and it is of the present leader epoch.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from odradek.node.coordination.boundaries import (
    Clock,
    ClusterSource,
    GroupController,
    InternalPartition,
)
from odradek.node.coordination.groups import PartitionGroups
from odradek.node.coordination.model import Group, GroupTimes
from odradek.node.coordination.translation import group_from_proto
from odradek.protocol.errors import CoordinatorNotAvailableError, NotCoordinatorError
from odradek.protocol.hashing import coordinator_partition
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import GroupId, PartitionIndex
from odradek.v1 import controller_pb2

_CLEAN_UP_INTERVAL_S: Final = 60.0
_TICKS_IN_GRACE: Final = 10

SYSTEM_CLOCK: Final = Clock(now_s=time.monotonic, wall_s=time.time)


class Coordination:
    """What the node's composition root makes, feeds and runs."""

    def __init__(
        self,
        *,
        controller: GroupController,
        cluster: ClusterSource,
        times: GroupTimes | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.times = times or GroupTimes()
        self._controller = controller
        self._cluster = cluster
        self._clock = clock
        self._led: dict[PartitionIndex, PartitionGroups] = {}
        self._runs: dict[PartitionGroups, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for groups in self._led.values():
                self._start(groups)
            try:
                await self._tick()
            finally:
                self._tasks = None
                for partition in list(self._led):
                    self.on_resigned(partition)

    # What the node tells, in one step

    def on_leading(self, partition: PartitionIndex, internal: InternalPartition) -> None:
        """This node leads a partition of `__consumer_offsets`, or leads it under a new epoch."""
        self.on_resigned(partition)
        groups = PartitionGroups(
            partition,
            internal,
            controller=self._controller,
            cluster=self._cluster,
            times=self.times,
            clock=self._clock,
        )
        self._led[partition] = groups
        self._start(groups)

    def on_resigned(self, partition: PartitionIndex) -> None:
        """This node leads a partition of `__consumer_offsets` no more."""
        groups = self._led.pop(partition, None)
        if groups is None:
            return
        groups.close(NotCoordinatorError("this node coordinates the group no more"))
        run = self._runs.pop(groups, None)
        if run is not None:
            run.cancel()

    def on_groups(
        self,
        groups: Sequence[controller_pb2.ConsumerGroup],
        removed: Sequence[str],
        *,
        snapshot: bool = False,
    ) -> None:
        """The controller's word on the groups coordinated here.

        Args:
            groups: New or changed ones, whole.
            removed: Ended, or coordinated elsewhere.
            snapshot: These are all there are (the metadata update beside them is a snapshot).
        """
        changed: dict[PartitionIndex, list[Group]] = {}
        for group in groups:
            known = group_from_proto(group)
            changed.setdefault(known.coordinator_partition, []).append(known)
        for partition, here in self._led.items():
            here.on_groups(changed.get(partition, ()), map(GroupId, removed), snapshot=snapshot)

    # What the group service asks

    def of_group(self, group: GroupId) -> PartitionGroups:
        """Return the coordinator of a group, if it is here and may answer.

        Raises:
            NotCoordinatorError: Another node's.
            CoordinatorLoadInProgressError: Not yet.
        """
        groups = self._led.get(self.partition_of(group))
        if groups is None:
            raise NotCoordinatorError(
                f"another node coordinates group {group!r}", field="group", value=group
            )
        groups.check_ready()
        return groups

    def partition_of(self, group: GroupId) -> PartitionIndex:
        """Return the partition of `__consumer_offsets` that holds a group.

        Raises:
            CoordinatorNotAvailableError: There is no such topic yet.
        """
        topic = self._cluster.image.topic_named(CONSUMER_OFFSETS)
        if topic is None:
            raise CoordinatorNotAvailableError("no group was ever coordinated in this cluster")
        return coordinator_partition(group, len(topic.partitions))

    def all(self) -> Iterable[PartitionGroups]:
        """Return every coordinator here."""
        return tuple(self._led.values())

    # Inside

    def _start(self, groups: PartitionGroups) -> None:
        if self._tasks is not None:
            name = f"groups of {CONSUMER_OFFSETS}-{groups.partition}"
            self._runs[groups] = self._tasks.create_task(groups.run(), name=name)

    async def _tick(self) -> None:
        interval_s = self.times.reconnect_grace_s / _TICKS_IN_GRACE
        clean_up_at_s = self._clock.now_s() + _CLEAN_UP_INTERVAL_S
        while True:
            await asyncio.sleep(interval_s)
            for groups in self.all():
                groups.tick()
            if self._clock.now_s() >= clean_up_at_s:
                clean_up_at_s = self._clock.now_s() + _CLEAN_UP_INTERVAL_S
                for groups in self.all():
                    groups.clean_up()

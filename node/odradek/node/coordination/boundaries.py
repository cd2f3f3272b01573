"""What coordination needs of the rest of the node."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from odradek.node.cluster.image import ClusterImage
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import LeaderEpoch, Offset, PartitionIndex
from odradek.v1 import controller_pb2


class InternalPartition(Protocol):
    """The leader role of one partition of `__consumer_offsets`, for one leader epoch."""

    @property
    def leader_epoch(self) -> LeaderEpoch:
        """The epoch under which this node leads."""
        ...

    @property
    def log_start_offset(self) -> Offset:
        """The first offset there is."""
        ...

    @property
    def high_watermark(self) -> Offset:
        """The end of what is committed; exclusive."""
        ...

    async def append(self, batch: bytes) -> Offset:
        """Append one batch; return its base offset once it is committed.

        Raises:
            BrokerError: It was not appended, or its outcome is unknown.
        """
        ...

    async def read(self, offset: Offset, max_bytes: int) -> list[memoryview | bytes]:
        """Return whole batches from the one with `offset` on, below the high watermark.

        Empty only at the high watermark; the first batch may be larger than `max_bytes`.
        """
        ...

    async def confirm_leadership(self) -> None:
        """Return once this node is known to lead still.

        By then, what stood in the log at its election lies below the high watermark.

        Raises:
            NotLeaderOrFollowerError: It does not lead any more, or cannot know.
        """
        ...


class GroupController(Protocol):
    """The active controller."""

    async def change_groups(
        self,
        coordinator_partition: PartitionIndex,
        leader_epoch: LeaderEpoch,
        changes: list[controller_pb2.GroupChange],
    ) -> list[BrokerError | None]:
        """Have changes of groups decided, in order.

        Returns once the result is committed *and* `on_groups` has been called with an image at or
        after it: a member must not be shown what was before its own join.

        Returns:
            One entry a change: why it was refused, or None.

        Raises:
            NotCoordinatorError: Another node, or another leader epoch, coordinates these groups.
            InvalidRequestError: The command as a whole is refused; nothing was decided.
            OdradekError: Outcome unknown; the same changes may be sent again.
        """
        ...

    async def create_internal_topic(self, name: str) -> None:
        """Create an internal topic unless it exists; return once this node's image has it."""
        ...


class ClusterSource(Protocol):
    """The cluster image in force."""

    @property
    def image(self) -> ClusterImage:
        """The newest image."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """The two times coordination lives in."""

    now_s: Callable[[], float]
    """Monotonic seconds: sessions and timers."""
    wall_s: Callable[[], float]
    """Seconds since the epoch: what is written into records."""

    def wall_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return int(self.wall_s() * 1000)

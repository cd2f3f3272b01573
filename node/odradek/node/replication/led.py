"""A partition as its leader sees it during one leader epoch; what coordinators are given.

Problem: a coordinator that has not noticed yet that its partition was led elsewhere meanwhile must
not append under the new epoch. Idea: a handle that is good for one epoch only.
"""

from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.replicas import Replicas
from odradek.protocol.errors import NotLeaderOrFollowerError, StorageFullError
from odradek.protocol.types import LeaderEpoch, Offset


class LedPartition:
    """A replica this node leads, until its epoch ends."""

    def __init__(self, replicas: Replicas, replica: PartitionReplica) -> None:
        assert replica.is_leader
        self.leader_epoch: LeaderEpoch = replica.leader_epoch
        self._replicas = replicas
        self._replica = replica

    @property
    def log_start_offset(self) -> Offset:
        """The first offset there is."""
        return self._replica.log_start_offset

    @property
    def high_watermark(self) -> Offset:
        """The end of what is committed (exclusive)."""
        return self._replica.high_watermark

    async def append(self, batch: bytes) -> Offset:
        """Append one batch; return its base offset once it is committed.

        Raises:
            BrokerError: It was not appended, or its outcome is unknown.
        """
        while not self._replicas.has_room:
            await self._replicas.room()
        self._check()
        try:
            appended = self._replica.append(batch)
        except StorageFullError:
            self._replicas.storage_refused()
            raise
        self._replicas.commit_soon()
        return await appended

    async def read(self, offset: Offset, max_bytes: int) -> list[memoryview | bytes]:
        """Return whole batches from the one with `offset` on, below the high watermark.

        Raises:
            OffsetOutOfRangeError: Below the log start or beyond the log end.
        """
        self._check()
        return list(await self._replica.read(offset, max_bytes, self._replica.high_watermark))

    async def confirm_leadership(self) -> None:
        """Return once the ISR agrees that this node leads.

        Raises:
            NotLeaderOrFollowerError: It does not, or may have been replaced.
        """
        self._check()
        await self._replica.confirm_leadership()
        self._check()

    def _check(self) -> None:
        replica = self._replica
        if not replica.is_leader or replica.leader_epoch != self.leader_epoch:
            raise NotLeaderOrFollowerError(
                f"partition {replica} is no longer led here in epoch {self.leader_epoch}",
                field="leader_epoch",
                value=self.leader_epoch,
                limit=replica.leader_epoch,
            )

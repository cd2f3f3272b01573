"""Refusing writes before the disk is full. Pure.

Problem: RocksDB does not survive a full disk in one piece: once a background write fails, the
store has to be reopened. Idea: keep a reserve free. The free space is measured several times a
second and, between measurements, reduced by what was written, counted double because RocksDB writes
each byte into its log and into a table. Below the reserve appends are refused; reads, deletions and
small state go on and find room in the reserve.

Invariant: appends are admitted only while the estimate stays at or above the reserve.
"""

from dataclasses import dataclass

from odradek.protocol.errors import StorageFullError

WRITE_AMPLIFICATION = 2


@dataclass(slots=True)
class Space:
    """What is known of the disk's free space.

    Attributes:
        reserve_bytes: Kept free.
        free_bytes: Estimate; at the last measurement, less what was written since.
    """

    reserve_bytes: int
    free_bytes: int = 0

    @property
    def is_short(self) -> bool:
        """Whether appends are refused at the moment."""
        return self.free_bytes < self.reserve_bytes

    def on_measured(self, free_bytes: int) -> None:
        """Take a fresh measurement."""
        self.free_bytes = free_bytes

    def on_written(self, written_bytes: int) -> None:
        """Count what was written since."""
        self.free_bytes -= WRITE_AMPLIFICATION * written_bytes

    def admit(self, append_bytes: int) -> None:
        """Let an append pass.

        Raises:
            StorageFullError: It would eat into the reserve; nothing was written.
        """
        if self.free_bytes - WRITE_AMPLIFICATION * append_bytes < self.reserve_bytes:
            raise StorageFullError(
                f"{max(self.free_bytes, 0)} bytes are free on the node's disk, "
                f"{self.reserve_bytes} are kept in reserve",
                field="free_bytes",
                value=max(self.free_bytes, 0),
                limit=self.reserve_bytes,
            )

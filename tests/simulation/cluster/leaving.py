"""A node that was told to stop, as by SIGTERM: others lead first, then it ends in good order."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode

_GRACE_S = 10.0


@dataclass(slots=True)
class Leaving:
    """What is left of one life of a node."""

    node: "SimulatedNode"

    def begin(self) -> None:
        """Have the leaderships moved, for as long as that may take."""
        self.node.leaving = self
        if self.node.session.fenced:
            self._end()  # it leads nothing
            return
        self.node.poke()
        self.node.after(_GRACE_S, self._end)

    def on_allowed(self) -> None:
        """The controllers have moved whatever could move."""
        self.node.world.oracle.met["controlled stops"] += 1
        self._end()

    def _end(self) -> None:
        node = self.node
        for replica in node.replicas.values():
            replica.log.checkpoint(min(replica.high_watermark, replica.log.log_end_offset))
            replica.remove()
        node.disk.synced(node.disk.appended)
        node.die()

"""The node's end of a client's stream: every request finds its replica or coordinator."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster.clients import Fetch, Produce
from tests.simulation.cluster.groups import CommitOffset, FetchOffset, MemberSays
from tests.simulation.cluster.network import Half

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode


@dataclass(slots=True)
class ClientEnd:
    """The node's end of a client's stream."""

    node: "SimulatedNode"
    half: Half

    def on_frame(self, frame: Any) -> None:
        """A request."""
        node = self.node
        match frame:
            case Produce():
                replica = node.replicas.get(frame.uid)
                if replica is not None:
                    replica.produce(self.half, frame)
            case Fetch():
                replica = node.replicas.get(frame.uid)
                if replica is not None:
                    replica.fetch(self.half, frame)
            case MemberSays():
                coordinator = node.coordinator_of(frame.frame.group)
                if coordinator is not None:
                    coordinator.on_member(self.half, frame)
                else:
                    self.half.close()
            case CommitOffset() | FetchOffset():
                coordinator = node.coordinator_of(frame.group)
                if coordinator is None:
                    self.half.close()
                elif isinstance(frame, CommitOffset):
                    coordinator.commit(self.half, frame)
                else:
                    coordinator.fetch(self.half, frame)
            case _:
                raise AssertionError(f"nobody knows {frame}")

    def on_broken(self) -> None:
        """The client is gone."""
        for coordinator in self.node.coordinators.values():
            coordinator.on_half_broken(self.half)

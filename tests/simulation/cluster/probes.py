"""Proof of leadership: a leader asks every other member of the ISR whether it still follows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from odradek.protocol.errors import BrokerError, NotLeaderOrFollowerError
from odradek.protocol.types import NodeId
from tests.simulation.cluster.frames import Probe

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode
    from tests.simulation.cluster.replica import SimulatedReplica

_TIMEOUT_S = 1.0

Done = Callable[[BrokerError | None], None]


@dataclass(slots=True)
class _Probing:
    waits_for: set[NodeId]
    done: Done


class Probes:
    """The probes of one node in one life."""

    def __init__(self, node: "SimulatedNode", send: Callable[[NodeId, Probe], None]) -> None:
        self._node = node
        self._send = send
        self._under_way: dict[int, _Probing] = {}
        self._number = 0

    def begin(self, replica: "SimulatedReplica", done: Done) -> None:
        """Ask; `done` learns whether all have answered in time."""
        leader = replica.leader
        assert leader is not None
        others = {member for member in leader.maximal_isr if member != self._node.node_id}
        if not others:
            done(self._node.session.lapsed(self._node.now_s))
            return
        self._number += 1
        number = self._number
        self._under_way[number] = _Probing(others, done)
        for member in others:
            self._send(member, Probe(replica.uid, leader.leader_epoch, number))
        self._node.after(_TIMEOUT_S, partial(self._give_up, number))

    def on_followed(self, member: NodeId, number: int) -> None:
        """A member still follows."""
        probing = self._under_way.get(number)
        if probing is None:
            return
        probing.waits_for.discard(member)
        if not probing.waits_for:
            del self._under_way[number]
            probing.done(None)

    def _give_up(self, number: int) -> None:
        probing = self._under_way.pop(number, None)
        if probing is not None:
            probing.done(NotLeaderOrFollowerError("the ISR does not answer"))

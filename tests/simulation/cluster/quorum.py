"""What Raft promises, without Raft: one log, one leader a term, deposed leaders' last commands."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from odradek.controller.state.decide import NodeReply, Request
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.records import Command, Partition, Record
from odradek.protocol.types import NodeId, PartitionUid
from tests.simulation.cluster.events import Scheduler
from tests.simulation.cluster.network import Network

if TYPE_CHECKING:
    from tests.simulation.cluster.controllers import SimulatedController


Told = Callable[[Request, dict[PartitionUid, Partition], ClusterImage], None]
"""Told of a decision: what was asked, the partitions before, and everything after."""


@dataclass(slots=True)
class _Proposal:
    controller: "SimulatedController"
    term: int
    command: Command | None
    done: Callable[[bool | None], None]


class Quorum:
    """The replicated log."""

    def __init__(self, scheduler: Scheduler, network: Network, chance: Random) -> None:
        self.scheduler = scheduler
        self.network = network
        self.chance = chance
        self.controllers: list[SimulatedController] = []
        self.committed: list[Command | None] = []
        self.replies: dict[bytes, NodeReply] = {}
        self.on_committed: list[Callable[[ClusterImage, tuple[Record, ...]], None]] = []
        self.on_decided: list[Told] = []
        self.watch_lag_s: Callable[[NodeId], float] = lambda _: 0.0
        self.term = 0
        self.leader: SimulatedController | None = None
        self._under_way: list[_Proposal] = []
        self._missed_since_s: float | None = 0.0

    def reaches_majority(self, controller: "SimulatedController") -> bool:
        """Whether a controller can exchange messages with more than half of all."""
        if not controller.is_up or controller.is_paused:
            return False
        cut = self.network.is_cut
        near = 0
        for other in self.controllers:
            near += other is controller or (
                other.is_up
                and not other.is_paused
                and not cut(controller, other)
                and not cut(other, controller)
            )
        return 2 * near > len(self.controllers)

    def propose(
        self,
        controller: "SimulatedController",
        term: int,
        command: Command | None,
        done: Callable[[bool | None], None],
    ) -> None:
        """Commit a command, or with None a barrier; `done` learns whether it was accepted."""
        proposal = _Proposal(controller, term, command, done)
        self._under_way.append(proposal)
        self._try_later(proposal)

    def _try_later(self, proposal: _Proposal) -> None:
        delay_s = 0.001 + self.chance.random() * 0.01
        self.scheduler.after(delay_s, lambda: self._try(proposal))

    def _try(self, proposal: _Proposal) -> None:
        if proposal not in self._under_way:
            return
        if proposal.term != self.term:
            self._under_way.remove(proposal)
            proposal.controller.after(0.001, lambda: proposal.done(None))
        elif self.reaches_majority(proposal.controller):
            self._under_way.remove(proposal)
            accepted = self._commit(proposal.controller, proposal.command)
            proposal.controller.after(0.0005, lambda: proposal.done(accepted))
        else:
            self._try_later(proposal)

    def _commit(self, leader: "SimulatedController", command: Command | None) -> bool:
        self.committed.append(command)
        accepted = leader.catch_up()
        records = command.records if accepted and command is not None else ()
        for told in self.on_committed:
            told(leader.image, records)
        return accepted

    def on_leader_gone(self, controller: "SimulatedController") -> None:
        """A leader has died, or does not lead any more."""
        if self.leader is controller:
            self.leader = None

    def check_leader(self) -> None:
        """Elect when nobody leads who could."""
        leader = self.leader
        if leader is not None and self.reaches_majority(leader):
            self._missed_since_s = None
            return
        now_s = self.scheduler.now_s
        if self._missed_since_s is None:
            self._missed_since_s = now_s
        if now_s - self._missed_since_s < 0.3 + self.chance.random() * 0.7:
            return
        able = [each for each in self.controllers if self.reaches_majority(each)]
        if able:
            self._elect(self.chance.choice(able))

    def _elect(self, controller: "SimulatedController") -> None:
        for proposal in self._under_way:
            # A majority may have stored it before its leader fell silent.
            if proposal.term == self.term and self.chance.random() < 0.5:
                controller.catch_up()
                self._commit(controller, proposal.command)
            proposal.controller.after(0.5, partial(proposal.done, None))
        self._under_way.clear()
        self.term += 1
        self.leader = controller
        self._missed_since_s = None
        controller.lead(self.term)

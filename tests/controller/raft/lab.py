"""Controllers under a microscope: every message is delivered, held or dropped by hand.

For regressions that need one exact order of events; the simulator looks for orders that nobody
thought of.
"""

import random
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

from odradek.controller.raft.core import Applied, Failure, Proposal, RaftCore
from odradek.controller.raft.interface import RaftOptions
from odradek.controller.raft.messages import Message
from odradek.controller.raft.storage import Storage, open_storage
from odradek.protocol.types import ControllerId
from tests.simulation.raft.cluster import DelayedExecutor
from tests.simulation.raft.disk import SimulatedDisk
from tests.simulation.raft.history import History, RecordingMachine

Outcomes = list[Applied | Failure]


class Lab:
    """A few controllers, one clock, and a queue per ordered pair."""

    def __init__(
        self,
        count: int,
        *,
        core_class: type[RaftCore] = RaftCore,
        founded: bool = True,
        **options: Any,
    ) -> None:
        self.now_s = 1000.0
        self.history = History()
        self.core_class = core_class
        self.overrides = options
        self.starts = 0
        self.ids = [ControllerId(i) for i in range(count)]
        self.disks = {i: SimulatedDisk(random.Random(i)) for i in self.ids}
        self.queues: dict[tuple[int, int], deque[Message]] = {
            (a, b): deque() for a in self.ids for b in self.ids if a != b
        }
        self.cores: dict[int, RaftCore] = {}
        self.storages: dict[int, Storage] = {}
        self.machines: dict[int, RecordingMachine] = {}
        self.executors: dict[int, DelayedExecutor] = {}
        for i in self.ids:
            self.start(i)
        if founded:
            self.found()

    def found(self) -> None:
        """Let all controllers meet, and begin the cluster."""
        self.now_s += 0.1
        self.exchange(*self.ids, rounds=2)
        assert all(core.status().is_voter for core in self.cores.values())
        for queue in self.queues.values():
            queue.clear()

    def replace_disk(self, i: int, *, rejoin: bool = False) -> RaftCore:
        """Start a controller anew with an empty disk."""
        self.disks[ControllerId(i)] = SimulatedDisk(random.Random(i))
        return self.restart(i, rejoin=rejoin)

    def restart(self, i: int, *, rejoin: bool = False) -> RaftCore:
        """Kill a controller and start it; what others sent to it is lost."""
        for (_, receiver), queue in self.queues.items():
            if receiver == i:
                queue.clear()
        return self.start(i, rejoin=rejoin)

    def start(self, i: int, *, rejoin: bool = False) -> RaftCore:
        self.starts += 1
        options = RaftOptions(
            cluster_id="lab",
            self_id=ControllerId(i),
            peers={other: "" for other in self.ids if other != i},
            data_directory=Path("/raft"),
            bootstrap=not rejoin,
            rejoin=rejoin,
            **self.overrides,
        )
        self.executors[i] = DelayedExecutor()
        storage = open_storage(
            self.disks[ControllerId(i)], options, self.executors[i], unique_number=self.starts
        )
        machine = RecordingMachine(self.history)
        core = self.core_class(
            options=options,
            storage=storage,
            machine=machine,
            send=partial(self._send, i),
            clock=lambda: self.now_s,
            rng=random.Random(self.starts),
        )
        for other in self.ids:
            if other != i:
                core.connected(other)
        self.cores[i], self.storages[i], self.machines[i] = core, storage, machine
        return core

    def _send(self, sender: int, receiver: ControllerId, message: Message) -> None:
        self.queues[sender, receiver].append(message)

    def deliver(self, sender: int, receiver: int, count: int | None = None) -> int:
        """Deliver what is queued on one link, at most `count`; the receiver then steps."""
        queue = self.queues[sender, receiver]
        delivered = 0
        while queue and delivered != count:
            self.cores[receiver].deliver(ControllerId(sender), queue.popleft())
            delivered += 1
        self.cores[receiver].step()
        return delivered

    def drop(self, sender: int, receiver: int) -> None:
        self.queues[sender, receiver].clear()

    def exchange(self, *members: int, rounds: int = 4) -> None:
        """Let some controllers talk among themselves."""
        for _ in range(rounds):
            for a in members:
                self.cores[a].step()
            for a in members:
                for b in members:
                    if a != b:
                        self.deliver(a, b)

    def elect(self, who: int, *voters: int) -> None:
        """Let a controller win an election by these voters' votes."""
        self.now_s += 1.0
        core = self.cores[who]
        core._SyncObj__raftElectionDeadline = self.now_s - 1
        for voter in voters:
            self.cores[voter]._SyncObj__raftElectionDeadline = self.now_s + 1e6
        for _ in range(2):  # the pre-vote, then the vote
            core.step()
            for voter in voters:
                if not core._leads:
                    self.deliver(who, voter)
                    self.deliver(voter, who)
        assert core._leads, f"{who} was not elected"

    def heartbeat(self, *members: int) -> None:
        """Let heartbeats become due, and be answered."""
        self.now_s += 0.1
        self.exchange(*members)

    def propose(self, who: int, command: bytes, *, term: int | None = None) -> Outcomes:
        """Propose; the list receives the outcome."""
        outcomes: Outcomes = []
        self.cores[who].submit([Proposal(command, term, outcomes.append)])
        self.cores[who].step()
        return outcomes

    def log_of(self, who: int) -> list[tuple[int, int]]:
        """Index and term of each entry."""
        return [(entry.log_index, entry.term) for entry in self.storages[who].journal[:]]

"""A cluster of the production classes under simulated time, chance, disks and network.

One seed is one run: some seconds of faults (crashes with and without power loss, at any disk
operation; partitions, one-way cuts, pauses; replaced disks, before the cluster was founded, too),
then everything is healed and the cluster must agree on all it ever acknowledged, and go on.
"""

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from odradek.controller.raft.core import Applied, Failure, Proposal, RaftCore
from odradek.controller.raft.interface import RaftOptions
from odradek.controller.raft.journal import Journal
from odradek.controller.raft.messages import Message
from odradek.controller.raft.storage import Storage, open_storage
from odradek.protocol.types import ControllerId
from tests.simulation.raft.disk import PowerLossError, SimulatedDisk
from tests.simulation.raft.history import (
    History,
    InvariantBrokenError,
    RecordingMachine,
    check,
    check_log_matching,
)
from tests.simulation.raft.nemesis import Nemesis
from tests.simulation.raft.network import Network
from tests.simulation.registry import Report

EVENTS = ()
STEP_S = 0.01
FAULTY_S = 10.0
HEALING_S = 15.0


class DelayedExecutor(Executor):
    """Runs what was submitted when the cluster says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.waiting.append((future, partial(function, *args, **kwargs)))
        return future

    def run(self) -> None:
        while self.waiting:
            future, function = self.waiting.pop(0)
            future.set_result(function())


@dataclass(slots=True)
class Member:
    """One controller: a disk, and a process when it runs."""

    id: ControllerId
    disk: SimulatedDisk
    core: RaftCore | None = None
    storage: Storage | None = None
    executor: DelayedExecutor = field(default_factory=DelayedExecutor)
    paused_until_s: float = 0.0
    down_until_s: float = 0.0
    is_replaced: bool = False
    rejoins: bool = False  # what its command line says; else it says bootstrap, as at first
    next_tick_s: float = 0.0


class Cluster:
    def __init__(
        self,
        seed: int,
        *,
        core_class: type[RaftCore] = RaftCore,
        lying_disks: bool = False,
        members: int | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.core_class = core_class
        self.lying_disks = lying_disks
        self.now_s = 100.0
        self.starts = 0
        self.proposals = 0
        self.is_proposing = True
        self.loyal_to: ControllerId | None = None  # the one controller that clients propose to
        self.nemesis = Nemesis(self)
        self.history = History()
        count = members or self.chance.choice([1, 3, 3, 3, 3, 5])
        ids = [ControllerId(i) for i in range(count)]
        self.members = {i: Member(i, SimulatedDisk(self.chance, lies=lying_disks)) for i in ids}
        self.network = Network(self.chance, ids)
        self.snapshot_after = self.chance.choice([8, 30, 100, 10_000])
        self.retained = self.chance.choice([0, 3, 20])
        self.faults_per_s = self.chance.choice([0.5, 1.5, 4.0])
        for member in self.members.values():
            self.start(member)

    # Processes.

    def options(self, member: Member) -> RaftOptions:
        return RaftOptions(
            cluster_id="simulated",
            self_id=member.id,
            peers={other: "" for other in self.members if other != member.id},
            data_directory=Path("/raft"),
            bootstrap=not member.rejoins,
            rejoin=member.rejoins,
            snapshot_after_entries=self.snapshot_after,
            retained_entries=self.retained,
            leader_contact_timeout_s=1.0,
        )

    def start(self, member: Member) -> None:
        self.starts += 1
        member.executor = DelayedExecutor()
        options = self.options(member)
        try:
            member.storage = open_storage(
                member.disk, options, member.executor, unique_number=self.starts
            )
            member.core = self.core_class(
                options=options,
                storage=member.storage,
                machine=RecordingMachine(self.history),
                send=partial(self.send, member),
                clock=lambda: self.now_s,
                rng=self.chance,
            )
        except PowerLossError:
            self.stop(member, power_loss=True)

    def stop(self, member: Member, *, power_loss: bool) -> None:
        member.core = None
        if power_loss:
            member.disk.lose_power()
        else:
            member.disk.survive_kill()
        member.down_until_s = self.now_s + self.chance.choice([0.0, 0.3, 3.0])
        self.network.forget(member.id, sent=False)

    def replace_disk(self, member: Member) -> None:
        self.stop(member, power_loss=False)
        member.disk = SimulatedDisk(self.chance, lies=self.lying_disks)
        member.storage = None
        member.is_replaced = True
        member.rejoins = self.chance.random() < 0.3
        self.history.recorded.pop(member.id, None)
        self.network.forget(member.id, sent=True)

    def send(self, member: Member, receiver: ControllerId, message: Message) -> None:
        if member.core is None:
            return
        self.network.send(member.id, receiver, message, self.now_s)

    # Time.

    def run(self) -> None:
        """Run the seed.

        Raises:
            InvariantBrokenError: It found a bug.
        """
        end_s = self.now_s + FAULTY_S
        while self.now_s < end_s:
            if not self.nemesis.plans and self.chance.random() < self.faults_per_s * STEP_S:
                self.nemesis.cause_fault()
            self.advance()
        self.heal()
        end_s = self.now_s + HEALING_S
        while not self.has_converged():
            check(self.now_s < end_s, "the healed cluster does not converge")
            self.advance()
        self.history.on_end()

    def advance(self) -> None:
        self.now_s += STEP_S
        self.nemesis.follow_plans()
        for member in self.members.values():
            if member.core is None:
                if self.now_s >= member.down_until_s:
                    self.start(member)
            elif self.now_s >= member.paused_until_s:
                self.run_member(member)
        if self.chance.random() < 0.05:
            self.compare_logs()

    def run_member(self, member: Member) -> None:
        core, storage = member.core, member.storage
        assert core is not None
        assert storage is not None
        alive = {other.id for other in self.members.values() if other.core is not None}
        try:
            for peer, is_up in self.network.changes(member.id, alive, self.now_s):
                (core.connected if is_up else core.disconnected)(peer)
            arrived = self.network.arrived(member.id, self.now_s)
            for sender, message in arrived:
                core.deliver(sender, message)
            proposed = self.propose(member, core)
            if arrived or proposed or self.now_s >= member.next_tick_s:
                member.next_tick_s = self.now_s + 0.02
                core.step()
            if member.executor.waiting and self.chance.random() < 0.1:
                member.executor.run()
        except PowerLossError:
            self.stop(member, power_loss=True)
        else:
            self.history.on_step(member.id, core, storage.journal)
            if core._leads:
                self.check_matches(core, storage.journal)
                if core.commit_index > self.history.committed_index:
                    self.check_quorum(core, storage.journal)

    def check_matches(self, core: RaftCore, journal: Journal) -> None:
        """What a leader believes of a follower that has not left it is so."""
        for peer, node in core._peers.items():
            member = self.members[peer]
            index = core._SyncObj__raftMatchIndex[node]
            if member.storage is None or index <= journal.first_index:
                continue
            state, theirs = member.storage.hard_state.state, member.storage.journal
            if state.term > core.term or state.rejoin_nonce or theirs.first_index > index:
                continue
            same = theirs.durable_index >= index and theirs.term_at(index) == journal.term_at(index)
            check(same, f"matching: {peer} does not have {index} of term {core.term}'s leader")

    def check_quorum(self, core: RaftCore, journal: Journal) -> None:
        index = core.commit_index
        holders = 0
        for member in self.members.values():
            if member.storage is None or member.storage.hard_state.state.rejoin_nonce:
                holders += member.is_replaced  # its lost disk may have held it when it counted
                continue
            theirs = member.storage.journal
            same = theirs.first_index > index or theirs.term_at(index) == journal.term_at(index)
            holders += same and theirs.durable_index >= index
        check(2 * holders > len(self.members), f"commitment: {holders} controllers have {index}")
        self.history.committed_index = index

    def compare_logs(self) -> None:
        journals = [
            member.storage.journal
            for member in self.members.values()
            if member.core is not None and member.storage is not None
        ]
        if len(journals) > 1:
            check_log_matching(*self.chance.sample(journals, 2))

    # Clients.

    def propose(self, member: Member, core: RaftCore) -> int:
        count = self.chance.choice([0, 0, 0, 0, 0, 0, 1, 3]) if self.is_proposing else 0
        if self.loyal_to not in {None, member.id}:
            return 0
        if count and not core._leads and self.chance.random() < 0.9:
            return 0
        for _ in range(count):
            if self.chance.random() < 0.1:
                self.propose_barrier(core)
                continue
            self.proposals += 1
            command = b"%d" % self.proposals
            if self.chance.random() < 0.002:
                command = command.ljust(400_000)
            term = self.chance.choice([None, core.term, core.term - 1])
            core.submit([Proposal(command, term, partial(self.on_outcome, command))])
        return count

    def on_outcome(self, command: bytes, outcome: Applied | Failure) -> None:
        if isinstance(outcome, Applied):
            check(outcome.answer == b"%d" % outcome.index, "the wrong answer")
            self.history.on_acknowledged(command, outcome.index)
        elif outcome is Failure.NOT_LEADER:
            self.history.refused.add(command)

    def propose_barrier(self, core: RaftCore) -> None:
        before = self.history.acknowledged_index

        def on_outcome(outcome: Applied | Failure) -> None:
            if isinstance(outcome, Applied):
                check(outcome.index > before, "a barrier missed an acknowledged command")
                check(core.raftLastApplied >= before, "a barrier came before its state")

        core.submit([Proposal(None, None, on_outcome)])

    def can_lose(self) -> bool:
        """Whether the cluster bears that one more disk is lost: a minority at a time.

        Before there was a leader a minority of all disks; then those without a vote count, too.
        """
        minority = (len(self.members) - 1) // 2
        if not self.history.leaders:
            return sum(member.is_replaced for member in self.members.values()) < minority
        voters = [m for m in self.members.values() if m.core and m.core.status().is_voter]
        return len(self.members) - len(voters) < minority

    def heal(self) -> None:
        self.network.mend()
        self.network.release()
        self.network.is_hostile = False
        self.is_proposing = False
        self.nemesis.plans.clear()
        self.loyal_to = None
        self.network.tail_s = 0.0
        for member in self.members.values():
            member.disk.fuse = None
            member.paused_until_s = member.down_until_s = 0.0

    def has_converged(self) -> bool:
        """Whether all are up, have their votes, and have applied the same, to the end."""
        statuses = [m.core.status() for m in self.members.values() if m.core is not None]
        if len(statuses) < len(self.members) or not all(one.is_voter for one in statuses):
            return False
        ends = {(one.applied_index, one.last_index) for one in statuses}
        leads = any(one.leadership.is_leader for one in statuses)
        return leads and len(ends) == 1 and all(a == b for a, b in ends)


def run_seed(
    seed: int,
    *,
    core_class: type[RaftCore] = RaftCore,
    lying_disks: bool = False,
    members: int | None = None,
) -> Report:
    """Run one seed.

    Raises:
        InvariantBrokenError: It found a bug; the message names the invariant.
    """
    cluster = Cluster(seed, core_class=core_class, lying_disks=lying_disks, members=members)
    try:
        cluster.run()
    except InvariantBrokenError:
        raise
    except Exception as error:
        raise InvariantBrokenError(f"{type(error).__name__}: {error}") from error
    return Report(
        f"{len(cluster.members)} controllers, {cluster.starts} starts, "
        f"{len(cluster.history.leaders)} leaders, {cluster.proposals} proposals, "
        f"{len(cluster.history.acknowledged)} acknowledged"
    )

# ruff: noqa: ARG002, N802, N803 - the signatures of overridden methods are pysyncobj's
"""pysyncobj's Raft with our own log matching, guards and storage; single-threaded, no I/O but disk.

Problem: PySyncObj 0.3.17 elects leaders soundly, but loses or falsely acknowledges data around that
(see docs/decisions). Idea: keep its elections, its commit rule and its tick; override the rest.
Whoever owns a `RaftCore` calls `deliver`, `submit`, `connected`, `disconnected` and then `step`,
from one thread; a simulation does the same with a simulated clock, disk and network.

Invariants:
- A vote, an acknowledgement or a commitment leaves only after what it vouches for is durable here.
- The follower commits no more than the leader has shown to match.
- Messages of other terms change nothing but, if newer, the term.
- A controller with a fresh disk, unless it founds, neither votes nor counts before a no-op that its
  leader appended after hearing from it was committed without it: then a quorum of the others is at
  this term, and no promise of the lost disk can be broken.
- `submit`ted proposals are resolved exactly once; with success only after they were applied here.

Source: Ongaro and Ousterhout 2014; Ongaro's thesis, 4.2.3 and 9.6 (pre-vote, disruptive servers).
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

from pysyncobj import FAIL_REASON

from odradek.controller.raft.agreement import Disagreement, append_entries
from odradek.controller.raft.interface import Leadership, RaftOptions, RaftStatus, StateMachine
from odradek.controller.raft.messages import (
    COMMAND_PREFIX,
    NO_OP,
    AppendAnswer,
    AppendEntries,
    InstallSnapshot,
    Message,
    SnapshotAnswer,
)
from odradek.controller.raft.progress import LeaderView, Progress
from odradek.controller.raft.snapshots import IncomingSnapshot
from odradek.controller.raft.storage import Storage
from odradek.controller.raft.voting import Send, VotingRaft
from odradek.protocol.types import ControllerId

IDLE_S_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Applied:
    """The proposal is committed and applied."""

    index: int
    answer: bytes


class Failure(Enum):
    """Why a proposal was not applied here."""

    NOT_LEADER = auto()  # certainly not in the log
    UNKNOWN = auto()  # may be applied later


@dataclass(frozen=True, slots=True)
class Proposal:
    """A command, or with None a barrier, waiting for its outcome."""

    command: bytes | None
    term: int | None
    resolve: Callable[[Applied | Failure], None]


class RaftCore(VotingRaft):
    """One controller's Raft."""

    def __init__(
        self,
        *,
        options: RaftOptions,
        storage: Storage,
        machine: StateMachine,
        send: Send,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._snapshots = storage.snapshots
        self._machine = machine
        self._progress: dict[ControllerId, Progress] = {}
        self._answers: dict[ControllerId, AppendAnswer] = {}  # to send once the journal is synced
        self._proposals: list[Proposal] = []
        self._incoming = IncomingSnapshot()
        self._bytes_at_snapshot = storage.journal.size_bytes
        super().__init__(options=options, storage=storage, send=send, clock=clock, rng=rng)
        if storage.snapshot is not None:
            machine.restore(storage.snapshot.state, storage.snapshot.index)
            self._SyncObj__raftLastApplied = storage.snapshot.index

    # What the owner calls.

    def deliver(self, sender: ControllerId, message: Message) -> None:
        """Take a message of a peer's current connection."""
        self._SyncObj__onMessageReceived(self._peers[sender], message)

    def connected(self, peer: ControllerId) -> None:
        """Messages to `peer` arrive from now on, in order, until `disconnected`."""
        if peer in self._progress:
            self._progress[peer].on_connected()
        self._SyncObj__onNodeConnected(self._peers[peer])

    def disconnected(self, peer: ControllerId) -> None:
        """Messages to `peer` are lost, some sent before perhaps too."""
        self._SyncObj__onNodeDisconnected(self._peers[peer])

    def submit(self, proposals: Iterable[Proposal]) -> None:
        """Hand over proposals for the next step."""
        self._proposals.extend(proposals)

    def step(self) -> None:
        """Do all that is due: acknowledge, elect, commit, apply, replicate, sync, compact."""
        self._flush_answers()
        self.doTick(0.0)
        self._journal.sync()  # while the followers sync theirs
        self._journal.mark_when_quiet(self._clock())
        if not self._peers and self.commit_index < self._journal.last_index:
            self.doTick(0.0)

    def idle_s(self) -> float:
        """How long, if nothing arrives, there is nothing to do."""
        if self._leads:
            due_s = self._SyncObj__newAppendEntriesTime
        else:
            due_s = self._SyncObj__raftElectionDeadline
        shortest_s = self._options.tick_interval_s
        longest_s = shortest_s if self._snapshots.is_writing else IDLE_S_MAX
        return float(max(shortest_s, min(longest_s, due_s - self._clock())))

    def fail_pending(self) -> None:
        """Resolve every proposal that has no outcome yet: it has become unknown."""
        waiting: dict[int, list[Any]] = self._SyncObj__commandsWaitingCommit
        while waiting:
            _index, callbacks = waiting.popitem()
            for _term, callback in callbacks:
                callback(None, FAIL_REASON.LEADER_CHANGED)

    def close(self) -> None:
        """Resolve everything and release the journal; the last call."""
        proposals, self._proposals = self._proposals, []
        for proposal in proposals:
            proposal.resolve(Failure.NOT_LEADER)
        self.fail_pending()
        self.destroy()

    def leadership(self) -> Leadership:
        """Who leads. A leader says so only when its own no-op is applied."""
        leader = self._SyncObj__raftLeader
        is_leader = self._leads and self.raftLastApplied >= self._SyncObj__noopIDx
        leader_id = None if leader is None else ControllerId(leader.id)
        return Leadership(self.term, is_leader, leader_id)

    def status(self) -> RaftStatus:
        """Return the counters."""
        return RaftStatus(
            leadership=self.leadership(),
            is_voter=self._is_voter,
            commit_index=self.commit_index,
            applied_index=self.raftLastApplied,
            first_index=self._journal.first_index,
            last_index=self._journal.last_index,
            snapshot_index=self._snapshots.index,
            journal_bytes=self._journal.size_bytes,
        )

    # Messages.

    def _SyncObj__onMessageReceived(self, node: Any, message: Message) -> None:
        match message:
            case AppendEntries():
                self._on_append_entries(node, message)
            case InstallSnapshot():
                self._on_install_snapshot(node, message)
            case AppendAnswer() | SnapshotAnswer():
                self._on_answer(node, message)
            case _:
                super()._SyncObj__onMessageReceived(node, message)

    def _on_append_entries(self, node: Any, message: AppendEntries) -> None:
        nonce = self._hard_state.state.rejoin_nonce
        if message.term < self.term:
            self._send(node.id, AppendAnswer(self.term, success=False, index=0, rejoin_nonce=nonce))
            return
        self._accept_leader(node, message.term)
        outcome = append_entries(self._journal, message)
        if isinstance(outcome, Disagreement):
            self._send(
                node.id,
                AppendAnswer(
                    self.term,
                    success=False,
                    index=message.prev_log_index,
                    next_index=outcome.next_index,
                    rejoin_nonce=nonce,
                ),
            )
            return
        self._commit(min(message.commit_index, outcome.index))
        admitted = nonce == message.rejoin_nonce and message.voter_from_index > 0
        if nonce and admitted and self.commit_index >= message.voter_from_index:
            self._hard_state.become_voter()
            nonce = 0
        earlier = self._answers.get(node.id)
        index = outcome.index if earlier is None else max(outcome.index, earlier.index)
        self._answers[node.id] = AppendAnswer(
            self.term, success=True, index=index, rejoin_nonce=nonce
        )

    def _commit(self, index: int) -> None:
        if index > self.commit_index:
            self._journal.setRaftCommitIndex(index)
            self._SyncObj__raftCommitIndex = index

    def _on_install_snapshot(self, node: Any, message: InstallSnapshot) -> None:
        nonce = self._hard_state.state.rejoin_nonce
        if message.term < self.term:
            self._send(node.id, AppendAnswer(self.term, success=False, index=0, rejoin_nonce=nonce))
            return
        self._accept_leader(node, message.term)
        if message.last_index > self.commit_index:
            if self._snapshots.is_writing and message.offset + len(message.data) == (
                message.total_bytes
            ):
                return  # the leader repeats the last piece; ours must not overtake it on disk
            waits_for = self._incoming.take(message)
            if not self._incoming.is_complete or not self._install():
                self._send(
                    node.id,
                    SnapshotAnswer(
                        self.term, message.last_index, waits_for % message.total_bytes, nonce
                    ),
                )
                return
        self._send(
            node.id,
            AppendAnswer(self.term, success=True, index=self.commit_index, rejoin_nonce=nonce),
        )

    def _install(self) -> bool:
        finished = self._incoming.finish()
        if finished is None:
            return False
        snapshot, content = finished
        self._snapshots.install(snapshot, content)
        self._journal.rebase(snapshot.index, snapshot.term)
        self._machine.restore(snapshot.state, snapshot.index)
        self._SyncObj__raftLastApplied = snapshot.index
        self._SyncObj__raftCommitIndex = snapshot.index
        self._bytes_at_snapshot = self._journal.size_bytes
        self._await_election()  # restoring took time that is not the leader's silence
        return True

    def _on_answer(self, node: Any, message: AppendAnswer | SnapshotAnswer) -> None:
        if message.term > self.term:
            self._follow_term(message.term)
        if not self._leads or message.term < self.term:
            return
        progress = self._progress[node.id]
        if isinstance(message, AppendAnswer):
            progress.on_answer(message, self._journal.last_index)
        else:
            progress.on_snapshot_answer(message, self._journal.last_index)
        counts = message.rejoin_nonce == 0
        self._SyncObj__raftMatchIndex[node] = progress.match_index if counts else 0
        if counts:
            self._SyncObj__lastResponseTime[node] = self._clock()
        elif not progress.voter_from_index:
            progress.voter_from_index = self._append(NO_OP)
        self._send_due(node)

    # Replication.

    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: ControllerId | None) -> None:
        self._flush_answers()
        super()._SyncObj__setCurrentTerm(term, votedForNodeId)

    def _SyncObj__setState(self, newState: int) -> None:
        led = self._leads
        super()._SyncObj__setState(newState)
        if led and not self._leads:
            self.fail_pending()

    def _SyncObj__onBecomeLeader(self) -> None:
        next_index = self._journal.last_index + 1
        self._progress = {peer: Progress(next_index) for peer in self._peers}
        super()._SyncObj__onBecomeLeader()

    def _append(self, entry: bytes) -> int:
        index = self._journal.last_index + 1
        self._journal.add(entry, index, self.term)
        return index

    def _SyncObj__sendAppendEntries(self) -> None:
        reachable = self._reachable()
        for node in reachable:
            self._send_due(node)
        due = (self._progress[node.id].heartbeat_due_s for node in reachable)
        idle_until_s = self._clock() + self._options.heartbeat_interval_s
        self._SyncObj__newAppendEntriesTime = min(due, default=idle_until_s)

    def _send_due(self, node: Any) -> None:
        if node not in self._SyncObj__connectedNodes:
            return
        view = LeaderView(
            term=self.term,
            commit_index=self.commit_index,
            log=self._journal,
            load_snapshot=self._snapshots.load_file,
            now_s=self._clock(),
            heartbeat_interval_s=self._options.heartbeat_interval_s,
        )
        for message in self._progress[node.id].messages_due(view):
            self._send(node.id, message)

    def _flush_answers(self) -> None:
        """Acknowledge, at the price of one fdatasync, all that arrived since the last time."""
        if not self._answers:
            return
        self._journal.sync()
        answers, self._answers = self._answers, {}
        for peer, answer in answers.items():
            self._send(peer, answer)

    # Proposing and applying.

    def _checkCommandsToApply(self) -> None:
        proposals, self._proposals = self._proposals, []
        barriers: list[Proposal] = []
        for proposal in proposals:
            if not self._leads or proposal.term not in {None, self.term}:
                proposal.resolve(Failure.NOT_LEADER)
            elif proposal.command is None:
                barriers.append(proposal)
            else:
                self._await_commit(self._append(COMMAND_PREFIX + proposal.command), [proposal])
        if barriers:
            self._await_commit(self._append(NO_OP), barriers)
        if self._leads and proposals:
            self._SyncObj__sendAppendEntries()

    def _await_commit(self, index: int, proposals: list[Proposal]) -> None:
        for proposal in proposals:
            self._SyncObj__commandsWaitingCommit[index].append(
                (self.term, partial(_resolve, proposal, index))
            )

    def _SyncObj__doApplyCommand(self, command: bytes) -> bytes:
        if command == NO_OP:
            return b""
        assert command.startswith(COMMAND_PREFIX), "the log holds no-ops and commands only"
        return self._machine.apply(self.raftLastApplied + 1, command[len(COMMAND_PREFIX) :])

    def _SyncObj__tryLogCompaction(self) -> None:
        finished = self._snapshots.finish()
        if finished is not None:
            self._journal.drop_before(finished - self._options.retained_entries)
            self._bytes_at_snapshot = self._journal.size_bytes
        if self._snapshots.is_writing:
            return
        applied = self.raftLastApplied
        grown_bytes = self._journal.size_bytes - self._bytes_at_snapshot
        if applied - self._snapshots.index < self._options.snapshot_after_entries and (
            grown_bytes < self._options.snapshot_after_bytes or applied <= self._snapshots.index
        ):
            return
        term = self._journal.term_at(applied)
        assert term is not None, "the journal keeps what is applied since its base"
        image = self._machine.capture()
        self._snapshots.begin(applied, term, partial(self._machine.serialize, image))

    # What must never run.

    def _applyCommand(self, command: bytes, callback: Any, commandType: Any = None) -> None:
        raise AssertionError("commands are submitted, never forwarded")

    def _SyncObj__sendNextNodeIdx(self, node: Any, **_: Any) -> None:
        raise AssertionError("answers carry a term")

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: FBT001
        raise AssertionError("storage loads snapshots")


def _resolve(proposal: Proposal, index: int, answer: bytes | None, reason: int) -> None:
    """Translate pysyncobj's callback. Discarded: another entry was committed in the same place."""
    if reason == FAIL_REASON.SUCCESS:
        assert answer is not None
        proposal.resolve(Applied(index, answer))
    elif reason == FAIL_REASON.DISCARDED:
        proposal.resolve(Failure.NOT_LEADER)
    else:
        proposal.resolve(Failure.UNKNOWN)

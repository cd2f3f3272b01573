# ruff: noqa: N802, N803 - the signatures of overridden methods are pysyncobj's
"""pysyncobj's elections, with pre-votes, durable promises and answers that carry a term.

Problem: PySyncObj 0.3.17 stands for election whenever its timer fires, so that a controller that
was cut off deposes a leader the others hear; it counts a repeated vote twice, never tells a
candidate that its term is old, and a leader that resigns stands again at once. Idea: keep its votes
and its timer, and decide here who may stand, who is answered, and what a new term means. A leader
whose connection breaks, as at a stop, is replaced without waiting for its silence.

Invariants:
- A vote leaves only after the hard state is durable (the journal's `setCurrentTerm`).
- A controller whose disk is fresh neither votes nor stands (see `founding`).
- Nobody stands before a quorum, itself included, has said that it would vote for it.

Source: Ongaro and Ousterhout 2014, 5.2 and 5.4; Ongaro's thesis, 4.2.3 and 9.6 (pre-vote).
"""

import logging
import random
from collections.abc import Callable
from typing import Any

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.syncobj import _RAFT_STATE
from pysyncobj.transport import Transport

from odradek.controller.raft import hooks
from odradek.controller.raft.founding import Founding
from odradek.controller.raft.interface import RaftOptions
from odradek.controller.raft.messages import Introduction, Message, RequestVote, VoteAnswer
from odradek.controller.raft.storage import Storage
from odradek.protocol.types import ControllerId

Send = Callable[[ControllerId, Message], None]
WAITING_LOGGED_EACH_S = 5.0

_log = logging.getLogger(__name__)


class _Outgoing(Transport):  # type: ignore[misc]
    """Turns what pysyncobj's own code sends into messages: its two kinds of vote, nothing else."""

    def __init__(self, send: Send) -> None:
        super().__init__(None, None, ())
        self._send = send

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        match message["type"]:
            case "request_vote":
                self._send(
                    node.id,
                    RequestVote(
                        message["term"], message["last_log_index"], message["last_log_term"]
                    ),
                )
            case "response_vote":
                self._send(node.id, VoteAnswer(message["term"], granted=True))
            case unexpected:
                raise AssertionError(f"pysyncobj must not send {unexpected}")
        return True


class VotingRaft(SyncObj):  # type: ignore[misc]
    """The part of a controller's Raft that elects."""

    def __init__(
        self,
        *,
        options: RaftOptions,
        storage: Storage,
        send: Send,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        hooks.install(clock)
        self._options = options
        self._hard_state = storage.hard_state
        self._journal = storage.journal
        self._send = send
        self._clock = clock
        self._rng = rng
        self._peers = {peer: Node(peer) for peer in sorted(options.peers)}
        self._granted: set[ControllerId] = set()
        self._pre_granted: set[ControllerId] = set()
        self._pre_vote_due_s = 0.0
        self._leader_heard_s = float("-inf")
        self._founding = Founding(storage.hard_state.state.rejoin_nonce)
        self._introduction_due_s = 0.0
        self._waiting_logged_s = clock()
        conf = SyncObjConf(
            autoTick=False,
            useFork=False,
            dynamicMembershipChange=False,
            commandsWaitLeader=False,
            appendEntriesUseBatch=False,
            appendEntriesPeriod=options.heartbeat_interval_s,
            raftMinTimeout=options.election_timeout_min_s,
            raftMaxTimeout=options.election_timeout_max_s,
            leaderFallbackTimeout=options.leader_contact_timeout_s,
            connectionTimeout=max(options.link_silence_timeout_s, options.election_timeout_max_s),
            journalFile=storage.journal,
        )
        super().__init__(
            Node(options.self_id),
            self._peers.values(),
            conf,
            nodeClass=Node,
            transport=_Outgoing(send),
        )
        self._SyncObj__needLoadDumpFile = False
        self._SyncObj__serializer = None  # nothing of pysyncobj's may use it
        if not self._is_voter:
            self._SyncObj__raftElectionDeadline = clock()  # introduces itself without delay

    @property
    def term(self) -> int:
        """The latest term seen."""
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """Entries up to this one are committed."""
        return int(self._SyncObj__raftCommitIndex)

    @property
    def _leads(self) -> bool:
        return bool(self._SyncObj__raftState == _RAFT_STATE.LEADER)

    @property
    def _is_voter(self) -> bool:
        return self._hard_state.state.rejoin_nonce == 0

    # Votes.

    def _SyncObj__onMessageReceived(self, node: Any, message: Message) -> None:
        match message:
            case RequestVote():
                self._on_request_vote(node, message)
            case VoteAnswer():
                self._on_vote_answer(node, message)
            case Introduction():
                self._on_introduction(node, message)
            case _:
                raise AssertionError(f"not a matter of elections: {message}")

    def _on_request_vote(self, node: Any, message: RequestVote) -> None:
        if not self._is_voter:
            return
        if message.pre_vote:
            if message.term <= self.term:
                self._send(node.id, VoteAnswer(self.term, granted=False, pre_vote=True))
            elif self._would_grant(message):
                self._send(node.id, VoteAnswer(message.term, granted=True, pre_vote=True))
            return
        if message.term < self.term:
            self._send(node.id, VoteAnswer(self.term, granted=False))
            return
        super()._SyncObj__onMessageReceived(
            node,
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_log_index,
                "last_log_term": message.last_log_term,
            },
        )

    def _would_grant(self, message: RequestVote) -> bool:
        if self._leads:
            return False
        if self._clock() - self._leader_heard_s < self._options.election_timeout_min_s:
            return False
        mine = (self._SyncObj__getCurrentLogTerm(), self._SyncObj__getCurrentLogIndex())
        return (message.last_log_term, message.last_log_index) >= mine

    def _on_vote_answer(self, node: Any, message: VoteAnswer) -> None:
        if not message.granted:
            if message.term > self.term:
                self._follow_term(message.term)
            return
        if message.pre_vote:
            if message.term == self.term + 1:
                self._pre_granted.add(node.id)
            return
        if message.term != self.term or node.id in self._granted:
            return
        self._granted.add(node.id)
        super()._SyncObj__onMessageReceived(node, {"type": "response_vote", "term": message.term})

    def _accept_leader(self, node: Any, term: int) -> None:
        """Follow the leader of a term that is not older than ours."""
        assert term > self.term or not self._leads, "a term has one leader"
        if term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(_RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = node
        self._leader_heard_s = self._clock()
        self._pre_granted.clear()
        self._await_election()

    # Founding.

    def _on_introduction(self, node: Any, message: Introduction) -> None:
        state = self._hard_state.state
        if state.rejoin_nonce == 0:
            if message.nonce and message.nonce == state.originals.get(node.id):
                self._send(node.id, Introduction(0, known_nonce=message.nonce))
            return
        if self._founding.on_introduction(node.id, message):
            self._send(node.id, self._founding.introduction_to(node.id))
        if state.may_found and not self._founding.unconfirmed(self._peers):
            self._hard_state.found(self._founding.originals())
            _log.info("controller %s takes its vote: all controllers have met", state.controller_id)

    def _introduce(self) -> None:
        """While no leader is heard: one who leads admits a fresh disk unasked."""
        now_s = self._clock()
        if now_s < self._introduction_due_s:
            return
        self._introduction_due_s = now_s + self._options.heartbeat_interval_s
        for node in self._reachable():
            self._send(node.id, self._founding.introduction_to(node.id))
        if now_s >= self._waiting_logged_s + WAITING_LOGGED_EACH_S:
            self._waiting_logged_s = now_s
            self._log_waiting()

    def _log_waiting(self) -> None:
        reachable = {node.id for node in self._reachable()}
        unconfirmed = self._founding.unconfirmed(self._peers)
        _log.warning(
            "controller %s has a fresh disk, hence no vote, and hears no leader. Not reached:"
            " controllers %s. Reached, but they do not know this disk: %s. In a new cluster, start"
            " them all; in one with data, a majority with their own disks: their leader admits it",
            self._options.self_id,
            [peer for peer in unconfirmed if peer not in reachable],
            [peer for peer in unconfirmed if peer in reachable],
        )

    # Standing.

    def _SyncObj__generateRaftTimeout(self) -> float:
        options = self._options
        return self._rng.uniform(options.election_timeout_min_s, options.election_timeout_max_s)

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Asked when the election timeout has passed: may this controller stand?"""
        if not self._is_voter:
            self._introduce()
            return False
        if not self._peers:
            return True
        if 2 * (len(self._pre_granted) + 1) > len(self._peers) + 1:
            self._pre_granted.clear()
            self._pre_vote_due_s = 0.0
            self._granted.clear()
            return True
        now_s = self._clock()
        if now_s >= self._pre_vote_due_s:
            self._pre_granted.clear()
            self._pre_vote_due_s = now_s + self._options.heartbeat_interval_s
            request = RequestVote(
                self.term + 1,
                self._SyncObj__getCurrentLogIndex(),
                self._SyncObj__getCurrentLogTerm(),
                pre_vote=True,
            )
            for node in self._reachable():
                self._send(node.id, request)
        return False

    def _await_election(self) -> None:
        timeout_s = self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = self._clock() + timeout_s

    def _SyncObj__onNodeDisconnected(self, node: Any) -> None:
        """When it was the leader, stand soon, and let others: its process has ended, it seems.

        Should only its link have been cut, whoever still hears it refuses the pre-vote.
        """
        super()._SyncObj__onNodeDisconnected(node)
        if node is not self._SyncObj__raftLeader:
            return
        self._leader_heard_s = float("-inf")
        soon_s = self._clock() + self._rng.uniform(0.0, self._options.heartbeat_interval_s)
        self._SyncObj__raftElectionDeadline = min(self._SyncObj__raftElectionDeadline, soon_s)

    def _follow_term(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._SyncObj__setState(_RAFT_STATE.FOLLOWER)
        self._SyncObj__raftLeader = None

    def _SyncObj__setState(self, newState: int) -> None:
        resigns = self._leads and newState != _RAFT_STATE.LEADER
        super()._SyncObj__setState(newState)
        if resigns:
            self._await_election()

    def _reachable(self) -> list[Any]:
        connected = self._SyncObj__connectedNodes
        return [node for node in self._peers.values() if node in connected]

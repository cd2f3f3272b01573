"""Planted bugs, each one a fault of stock pysyncobj: the simulator must find every one.

A simulator that finds nothing proves nothing; these prove that it looks.
"""

from dataclasses import dataclass, replace
from typing import Any

from odradek.controller.raft.core import RaftCore
from odradek.controller.raft.messages import (
    AppendAnswer,
    AppendEntries,
    InstallSnapshot,
    Introduction,
    SnapshotAnswer,
)


class UntaggedAnswers(RaftCore):
    """Takes acknowledgements of any term for its own, as `next_node_idx` had none."""

    def _on_answer(self, node: Any, message: AppendAnswer | SnapshotAnswer) -> None:
        super()._on_answer(node, replace(message, term=self.term))


class UnclampedSnapshotCommit(RaftCore):
    """Commits its own unverified entries on the word of a snapshot message."""

    def _on_install_snapshot(self, node: Any, message: InstallSnapshot) -> None:
        if message.term >= self.term:
            self._accept_leader(node, message.term)
            self._commit(min(message.last_index, self._journal.last_index))
        super()._on_install_snapshot(node, message)


class UnclampedCommit(RaftCore):
    """Commits up to its own last entry, beyond what the message has verified."""

    def _on_append_entries(self, node: Any, message: AppendEntries) -> None:
        if message.term >= self.term:
            self._accept_leader(node, message.term)
            self._commit(min(message.commit_index, self._journal.last_index))
        super()._on_append_entries(node, message)


class TruncatingFollower(RaftCore):
    """Truncates after the message's last entry, though what follows matches too."""

    def _on_append_entries(self, node: Any, message: AppendEntries) -> None:
        super()._on_append_entries(node, message)
        end = message.prev_log_index + len(message.entries)
        if message.term >= self.term and self.commit_index < end < self._journal.last_index:
            self._journal.truncate_from(end + 1)


class EagerAcknowledgement(RaftCore):
    """Acknowledges before it has synced, and lets nothing else sync either."""

    def _flush_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for peer, answer in answers.items():
            self._send(peer, answer)


class SecondVote(RaftCore):
    """Forgets, while it runs, whom it voted for."""

    def _on_request_vote(self, node: Any, message: Any) -> None:
        self._SyncObj__votedForNodeId = None
        self._hard_state.state = replace(self._hard_state.state, voted_for=None)
        super()._on_request_vote(node, message)


class RejoinsWithVote(RaftCore):
    """Counts with an empty, replaced disk as if nothing had happened."""

    @property
    def _is_voter(self) -> bool:
        return True

    def _on_answer(self, node: Any, message: AppendAnswer | SnapshotAnswer) -> None:
        super()._on_answer(node, replace(message, rejoin_nonce=0))


class FoundsAlone(RaftCore):
    """Takes an empty disk that may found for a new cluster's, as every flag --bootstrap did."""

    def _introduce(self) -> None:
        if self._hard_state.state.may_found:
            self._hard_state.found({})


class ConfirmsAnyDisk(RaftCore):
    """Confirms, as a voter, whatever disk introduces itself."""

    def _on_introduction(self, node: Any, message: Introduction) -> None:
        if self._is_voter and message.nonce:
            self._send(node.id, Introduction(0, known_nonce=message.nonce))
        super()._on_introduction(node, message)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A planted bug."""

    name: str
    core_class: type[RaftCore] = RaftCore
    lying_disks: bool = False
    members: int | None = None
    seeds: int = 200  # within so many


MUTATIONS = [
    Mutation("no fdatasync at all", lying_disks=True),
    Mutation("acknowledges before it syncs", EagerAcknowledgement),
    Mutation("unclamped snapshot commit index", UnclampedSnapshotCommit),
    Mutation("unclamped commit index", UnclampedCommit),
    Mutation("truncates matching entries", TruncatingFollower),
    Mutation("votes twice", SecondVote),
    Mutation("a replaced disk votes", RejoinsWithVote),
    Mutation("an empty disk founds alone", FoundsAlone),
    Mutation("voters confirm any disk", ConfirmsAnyDisk),
]

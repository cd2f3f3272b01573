"""The leader's half of log matching: what each follower has, and what to send it next. Pure.

Problem: pysyncobj advances on any acknowledgement, lets a stale refusal rewind the leader, and
sends without bound. Idea: etcd's three states. *Probing*: one message at a time until the logs
agree. *Replicating*: a window of bytes in flight, next_index moves ahead of the acknowledgements.
*Snapshot*: the follower needs entries from before the base; pieces are sent one by one.

Invariants: `match_index` < `next_index`; `match_index` never falls, except for a follower whose
disk was replaced; a follower that rejoins counts for nothing until it answers as a voter again.

Source: etcd-io/raft, tracker/progress.go, for the states; Ongaro's thesis 10.2.1 for the pipeline.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from odradek.controller.raft.messages import (
    AppendAnswer,
    AppendEntries,
    Entry,
    InstallSnapshot,
    Message,
    SnapshotAnswer,
)

BATCH_BYTES = 1024 * 1024
WINDOW_BYTES = 4 * BATCH_BYTES
PIECE_BYTES = 256 * 1024
FIRST_INDEX = 2
"""The first entry after the genesis, which is equal everywhere."""


class ReadableLog(Protocol):
    """What this module needs of the journal."""

    @property
    def first_index(self) -> int:
        """The base; entries after it can be read."""
        ...

    @property
    def last_index(self) -> int:
        """The latest entry."""
        ...

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry; None outside of the log."""
        ...

    def read(self, index: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `index` on, of about `bytes_max`."""
        ...


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A snapshot as it lies on disk: sealed, and so are its pieces on arrival."""

    last_index: int
    last_term: int
    content: bytes


@dataclass(frozen=True, slots=True)
class LeaderView:
    """What the leader knows at the moment of sending."""

    term: int
    commit_index: int
    log: ReadableLog
    load_snapshot: Callable[[], SnapshotFile]
    now_s: float
    heartbeat_interval_s: float


@dataclass(slots=True)
class Progress:
    """What the leader knows of one follower."""

    next_index: int
    match_index: int = 0
    probing: bool = True
    heartbeat_due_s: float = 0.0
    commit_sent: int = 0
    in_flight: deque[tuple[int, int]] = field(default_factory=deque)  # (last index, bytes)
    in_flight_bytes: int = 0
    snapshot: SnapshotFile | None = None
    snapshot_offset: int = 0
    awaits_answer: bool = False  # to a probe, or to a piece of a snapshot
    rejoin_nonce: int = 0
    voter_from_index: int = 0

    def on_connected(self) -> None:
        """Forget what was in flight: it may be lost with the old connection."""
        self._probe(self.match_index + 1 if self.match_index else self.next_index)

    def on_answer(self, answer: AppendAnswer, last_index: int) -> None:
        """Take an answer of the leader's own term."""
        self.observe_nonce(answer.rejoin_nonce, last_index)
        if answer.success:
            self.match_index = max(self.match_index, answer.index)
            if self.snapshot is not None and answer.index >= self.snapshot.last_index:
                self.snapshot = None
            self.next_index = max(self.next_index, self.match_index + 1)
            self.probing = self.awaits_answer = False
            while self.in_flight and self.in_flight[0][0] <= self.match_index:
                self.in_flight_bytes -= self.in_flight.popleft()[1]
            return
        if self.probing and answer.index != self.next_index - 1:
            return  # refuses an earlier message
        if answer.index <= self.match_index or answer.index >= self.next_index:
            return
        retreat = min(answer.next_index, self.next_index - 1)
        self._probe(max(self.match_index + 1, FIRST_INDEX, retreat))

    def on_snapshot_answer(self, answer: SnapshotAnswer, last_index: int) -> None:
        """Move on to the piece the follower waits for."""
        self.observe_nonce(answer.rejoin_nonce, last_index)
        if self.snapshot is None or answer.last_index != self.snapshot.last_index:
            return
        if 0 <= answer.next_offset < len(self.snapshot.content):
            self.snapshot_offset = answer.next_offset
            self.awaits_answer = False

    def observe_nonce(self, nonce: int, last_index: int) -> None:
        """Start anew with a follower whose disk was replaced; admit one that votes again."""
        if nonce == self.rejoin_nonce:
            return
        self.rejoin_nonce = nonce
        self.voter_from_index = 0
        if nonce:
            self.match_index = 0
            self.snapshot = None
            self._probe(last_index + 1)

    def messages_due(self, view: LeaderView) -> list[Message]:
        """Return what to send now, in order; at least a heartbeat when one is due."""
        heartbeat = view.now_s >= self.heartbeat_due_s
        if self.next_index <= view.log.first_index or self.snapshot is not None:
            messages = self._snapshot_due(view, heartbeat=heartbeat)
        elif self.probing:
            messages = self._probe_due(view, heartbeat=heartbeat)
        else:
            messages = self._entries_due(view, heartbeat=heartbeat)
        if messages:
            self.heartbeat_due_s = view.now_s + view.heartbeat_interval_s
        return messages

    def _snapshot_due(self, view: LeaderView, *, heartbeat: bool) -> list[Message]:
        if self.snapshot is None:
            self.snapshot = view.load_snapshot()
            self.snapshot_offset = 0
            self.awaits_answer = False
            self.probing = True
        if self.awaits_answer and not heartbeat:
            return []
        self.awaits_answer = True
        offset, content = self.snapshot_offset, self.snapshot.content
        return [
            InstallSnapshot(
                view.term,
                self.snapshot.last_index,
                self.snapshot.last_term,
                offset,
                content[offset : offset + PIECE_BYTES],
                len(content),
            )
        ]

    def _probe_due(self, view: LeaderView, *, heartbeat: bool) -> list[Message]:
        if self.awaits_answer and not heartbeat:
            return []
        self.awaits_answer = True
        entries = view.log.read(self.next_index, BATCH_BYTES)
        return [self._append(view, entries)]

    def _entries_due(self, view: LeaderView, *, heartbeat: bool) -> list[Message]:
        messages: list[Message] = []
        while self.next_index <= view.log.last_index and self.in_flight_bytes < WINDOW_BYTES:
            entries = view.log.read(self.next_index, BATCH_BYTES)
            messages.append(self._append(view, entries))
            size = sum(len(entry.command) for entry in entries)
            self.in_flight.append((entries[-1].log_index, size))
            self.in_flight_bytes += size
            self.next_index = entries[-1].log_index + 1
        if not messages and (heartbeat or view.commit_index > self.commit_sent):
            messages.append(self._append(view, ()))
        return messages

    def _append(self, view: LeaderView, entries: tuple[Entry, ...]) -> AppendEntries:
        prev_term = view.log.term_at(self.next_index - 1)
        assert prev_term is not None, "next_index lies within the log"
        self.commit_sent = view.commit_index
        return AppendEntries(
            term=view.term,
            commit_index=view.commit_index,
            prev_log_index=self.next_index - 1,
            prev_log_term=prev_term,
            entries=entries,
            rejoin_nonce=self.rejoin_nonce,
            voter_from_index=self.voter_from_index,
        )

    def _probe(self, next_index: int) -> None:
        self.next_index = next_index
        self.probing = True
        self.awaits_answer = False
        self.in_flight.clear()
        self.in_flight_bytes = 0

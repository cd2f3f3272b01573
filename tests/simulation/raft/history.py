"""What the outside saw, and the invariants over it.

- Election safety: a term has one leader.
- Leader completeness: a leader has every entry that was committed in an earlier term.
- State-machine safety: no two controllers apply different commands at one index.
- Commitment: what a leader commits is on the disks of a quorum of voters.
- Log matching: logs that agree on an entry agree on all before it.
- No lost acknowledgement, no false success: what was answered as applied is in the history; what
  was answered as refused is not.
- Barriers are linearizable: one that began after an acknowledgement covers it.
"""

import zlib
from dataclasses import dataclass, field

from odradek.controller.raft.core import RaftCore
from odradek.controller.raft.journal import Journal
from odradek.protocol.types import ControllerId


class InvariantBrokenError(AssertionError):
    """The reason to look at a seed."""


def check(condition: object, message: str) -> None:
    if not condition:
        raise InvariantBrokenError(message)


@dataclass(slots=True)
class History:
    applied: dict[int, bytes] = field(default_factory=dict)  # index -> command
    digests: dict[int, int] = field(default_factory=dict)  # index -> state after it
    terms: dict[int, int] = field(default_factory=dict)  # index -> term of the applied entry
    committed_in: dict[int, int] = field(default_factory=dict)  # index -> a term, no earlier
    leaders: dict[int, ControllerId] = field(default_factory=dict)  # term -> leader
    acknowledged: dict[bytes, int] = field(default_factory=dict)  # command -> index
    refused: set[bytes] = field(default_factory=set)
    acknowledged_index: int = 0
    committed_index: int = 0
    recorded: dict[ControllerId, int] = field(default_factory=dict)  # terms known up to here

    def on_applied(self, index: int, command: bytes, digest: int) -> None:
        known = self.applied.setdefault(index, command)
        check(known == command, f"state-machine safety: {known!r} and {command!r} at {index}")
        known_digest = self.digests.setdefault(index, digest)
        check(known_digest == digest, f"state-machine safety: states differ at {index}")

    def on_acknowledged(self, command: bytes, index: int) -> None:
        check(self.applied.get(index) == command, f"false success: {command!r} at {index}")
        self.acknowledged[command] = index
        self.acknowledged_index = max(self.acknowledged_index, index)

    def on_step(self, member: ControllerId, core: RaftCore, journal: Journal) -> None:
        for index in range(self.recorded.get(member, 0) + 1, core.raftLastApplied + 1):
            if (term := journal.term_at(index)) is not None:
                known = self.terms.setdefault(index, term)
                self.committed_in.setdefault(index, core.term)
                check(known == term, f"state-machine safety: terms differ at {index}")
        self.recorded[member] = core.raftLastApplied
        if core._leads and self.leaders.get(core.term) != member:
            check(core.term not in self.leaders, f"election safety: two leaders in {core.term}")
            self.leaders[core.term] = member
            for index, term in self.terms.items():
                if index > journal.first_index and self.committed_in[index] < core.term:
                    check(
                        journal.term_at(index) == term,
                        f"leader completeness: {member} leads {core.term} without {index}",
                    )

    def on_end(self) -> None:
        for command, index in self.acknowledged.items():
            check(self.applied.get(index) == command, f"lost acknowledgement: {command!r}")
        landed = self.refused & set(self.applied.values())
        check(not landed, f"refused commands were applied: {landed}")
        check(len(set(self.applied.values())) == len(self.applied), "a command was applied twice")


def check_log_matching(one: Journal, other: Journal) -> None:
    low = max(one.first_index, other.first_index)
    agreed = False
    for index in range(min(one.last_index, other.last_index), low, -1):
        same_term = one.term_at(index) == other.term_at(index)
        if agreed or same_term:
            check(
                one[index - one.first_index] == other[index - other.first_index],
                f"log matching: entries differ at {index}",
            )
            agreed = True


@dataclass(slots=True)
class RecordingMachine:
    """A state machine whose state is a digest of all it applied, reported to the history."""

    history: History
    digest: int = 0
    last_index: int = 0

    def apply(self, index: int, command: bytes) -> bytes:
        check(index > self.last_index, f"applied {index} after {self.last_index}")
        self.last_index = index
        self.digest = zlib.crc32(b"%d %s" % (index, command), self.digest)
        self.history.on_applied(index, command, self.digest)
        return b"%d" % index

    def capture(self) -> object:
        return self.last_index, self.digest

    def serialize(self, image: object) -> bytes:
        assert isinstance(image, tuple)
        return b"%d %d" % image + b" " * 700_000 if image[0] % 7 == 0 else b"%d %d" % image

    def restore(self, snapshot: bytes, index: int) -> None:
        self.last_index, self.digest = map(int, snapshot.split())
        check(self.last_index <= index, "a snapshot from the future")
        if self.last_index:
            expected = self.history.digests.get(self.last_index)
            check(expected == self.digest, f"a snapshot differs at {self.last_index}")

"""What controllers say to each other, as values. Pure.

Problem: pysyncobj sends pickled dictionaries, so that whoever reaches the port runs code. Idea: a
closed union of frozen messages; `encoding` maps it to protobuf and back, and there is no other way
onto or off the wire. `raft.proto` documents the fields.
"""

from dataclasses import dataclass
from typing import NamedTuple

NO_OP = b"\x01"
"""The log entry that holds nothing (pysyncobj's command type 1)."""

COMMAND_PREFIX = b"\x00"
"""Precedes a command in its log entry (pysyncobj's command type 0)."""


class Entry(NamedTuple):
    """One log entry in pysyncobj's order; a tuple because its core indexes it."""

    command: bytes
    log_index: int
    term: int


@dataclass(frozen=True, slots=True)
class RequestVote:
    """A candidate asks for a vote, or whether one would be granted (pre-vote)."""

    term: int
    last_log_index: int
    last_log_term: int
    pre_vote: bool = False


@dataclass(frozen=True, slots=True)
class VoteAnswer:
    """A granted vote, or a refusal that tells a newer term; other refusals are silent."""

    term: int
    granted: bool
    pre_vote: bool = False


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """Entries after an agreed point, or a heartbeat."""

    term: int
    commit_index: int
    prev_log_index: int
    prev_log_term: int
    entries: tuple[Entry, ...] = ()
    rejoin_nonce: int = 0
    voter_from_index: int = 0


@dataclass(frozen=True, slots=True)
class AppendAnswer:
    """How far the follower's durable log agrees (success), or where to try next (refusal)."""

    term: int
    success: bool
    index: int
    next_index: int = 0
    rejoin_nonce: int = 0


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """A piece of the leader's snapshot file."""

    term: int
    last_index: int
    last_term: int
    offset: int
    data: bytes
    total_bytes: int


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """The offset at which the follower waits for the next piece."""

    term: int
    last_index: int
    next_offset: int
    rejoin_nonce: int = 0


@dataclass(frozen=True, slots=True)
class Introduction:
    """A controller without a vote names its disk; who knows the receiver's names that."""

    nonce: int
    known_nonce: int


Message = (
    RequestVote
    | VoteAnswer
    | AppendEntries
    | AppendAnswer
    | InstallSnapshot
    | SnapshotAnswer
    | Introduction
)

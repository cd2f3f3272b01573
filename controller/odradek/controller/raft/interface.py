"""What the users of `raft` see: the state machine they bring, the options, the events, the errors.

Pure. Nothing here knows pysyncobj, a socket or a disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from odradek.protocol.errors import OdradekError
from odradek.protocol.types import ControllerId

COMMAND_BYTES_MAX = 512 * 1024
"""A larger change must be split by the proposer: half a batch leaves room for framing."""


class DataDirectoryError(OdradekError):
    """The data directory cannot be trusted; the controller must not start with it."""


class StateMachine(Protocol):
    """The replicated state. Every method but `serialize` is called on the tick thread."""

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply one committed command; total and deterministic, the same live and on replay.

        Args:
            index: Its raft index, strictly growing; gaps are entries of raft itself.
            command: As proposed.

        Returns:
            The answer for the proposer; refusals are answers. An exception is a bug: it ends the
            process, for a state machine that failed half-way must not serve.
        """
        ...

    def capture(self) -> object:
        """Return an immutable image of the state; cheap, for it holds up the tick thread."""
        ...

    def serialize(self, image: object) -> bytes:
        """Turn an image into a snapshot; on the snapshot thread, while `apply` goes on."""
        ...

    def restore(self, snapshot: bytes, index: int) -> None:
        """Replace the whole state by that of `snapshot`, which ends with the entry at `index`."""
        ...


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads, as this controller knows.

    Attributes:
        term: The raft term; a leader's term is unique and serves as its controller epoch.
        is_leader: This controller leads `term` and has applied its own no-op, hence every
            command acknowledged by an earlier leader.
        leader_id: The leader of `term`, when known.
    """

    term: int
    is_leader: bool
    leader_id: ControllerId | None


@dataclass(frozen=True, slots=True)
class RaftStatus:
    """A snapshot of the counters of one controller, for metrics and `doctor`."""

    leadership: Leadership
    is_voter: bool
    commit_index: int
    applied_index: int
    first_index: int
    last_index: int
    snapshot_index: int
    journal_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftOptions:
    """How one controller takes part.

    Attributes:
        cluster_id: Peers and data directories of other clusters are refused.
        self_id: This controller's id, stable over restarts.
        peers: The *other* controllers and the address at which this one dials each.
        data_directory: Journal, snapshot and hard state; locked while in use.
        bootstrap: Allow an empty data directory, in a new cluster too: the controller has no vote
            until all controllers have met with fresh disks, or until, as with `rejoin`, a quorum
            of the others has proved it caught up. One without peers votes at once.
        rejoin: Allow an empty data directory in an existing cluster only: the controller takes
            part without a vote until a quorum of the others has proved it caught up.
        election_timeout_min_s: Silence of the leader after which a follower may stand for election;
            each waits a random time from here to `election_timeout_max_s`.
        election_timeout_max_s: See above.
        heartbeat_interval_s: The leader's; less than a third of the shortest election timeout.
        leader_contact_timeout_s: A leader that hears no quorum for so long steps down.
        tick_interval_s: The tick thread's sleep while an election or a snapshot is due; otherwise
            it sleeps until the next deadline. Events wake it at once.
        dial_timeout_s: Connecting to a peer and shaking hands, together.
        link_silence_timeout_s: A link whose other end is silent for so long is dialled anew.
        snapshot_after_entries: A snapshot is written after so many applied entries,
        snapshot_after_bytes: or so many bytes of journal, whichever comes first.
        retained_entries: Entries kept before a snapshot, for followers slightly behind.
        pending_bytes_max: Proposals waiting for the tick thread; beyond, they are throttled.
    """

    cluster_id: str
    self_id: ControllerId
    peers: Mapping[ControllerId, str] = field(default_factory=dict)
    data_directory: Path
    bootstrap: bool = False
    rejoin: bool = False
    election_timeout_min_s: float = 0.3
    election_timeout_max_s: float = 0.6
    heartbeat_interval_s: float = 0.08
    leader_contact_timeout_s: float = 2.0
    tick_interval_s: float = 0.02
    dial_timeout_s: float = 1.0
    link_silence_timeout_s: float = 3.0
    snapshot_after_entries: int = 10_000
    snapshot_after_bytes: int = 32 * 1024 * 1024
    retained_entries: int = 1_000
    pending_bytes_max: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        """Check the relations between the options."""
        if self.bootstrap and self.rejoin:
            raise ValueError("bootstrap and rejoin exclude each other")
        if self.self_id in self.peers:
            raise ValueError(f"peers must not contain this controller ({self.self_id})")
        if not self.heartbeat_interval_s * 3 < self.election_timeout_min_s:
            raise ValueError("election_timeout_min_s must exceed three heartbeat_interval_s")
        if not self.election_timeout_min_s < self.election_timeout_max_s:
            raise ValueError("election_timeout_max_s must exceed election_timeout_min_s")
        if not self.election_timeout_max_s <= self.leader_contact_timeout_s:
            raise ValueError("leader_contact_timeout_s must reach election_timeout_max_s")

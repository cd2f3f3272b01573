"""Term, vote and identity: the facts a controller must never forget.

Problem: a forgotten vote is a second vote, and two leaders in one term. Idea: one small sealed
file, replaced atomically and synced before any message that rests on it leaves.

Invariants: the file exists from the first start on, and only a data directory that never took part
lacks it; `term` never falls; `voted_for` changes within a term only from nobody to somebody; a
vote, once there, is never taken away.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from google.protobuf.message import DecodeError

from odradek.controller.raft.filesystem import FileSystem, read_file, replace_file, seal, unseal
from odradek.controller.raft.interface import DataDirectoryError
from odradek.protocol.errors import InconsistentClusterIdError
from odradek.protocol.types import ControllerId
from odradek.v1 import raft_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class HardState:
    """The content of the file; see `RaftHardState` in raft.proto."""

    cluster_id: str
    controller_id: ControllerId
    controller_ids: frozenset[ControllerId]
    term: int = 0
    voted_for: ControllerId | None = None
    incarnation: int = 0
    rejoin_nonce: int = 0
    may_found: bool = False
    originals: Mapping[ControllerId, int] = field(default_factory=dict)


class HardStateFile:
    """The hard state and its file. Every change is durable when the method returns."""

    def __init__(self, files: FileSystem, path: Path, state: HardState) -> None:
        self._files = files
        self._path = path
        self.state = state

    @classmethod
    def load(
        cls,
        files: FileSystem,
        path: Path,
        *,
        cluster_id: str,
        controller_id: ControllerId,
        controller_ids: frozenset[ControllerId],
    ) -> "HardStateFile":
        """Read an existing file.

        Raises:
            DataDirectoryError: It is corrupt.
            InconsistentClusterIdError: It belongs to another cluster or controller, or to one among
                others.
        """
        payload = unseal(read_file(files, path), path.name)
        message = raft_pb2.RaftHardState()
        try:
            message.ParseFromString(payload)
        except DecodeError as error:
            raise DataDirectoryError(f"{path.name} is corrupt: {error}", field=path.name) from error
        owner = (message.cluster_id, message.controller_id)
        if owner != (cluster_id, controller_id):
            raise InconsistentClusterIdError(
                f"the data directory belongs to controller {owner[1]} of cluster {owner[0]!r}",
                field="cluster_id, controller_id",
                value=owner,
                limit=(cluster_id, controller_id),
            )
        stored_ids = frozenset(map(ControllerId, message.controller_ids))
        if stored_ids not in {frozenset(), controller_ids}:
            raise InconsistentClusterIdError(
                f"the data directory belongs to a cluster of the controllers {sorted(stored_ids)},"
                f" not {sorted(controller_ids)}; that cannot be changed: name the same ones",
                field="peers",
                value=sorted(stored_ids),
                limit=sorted(controller_ids),
            )
        voted = message.voted_for if message.HasField("voted_for") else None
        state = HardState(
            cluster_id=cluster_id,
            controller_id=controller_id,
            controller_ids=controller_ids,
            term=message.term,
            voted_for=None if voted is None else ControllerId(voted),
            incarnation=message.incarnation,
            rejoin_nonce=message.rejoin_nonce,
            may_found=message.may_found,
            originals={ControllerId(peer): disk for peer, disk in message.originals.items()},
        )
        return cls(files, path, state)

    def store(self) -> None:
        """Make the present state durable."""
        message = raft_pb2.RaftHardState(
            cluster_id=self.state.cluster_id,
            controller_id=self.state.controller_id,
            controller_ids=sorted(self.state.controller_ids),
            term=self.state.term,
            voted_for=self.state.voted_for,
            incarnation=self.state.incarnation,
            rejoin_nonce=self.state.rejoin_nonce,
            may_found=self.state.may_found,
            originals={int(peer): disk for peer, disk in self.state.originals.items()},
        )
        replace_file(self._files, self._path, seal(message.SerializeToString(deterministic=True)))

    def vote(self, term: int, voted_for: ControllerId | None) -> None:
        """Enter a term, or vote in it."""
        present = self.state
        if (term, voted_for) == (present.term, present.voted_for):
            return
        assert term >= present.term, "terms never fall"
        assert term > present.term or present.voted_for is None, "one vote in a term"
        self.state = replace(present, term=term, voted_for=voted_for)
        self.store()

    def become_voter(self) -> None:
        """Take the vote that a leader gives to a fresh disk."""
        self.found({})

    def found(self, originals: Mapping[ControllerId, int]) -> None:
        """Take the vote of a founder, and remember the disks of the others for good."""
        assert self.state.rejoin_nonce, "a voter founds nothing"
        self.state = replace(self.state, rejoin_nonce=0, may_found=False, originals=originals)
        self.store()

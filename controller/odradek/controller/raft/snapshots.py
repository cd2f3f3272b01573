"""Snapshots: written off the tick thread, replaced atomically, sent and received in pieces.

Problem: pysyncobj dumps by forking a threaded process, renames without fsync, clears the journal
when a dump is newer than its head, and goes on empty when a dump cannot be loaded. Idea: an
immutable image is captured on the tick thread, serialised and written by one other thread, and only
when the file is durable does the journal lose its prefix. A snapshot that arrives in pieces is
verified as a whole before it replaces anything.

Invariants: the file at the path is always complete and never goes backwards; the journal's base
never passes it.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import DecodeError

from odradek.controller.raft.filesystem import FileSystem, read_file, replace_file, seal, unseal
from odradek.controller.raft.interface import DataDirectoryError
from odradek.controller.raft.messages import InstallSnapshot
from odradek.controller.raft.progress import SnapshotFile
from odradek.v1 import raft_pb2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state after the entry at `index`, as the state machine serialised it."""

    index: int
    term: int
    state: bytes


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Make the content of a snapshot file."""
    message = raft_pb2.RaftSnapshot(
        last_index=snapshot.index, last_term=snapshot.term, state=snapshot.state
    )
    return seal(message.SerializeToString())


def decode_snapshot(content: bytes) -> Snapshot:
    """Read the content of a snapshot file.

    Raises:
        DataDirectoryError: It is corrupt.
    """
    message = raft_pb2.RaftSnapshot()
    try:
        message.ParseFromString(unseal(content, "raft.snapshot"))
    except DecodeError as error:
        raise DataDirectoryError(f"raft.snapshot is corrupt: {error}") from error
    return Snapshot(message.last_index, message.last_term, message.state)


class SnapshotStore:
    """The one snapshot file, and the writing of the next one."""

    def __init__(self, files: FileSystem, path: Path, executor: Executor) -> None:
        self._files = files
        self._path = path
        self._executor = executor
        self._writing: Future[Snapshot] | None = None
        self.index = 0

    def load(self) -> Snapshot | None:
        """Read the file, if there is one.

        Raises:
            DataDirectoryError: It is corrupt.
        """
        if not self._files.exists(self._path):
            return None
        snapshot = decode_snapshot(read_file(self._files, self._path))
        self.index = snapshot.index
        return snapshot

    def load_file(self) -> SnapshotFile:
        """Read the file to send it.

        Raises:
            DataDirectoryError: It is corrupt, and must not be passed on.
        """
        content = read_file(self._files, self._path)
        snapshot = decode_snapshot(content)
        return SnapshotFile(snapshot.index, snapshot.term, content)

    @property
    def is_writing(self) -> bool:
        """Whether a snapshot is being written in the background."""
        return self._writing is not None

    def begin(self, index: int, term: int, serialize: Callable[[], bytes]) -> None:
        """Serialise and write a snapshot in the background."""
        assert self._writing is None, "one snapshot at a time"
        assert index > self.index, "snapshots never go backwards"

        def write() -> Snapshot:
            replace_file(
                self._files, self._path, encode_snapshot(Snapshot(index, term, serialize()))
            )
            return Snapshot(index, term, b"")

        self._writing = self._executor.submit(write)

    def finish(self) -> int | None:
        """Return the index of a snapshot that has become durable since the last call.

        Raises:
            Exception: Whatever made the writing fail.
        """
        if self._writing is None or not self._writing.done():
            return None
        finished = self._writing.result()
        self._writing = None
        self.index = finished.index
        return finished.index

    def install(self, snapshot: Snapshot, content: bytes) -> None:
        """Replace the file by a snapshot of the leader."""
        assert self._writing is None, "the background writer would replace it by an older one"
        assert snapshot.index > self.index, "snapshots never go backwards"
        replace_file(self._files, self._path, content)
        self.index = snapshot.index


@dataclass(slots=True)
class IncomingSnapshot:
    """Collects the pieces of one snapshot of the leader."""

    last_index: int = 0
    last_term: int = 0
    total_bytes: int = 0
    data: bytearray = field(default_factory=bytearray)

    def take(self, piece: InstallSnapshot) -> int:
        """Take a piece if it is the next one; return the offset now waited for."""
        of = (piece.last_index, piece.last_term, piece.total_bytes)
        if of != (self.last_index, self.last_term, self.total_bytes):
            self.last_index, self.last_term, self.total_bytes = of
            self.data.clear()
        if piece.offset == len(self.data):
            self.data += piece.data
        return len(self.data)

    @property
    def is_complete(self) -> bool:
        """Whether all pieces have arrived."""
        return 0 < self.total_bytes == len(self.data)

    def finish(self) -> tuple[Snapshot, bytes] | None:
        """Return the snapshot and its file's content; None, and start anew, if it is damaged."""
        content = bytes(self.data)
        expected = (self.last_index, self.last_term)
        self.total_bytes = 0
        self.data.clear()
        try:
            snapshot = decode_snapshot(content)
        except DataDirectoryError:
            _log.warning("the snapshot at %d was damaged on its way", expected[0])
            return None
        if (snapshot.index, snapshot.term) != expected:
            _log.warning("the snapshot at %d says it is at %d", expected[0], snapshot.index)
            return None
        return snapshot, content

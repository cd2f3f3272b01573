"""When idempotence windows are written down, and how they are rebuilt.

Problem: the windows of a log are a function of all its headers; replaying a long log at every start
would take long. Idea: write them beside the log, in the mutation of an append, every 64 MiB, 60 s
or 8,192 batches; an opening takes the newest snapshot at or below the log end and replays the index
entries after it.

Invariant: a snapshot at an offset holds exactly what the batches below that offset say.
"""

from collections.abc import Iterator
from typing import Protocol

from odradek.node.storage.index import IndexEntry
from odradek.node.storage.keys import Table, state_key, state_key_of, successor
from odradek.node.storage.producers import ProducerStates
from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionUid

SNAPSHOT_BYTES = 64 << 20
SNAPSHOT_INTERVAL_MS = 60_000
SNAPSHOT_BATCHES = 8192
SNAPSHOTS_KEPT = 3

_PREFIX = b"producers"


class Rows(Protocol):
    """What is asked of the store."""

    def scan(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """Return the values with keys in [begin, end), in order."""


class Entries(Protocol):
    """What is asked of the log's index."""

    def entries(self, begin: Offset) -> Iterator[IndexEntry]:
        """Yield the entries of the batches that start at or after an offset."""


class Changes(Protocol):
    """What is asked of a mutation."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a small value."""

    def delete(self, key: bytes) -> None:
        """Remove a small value."""


class ProducerSnapshots:
    """The snapshots of one log."""

    __slots__ = ("_batches", "_bytes", "_last_ms", "_offsets", "_reader", "_store", "_uid")

    def __init__(self, store: Rows, reader: Entries, uid: PartitionUid) -> None:
        self._store = store
        self._reader = reader
        self._uid = uid
        self._offsets: list[Offset] = []
        self._batches = self._bytes = self._last_ms = 0

    def restore(self, log_end: Offset, now_ms: int) -> ProducerStates:
        """Rebuild the windows of the log as it is."""
        prefix = state_key(self._uid, Table.LOG, _PREFIX)
        found = {
            Offset(int.from_bytes(state_key_of(key)[len(_PREFIX) :], "big")): value
            for key, value in self._store.scan(prefix, successor(prefix))
        }
        self._offsets = [offset for offset in sorted(found) if offset <= log_end]
        states, begin = ProducerStates(), FIRST_OFFSET
        if self._offsets:
            begin = self._offsets[-1]
            states = ProducerStates.restore(found[begin])
        self._batches = self._bytes = 0
        self._last_ms = now_ms
        if begin < log_end:
            for entry in self._reader.entries(begin):
                states.appended(entry.header, now_ms)
                self._batches += 1
                self._bytes += entry.header.size_bytes
        return states

    def is_current(self, log_end: Offset) -> bool:
        """Whether the newest snapshot tells all."""
        return log_end == (self._offsets[-1] if self._offsets else FIRST_OFFSET)

    def is_due(self, batch_bytes: int, now_ms: int) -> bool:
        """Count a batch; tell whether a snapshot should precede it."""
        self._batches += 1
        self._bytes += batch_bytes
        return (
            self._bytes >= SNAPSHOT_BYTES
            or self._batches >= SNAPSHOT_BATCHES
            or now_ms - self._last_ms >= SNAPSHOT_INTERVAL_MS
        )

    def add(self, mutation: Changes, states: ProducerStates, offset: Offset) -> None:
        """Put a snapshot of the windows below an offset into a mutation; drop the oldest."""
        mutation.put(self._key(offset), states.snapshot())
        for old in self._offsets[: 1 - SNAPSHOTS_KEPT]:
            mutation.delete(self._key(old))

    def added(self, offset: Offset, now_ms: int) -> None:
        """Note that the mutation of `add` was written."""
        kept = self._offsets[1 - SNAPSHOTS_KEPT :]
        self._offsets = [old for old in kept if old != offset] + [offset]
        self._batches = self._bytes = 0
        self._last_ms = now_ms

    def truncate(self, mutation: Changes, end: Offset) -> None:
        """Remove, in a mutation, the snapshots that speak of batches from `end` on."""
        for offset in self._offsets:
            if offset > end:
                mutation.delete(self._key(offset))

    def _key(self, offset: Offset) -> bytes:
        return state_key(self._uid, Table.LOG, _PREFIX + offset.to_bytes(8, "big"))

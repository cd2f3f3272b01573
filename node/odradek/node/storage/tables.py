"""Small values that other parts of a node keep beside a partition's log.

They ride in the same store and the same group commit as batches, and go when the partition is
dropped: committed offsets as the coordinator has applied them, for one.

Invariant: a table sees only its own keys.
"""

from collections.abc import Iterable, Mapping

from odradek.node.storage.keys import Table, state_key, state_key_of, successor
from odradek.node.storage.store import Mutation, Store
from odradek.node.storage.writer import Writer
from odradek.protocol.types import PartitionUid


class StateTable:
    """Ordered small values by partition and key.

    Args:
        table: Whose.
    """

    __slots__ = ("_store", "_table", "_writer")

    def __init__(self, store: Store, writer: Writer, table: Table) -> None:
        self._store = store
        self._writer = writer
        self._table = table

    def get(self, uid: PartitionUid, key: bytes) -> bytes | None:
        """Return one value."""
        return self._store.get(state_key(uid, self._table, key))

    def scan(self, uid: PartitionUid, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return the keys that begin with a prefix and their values, in order."""
        begin = state_key(uid, self._table, prefix)
        return [
            (state_key_of(key), value) for key, value in self._store.scan(begin, successor(begin))
        ]

    def write(
        self,
        uid: PartitionUid,
        put: Mapping[bytes, bytes],
        delete: Iterable[bytes] = (),
    ) -> int:
        """Change values, all or none, unsynced.

        Returns:
            The position to hand to `GroupCommit.when_durable`.

        Raises:
            ThrottledError, StorageFullError: Nothing was written, see `Writer.apply`.
        """
        mutation = Mutation()
        for key, value in put.items():
            mutation.put(state_key(uid, self._table, key), value)
        for key in delete:
            mutation.delete(state_key(uid, self._table, key))
        return self._writer.apply(mutation)

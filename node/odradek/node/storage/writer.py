"""The one way into the store: what may be written, what it costs, when it will be durable."""

from odradek.node.storage.group_commit import GroupCommit
from odradek.node.storage.space import Space
from odradek.node.storage.store import Mutation, Store
from odradek.protocol.errors import ThrottledError


class Writer:
    """Applies mutations and counts them towards space and the next group commit."""

    __slots__ = ("_group_commit", "_space", "_store")

    def __init__(self, store: Store, space: Space, group_commit: GroupCommit) -> None:
        self._store = store
        self._space = space
        self._group_commit = group_commit

    def admit(self, batch_bytes: int) -> None:
        """Refuse a batch that would eat into the disk's reserve.

        Raises:
            StorageFullError: Nothing was written.
        """
        self._space.admit(batch_bytes)

    def apply(self, mutation: Mutation) -> int:
        """Write a mutation, unsynced; it sees no limits, so that deletions always pass.

        Returns:
            The position to hand to `GroupCommit.when_durable`.

        Raises:
            ThrottledError: RocksDB cannot keep up; wait for `GroupCommit.room`, then try again.
            StorageFullError: The disk is full in spite of the reserve.
        """
        size_bytes = mutation.size_bytes
        try:
            self._store.write(mutation)
        except ThrottledError:
            self._group_commit.on_write_stall()
            raise
        self._space.on_written(size_bytes)
        return self._group_commit.on_appended(size_bytes)

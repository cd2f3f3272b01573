"""The newest batches of all partitions, so that whoever keeps up never touches the disk. Pure.

Idea: one bound in bytes for the node; when it is exceeded the batch appended longest ago goes, of
whichever partition. That is first in, first out rather than least recently used: a tailing reader
reads a batch within moments of its append and never again, and this order keeps what is cached of a
partition contiguous up to its end, so that a lookup is one binary search and a hit needs no proof.

Invariants: what is cached of a partition is a suffix of its log without a gap; the bytes held never
exceed the bound by more than the newest batch.
"""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field

from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionUid

_TRIM_AT = 512


@dataclass(slots=True)
class _Tail:
    """The cached batches of one partition; those before `head` are gone."""

    bases: list[Offset] = field(default_factory=list)
    batches: list[bytes] = field(default_factory=list)
    end: Offset = FIRST_OFFSET
    head: int = 0

    def pop_oldest(self) -> int:
        freed = len(self.batches[self.head])
        self.batches[self.head] = b""
        self.head += 1
        if self.head >= _TRIM_AT and self.head * 2 >= len(self.bases):
            del self.bases[: self.head], self.batches[: self.head]
            self.head = 0
        return freed


class TailCache:
    """Batches of all partitions of a node, newest last.

    Args:
        bytes_max: The bound; 0 caches nothing.
    """

    __slots__ = ("_order", "_tails", "bytes_held", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_held = 0
        self._tails: dict[PartitionUid, _Tail] = {}
        self._order: OrderedDict[tuple[PartitionUid, Offset], None] = OrderedDict()

    def append(
        self, uid: PartitionUid, base_offset: Offset, end_offset: Offset, batch: bytes
    ) -> None:
        """Add the newest batch of a partition.

        Args:
            end_offset: Where the next batch of the partition will start.
        """
        tail = self._tails.get(uid)
        if tail is None or tail.end != base_offset:
            self.discard(uid)
            tail = self._tails[uid] = _Tail()
        tail.bases.append(base_offset)
        tail.batches.append(batch)
        tail.end = end_offset
        self._order[uid, base_offset] = None
        self.bytes_held += len(batch)
        while self.bytes_held > self.bytes_max:
            (oldest_uid, _), _ = self._order.popitem(last=False)
            self.bytes_held -= self._tails[oldest_uid].pop_oldest()

    def read(
        self, uid: PartitionUid, offset: Offset, end_offset: Offset, bytes_max: int
    ) -> list[bytes] | None:
        """Return whole batches from the one that holds `offset` on.

        Args:
            end_offset: Batches that reach beyond it are left out.
            bytes_max: Enough; the first batch is returned however large.

        Returns:
            None when the disk must be asked; an empty list when nothing ends by `end_offset`.
        """
        tail = self._tails.get(uid)
        if tail is None or offset >= tail.end:
            return None
        at = bisect_right(tail.bases, offset, lo=tail.head) - 1
        if at < tail.head:
            return None
        found: list[bytes] = []
        room = bytes_max
        for i in range(at, len(tail.bases)):
            batch = tail.batches[i]
            batch_end = tail.bases[i + 1] if i + 1 < len(tail.bases) else tail.end
            room -= len(batch)
            if batch_end > end_offset or (room < 0 and found):
                break
            found.append(batch)
        return found

    def truncate(self, uid: PartitionUid, end_offset: Offset) -> None:
        """Forget batches that start at or after an offset."""
        tail = self._tails.get(uid)
        if tail is None:
            return
        while len(tail.bases) > tail.head and tail.bases[-1] >= end_offset:
            tail.end = tail.bases.pop()
            del self._order[uid, tail.end]
            self.bytes_held -= len(tail.batches.pop())

    def discard(self, uid: PartitionUid) -> None:
        """Forget a partition."""
        tail = self._tails.pop(uid, None)
        if tail is not None:
            self.bytes_held -= sum(map(len, tail.batches[tail.head :]))
            for base_offset in tail.bases[tail.head :]:
                del self._order[uid, base_offset]

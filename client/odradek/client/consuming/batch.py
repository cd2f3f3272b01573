"""Records of one partition that came together."""

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from odradek.client.record import Record

K = TypeVar("K")
V = TypeVar("V")


class Batch(Struct, Generic[K, V], frozen=True, gc=False):
    """What `Consumer.batches` yields.

    Attributes:
        topic: Where its records lie.
        partition: Where its records lie.
        records: In offset order; at least one.
        end_offset: The offset after the batch; committing it covers all of its records.
    """

    topic: str
    partition: int
    records: Sequence[Record[K, V]]
    end_offset: int

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record[K, V]]:
        return iter(self.records)

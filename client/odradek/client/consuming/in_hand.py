"""What an iterating application holds, and what it is done with.

A record counts as processed when the next one is asked for. So while the application holds a
record, those of its slice before it are processed, itself and those behind it are not. Those behind
it can be taken back at any time (pause, seek, revocation), without the application noticing.

With at-most-once delivery a record counts as processed the moment it is handed out.
"""

import operator
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from odradek.client.consuming.handout import Handout, Slice
from odradek.client.consuming.positions import Positions
from odradek.client.record import Record
from odradek.protocol.types import FIRST_OFFSET, Offset, TopicPartition

K = TypeVar("K")
V = TypeVar("V")


class InHand(Generic[K, V]):
    """The slice in the application's hands.

    Attributes:
        records: What it has not looked at yet; `Consumer.__anext__` steps through it.
        record: What it looked at last; None between two slices, and while it holds a whole slice.
        slice: What `records` are of; None between two slices.
    """

    def __init__(self, positions: Positions, handout: Handout[K, V], *, at_most_once: bool) -> None:
        self.records: Iterator[Record[K, V]] = iter(())
        self.record: Record[K, V] | None = None
        self.slice: Slice[K, V] | None = None
        self._positions = positions
        self._handout = handout
        self._at_most_once = at_most_once
        self._end = FIRST_OFFSET  # where the partition stands after what is still in hand
        self._returned = 0  # records of the slice that were taken back
        self._acknowledged = FIRST_OFFSET

    def begin(self, taken: Slice[K, V], *, whole: bool = False) -> None:
        """Give a slice to the application: record by record, or at once as a whole."""
        assert self.slice is None, "one slice at a time"
        self.slice, self._end = taken, taken.end
        self._returned, self._acknowledged = 0, taken.start
        self.records = iter(()) if whole else iter(taken.records)

    def finish(self) -> None:
        """The application asks for more: it is done with all it was given."""
        if self.slice is not None:
            self._processed(self.slice, self._end)
            self._drop()

    def rewind(self) -> None:
        """A loop begins while the application holds something: it left the one before early.

        What it held then was not processed and is handed out again, unless it was acknowledged.
        """
        taken = self.slice
        if taken is None:
            return
        self.settle()
        left = operator.length_hint(self.records) + self._returned
        if not self._at_most_once and self._acknowledged < self.position_in(taken):
            left = self._unacknowledged(taken) if self.record is None else left + 1
        self._handout.give_back(taken, left)
        self._drop()

    def settle(self) -> None:
        """Note what the application is done with although it did not ask for more yet."""
        if self.slice is None:
            return
        if self._at_most_once:
            self._processed(self.slice, self.position_in(self.slice))
        elif self.record is not None:
            self._processed(self.slice, Offset(self.record.offset))

    def acknowledge(self) -> None:
        """The application says that it is done with what it looked at, the last one included."""
        if self.slice is not None:
            self._acknowledged = self.position_in(self.slice)
            self._processed(self.slice, self._acknowledged)

    def acknowledge_to(self, partition: TopicPartition, end: Offset) -> None:
        """The application says that it is done with a partition's records below `end`."""
        if self.slice is not None and self.slice.partition.name == partition:
            self._acknowledged = max(self._acknowledged, end)

    def let_go(self, partitions: Iterable[TopicPartition]) -> None:
        """Take back what the application did not look at yet, if it is of these partitions."""
        taken = self.slice
        if taken is None or taken.partition.name not in set(partitions):
            return
        # Another thread may step until they are out of its reach; only then are they counted.
        records, self.records = self.records, iter(())
        left = operator.length_hint(records)
        if left:
            self._end = taken.start if self.record is None else Offset(self.record.offset + 1)
            self._returned += left
            self._handout.give_back(taken, left)
        self.settle()

    def position(self, partition: TopicPartition) -> Offset | None:
        """Return the next offset to hand out; None when the slice in hand does not decide it."""
        taken = self.slice
        if taken is None or taken.partition.name != partition:
            return None
        state = self._positions.current(partition, taken.generation)
        return None if state is None else self.position_in(taken)

    def position_in(self, taken: Slice[K, V]) -> Offset:
        """Return the offset after what the application looked at."""
        if operator.length_hint(self.records):
            return taken.start if self.record is None else Offset(self.record.offset + 1)
        return self._end

    def _unacknowledged(self, taken: Slice[K, V]) -> int:
        return sum(record.offset >= self._acknowledged for record in taken.records)

    def _processed(self, taken: Slice[K, V], end: Offset) -> None:
        self._positions.on_processed(taken.partition.name, taken.generation, end, taken.epoch)

    def _drop(self) -> None:
        self.slice = self.record = None
        self.records = iter(())

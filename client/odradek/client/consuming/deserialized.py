"""Records made of decoded bytes: the serdes' part, a piece at a time.

Problem: an object more, or a line of Python more, for each of a million records a second is what a
consumer spends its time on. Idea: make all records of a piece in one go, from its columns, without
a loop of ours and without collections meanwhile; `Record` is not tracked by the garbage collector.
A record that does not deserialize ends what is made; the rest waits behind it.

Invariant: records are made in offset order, each by exactly one call per serde (a failing one is
tried again when it is asked for again).
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Generic, TypeVar

from odradek.client.consuming.fetched import Piece
from odradek.client.consuming.positions import TopicIdPartition
from odradek.client.errors import DeserializationError
from odradek.client.record import Record
from odradek.client.serdes import Serde
from odradek.protocol.record_batch import NO_RECORDS, Columns, PlainRecord
from odradek.protocol.types import LeaderEpoch, Offset

K = TypeVar("K")
V = TypeVar("V")

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Portion(Generic[K, V]):
    """A piece as the application gets it.

    Attributes:
        start: Where the partition stood before it.
        end: Where it stands after it.
        epoch: The leader epoch of all of it.
        records: What could be made.
        raw: The bytes of `records`, if they were to be kept.
        waiting: The record that does not deserialize, and those behind it.
        error: Why it does not.
        index: The first of `records` that was not handed out.
    """

    start: Offset
    end: Offset
    epoch: LeaderEpoch
    records: list[Record[K, V]]
    raw: Columns | None
    waiting: Columns = NO_RECORDS
    error: DeserializationError | None = None
    index: int = 0

    def offset_at(self, index: int) -> Offset:
        """Return the position that remains when the records before `index` are handed out."""
        if index < len(self.records):
            return Offset(self.records[index].offset)
        return Offset(self.waiting.offsets[0]) if self.waiting else self.end

    def cut(self) -> None:
        """Leave nothing behind what was handed out."""
        self.end = self.offset_at(self.index)
        self.records = self.records[: self.index]  # the application may hold the list
        self.waiting, self.error = NO_RECORDS, None

    @property
    def next_timestamp_ms(self) -> int | None:
        """The time of the next record to hand out; None when there is none."""
        if self.index < len(self.records):
            return self.records[self.index].timestamp_ms
        return self.waiting.timestamps[0] if self.waiting else None

    @property
    def is_exhausted(self) -> bool:
        """Whether everything was handed out or skipped."""
        return self.index == len(self.records) and not self.waiting


class Deserializer(Generic[K, V]):
    """The serdes of one consumer.

    Attributes:
        keeps_raw: Whether portions keep the bytes (see `Portion.raw`).
    """

    def __init__(self, key: Serde[K], value: Serde[V]) -> None:
        self.keeps_raw = False
        self._key = key
        self._value = value

    def portion(self, partition: TopicIdPartition, start: Offset, piece: Piece) -> Portion[K, V]:
        """Make the records of a piece."""
        portion: Portion[K, V] = Portion(start, piece.end, piece.epoch, [], None)
        self._fill(partition, portion, piece.records)
        return portion

    def skip(self, partition: TopicIdPartition, portion: Portion[K, V]) -> Portion[K, V]:
        """Return what lies behind the record that does not deserialize.

        Another portion: whoever handles records of this one may ask for their bytes yet.
        """
        assert portion.index == len(portion.records), "it is next"
        start = Offset(portion.waiting.offsets[0] + 1)
        behind: Portion[K, V] = Portion(start, portion.end, portion.epoch, [], None)
        self._fill(partition, behind, portion.waiting.since(1))
        return behind

    def _fill(self, partition: TopicIdPartition, portion: Portion[K, V], raw: Columns) -> None:
        try:
            portion.records = self._make_all(partition, raw)
        except Exception:  # noqa: BLE001 a serde may raise anything; below we learn where
            portion.records = []
            for index in range(len(raw)):
                try:
                    portion.records.append(self._make(partition, raw.record(index)))
                except DeserializationError as error:
                    portion.error = error
                    portion.waiting = raw.since(index)
                    break
        if self.keeps_raw:
            portion.raw = raw

    def _make_all(self, partition: TopicIdPartition, raw: Columns) -> list[Record[K, V]]:
        return list(
            map(
                Record,
                repeat(partition.topic),
                repeat(partition.partition),
                raw.offsets,
                raw.timestamps,
                _decoded(self._key.decode, raw.keys),
                _decoded(self._value.decode, raw.values),
                raw.headers,
            )
        )

    def _make(self, partition: TopicIdPartition, raw: PlainRecord) -> Record[K, V]:
        part, serde = "key", self._key.name
        key: K | None = None
        value: Any = None
        try:
            if raw.key is not None:
                key = self._key.decode(raw.key)
            part, serde = "value", self._value.name
            if raw.value is not None:
                value = self._value.decode(raw.value)
        except Exception as error:
            wrapped = DeserializationError(
                partition.topic,
                partition.partition,
                raw.offset,
                part=part,
                serde=serde,
                reason=f"{type(error).__name__}: {error}",
            )
            raise wrapped from error
        return Record(
            partition.topic,
            partition.partition,
            raw.offset,
            raw.timestamp,
            key,
            value,
            raw.headers,
        )


def _decoded(decode: Callable[[bytes], T], column: Sequence[bytes | None]) -> Sequence[Any]:
    """Decode a column; null stays null."""
    if decode is bytes:
        return column  # what the producer sent, as it is
    return [None if data is None else decode(data) for data in column]


@contextmanager
def no_collections() -> Iterator[None]:
    """Keep the garbage collector off while a portion is made."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

"""What was fetched, and its way into the application's hands.

Problem: records must come in order, fairly from all partitions, quickly (a few hundred nanoseconds
each), and still any of them may have to stay back because its partition was paused, sought or
revoked a moment ago. Idea: a lane per partition holds fetched chunks and one decoded piece. `take`
hands out a slice of a piece; what the application did not look at yet can be given back.

Invariants: a lane belongs to one generation of its partition; `take` waits without losing anything
when it is cancelled; a slice is handed out only while its partition hands out; bytes are released
to the fetcher exactly once.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from odradek.client.errors import DeserializationError
from odradek.client.fetch_plan import Accepted
from odradek.client.fetched import Chunk, Piece
from odradek.client.positions import PartitionState, Positions, TopicIdPartition
from odradek.client.record import Record
from odradek.client.serdes import Serde
from odradek.protocol.errors import BrokerError, OdradekError
from odradek.protocol.record_batch import RawRecord
from odradek.protocol.types import LeaderEpoch, Offset, TopicPartition

K = TypeVar("K")
V = TypeVar("V")

PIECE_BYTES: Final = 256 * 1024
"""So much is decoded in one go: at most about 5 ms of small records."""
_THREAD_BYTES: Final = 64 * 1024  # compressed bytes worth a thread switch


@dataclass(frozen=True, slots=True)
class Slice(Generic[K, V]):
    """Records in the application's hands, all of one partition.

    Attributes:
        partition: Whose.
        generation: Positions' when it was handed out.
        records: In offset order; at least one.
        start: Where the partition stood before it.
        end: Where it stands after it.
        epoch: The leader epoch of its records.
    """

    partition: TopicIdPartition
    generation: int
    records: list[Record[K, V]]
    start: Offset
    end: Offset
    epoch: LeaderEpoch
    piece: Piece
    first_index: int


@dataclass(slots=True)
class _Lane:
    state: PartitionState
    generation: int
    chunks: deque[Chunk] = field(default_factory=deque)
    piece: Piece | None = None
    decoding: asyncio.Future[Piece] | None = None

    @property
    def is_current(self) -> bool:
        return self.state.generation == self.generation


class Handout(Generic[K, V]):
    """Between the fetcher and the application.

    Args:
        positions: Whose partitions.
        key: Decodes keys.
        value: Decodes values.
        release: Told when a push's bytes have left the buffer.
        on_damaged: Told when a partition's bytes turn out damaged; its lane is gone then.
    """

    def __init__(
        self,
        positions: Positions,
        key: Serde[K],
        value: Serde[V],
        *,
        release: Callable[[Accepted], None],
        on_damaged: Callable[[TopicIdPartition, int, BrokerError], None],
    ) -> None:
        self._positions = positions
        self._key = key
        self._value = value
        self._release = release
        self._on_damaged = on_damaged
        self._lanes: dict[TopicPartition, _Lane] = {}  # every one has something; in turn
        self._changed = asyncio.Event()
        self._closed = False
        self._failure: BaseException | None = None
        self._failures: dict[TopicPartition, tuple[int, OdradekError]] = {}

    # ------------------------------------------------------------------ what comes in

    def add(self, chunk: Chunk) -> None:
        """Take a push over."""
        name = chunk.push.partition.name
        state = self._positions.current(name, chunk.push.generation)
        if state is None:
            self._release(chunk.push)
            return
        lane = self._lanes.get(name)
        if lane is None or not lane.is_current:
            self.drop([name])
            lane = self._lanes[name] = _Lane(state, chunk.push.generation)
        lane.chunks.append(chunk)
        self._changed.set()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget what was fetched of some partitions: they moved, or are no longer ours."""
        for name in partitions:
            lane = self._lanes.pop(name, None)
            self._failures.pop(name, None)
            if lane is not None:
                for chunk in lane.chunks:
                    self._release(chunk.push)

    def wake(self) -> None:
        """Have a waiting `take` look again: something may be handed out now."""
        self._changed.set()

    def close(self) -> None:
        """Hand out nothing more."""
        self._closed = True
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Raise this at every `take` from now on."""
        self._failure = error
        self._changed.set()

    def fail_partition(
        self, partition: TopicIdPartition, generation: int, error: OdradekError
    ) -> None:
        """Raise this at every `take` until the partition is moved or given up."""
        if self._positions.current(partition.name, generation) is not None:
            self._failures[partition.name] = (generation, error)
            self._changed.set()

    def has_failed(self, partition: TopicPartition, generation: int) -> bool:
        """Whether a failure of this generation waits to be raised, or was raised."""
        return self._failures.get(partition, (None, None))[0] == generation

    def raise_failures(self) -> None:
        """Raise what makes going on impossible, if anything does."""
        if self._failure is not None:
            raise self._failure
        for name, (generation, error) in self._failures.items():
            if self._positions.current(name, generation) is not None:
                raise error

    # ------------------------------------------------------------------ what goes out

    async def take(
        self, count_max: int, *, but_not: Container[TopicPartition] = ()
    ) -> Slice[K, V] | None:
        """Return the next records, waiting for them if need be; None once closed. Safe to cancel.

        Args:
            count_max: At most so many.
            but_not: None of these partitions; `wake` when it has fewer of them.

        Raises:
            DeserializationError: At the record that is next in its partition; raised again until
                `skip` or a seek moves past it.
            OdradekError: Why one of the partitions, or the whole consumer, cannot go on.
        """
        while not self._closed:
            if self._failure is not None or self._failures:
                self.raise_failures()
            lane = self._next_lane(but_not)
            if lane is None:
                self._changed.clear()
                await self._changed.wait()
            elif lane.piece is None:
                await self._decode(lane)
            elif (taken := self._take_from(lane, lane.piece, count_max)) is not None:
                return taken
        return None

    def give_back(self, taken: Slice[K, V], count: int) -> None:
        """Take back the last `count` records of a slice; they are handed out again later."""
        state = self._positions.current(taken.partition.name, taken.generation)
        if count == 0 or state is None:
            return
        piece = taken.piece
        piece.index = taken.first_index + len(taken.records) - count
        position = piece.offset_at(piece.index)
        self._positions.on_given_back(taken.partition.name, taken.generation, position, piece.epoch)
        lane = self._lanes.get(taken.partition.name)
        if lane is None:
            lane = self._lanes[taken.partition.name] = _Lane(state, taken.generation)
        assert lane.piece is None or lane.piece is piece, "slices come back in order"
        lane.piece = piece

    def next_raw(self, partition: TopicPartition) -> RawRecord | None:
        """Return the next record to hand out, not deserialized, if it is decoded already."""
        lane = self._lanes.get(partition)
        piece = lane.piece if lane is not None and lane.is_current else None
        if piece is None or piece.index >= len(piece.records):
            return None
        return piece.records[piece.index]

    def skip(self, partition: TopicPartition, offset: int) -> bool:
        """Move past the record at `offset` if it is the next; False when it is not.

        The record was not handed out, so it counts as processed once all before it are.
        """
        raw = self.next_raw(partition)
        if raw is None or raw.offset != offset:
            return False
        lane = self._lanes[partition]
        piece = lane.piece
        assert piece is not None, "its next record was just seen"
        piece.index += 1
        self._positions.on_passed_over(
            partition, lane.generation, piece.offset_at(piece.index), piece.epoch
        )
        if piece.index == len(piece.records):
            self._turn(lane)
        return True

    # ------------------------------------------------------------------ lanes

    def _next_lane(self, but_not: Container[TopicPartition]) -> _Lane | None:
        for name, lane in self._lanes.items():
            if lane.is_current and lane.state.hands_out and name not in but_not:
                return lane
        return None

    def _wants_thread(self, chunk: Chunk) -> bool:
        return chunk.compressed_bytes(PIECE_BYTES) >= _THREAD_BYTES

    async def _decode(self, lane: _Lane) -> None:
        if lane.decoding is None:
            if not self._wants_thread(lane.chunks[0]):
                self._decode_here(lane)
                return
            chunk, position = lane.chunks[0], _position(lane)
            lane.decoding = asyncio.get_running_loop().run_in_executor(
                None, chunk.next_piece, position, PIECE_BYTES
            )
            lane.decoding.add_done_callback(_ignore_outcome)
        # `wait` leaves the thread's work alone when we are cancelled: the next call picks it up.
        if not lane.decoding.done():
            await asyncio.wait((lane.decoding,))
        decoding, lane.decoding = lane.decoding, None
        if lane.is_current and self._lanes.get(lane.state.id.name) is lane:
            try:
                self._keep(lane, decoding.result())
            except BrokerError as error:
                self._damaged(lane, error)

    def _decode_here(self, lane: _Lane) -> None:
        try:
            self._keep(lane, lane.chunks[0].next_piece(_position(lane), PIECE_BYTES))
        except BrokerError as error:
            self._damaged(lane, error)

    def _keep(self, lane: _Lane, piece: Piece) -> None:
        lane.piece = piece
        if not lane.chunks[0].batches:
            self._release(lane.chunks.popleft().push)

    def _damaged(self, lane: _Lane, error: BrokerError) -> None:
        self.drop([lane.state.id.name])
        self._on_damaged(lane.state.id, lane.generation, error)

    def _take_from(self, lane: _Lane, piece: Piece, count_max: int) -> Slice[K, V] | None:
        """Hand out some of a piece; None when it has nothing to show."""
        name, start, first = lane.state.id.name, _position(lane), piece.index
        raw = piece.records
        if not raw:
            self._turn(lane)
            self._positions.on_passed_over(name, lane.generation, piece.end, piece.epoch)
            return None
        if first or len(raw) > count_max:
            raw = raw[first : first + count_max]
        records = self._deserialize(lane.state.id, raw)
        piece.index = first + len(records)
        end = piece.offset_at(piece.index)
        if piece.index == len(piece.records):
            self._turn(lane)
        self._positions.on_handed(name, lane.generation, end, piece.epoch)
        return Slice(lane.state.id, lane.generation, records, start, end, piece.epoch, piece, first)

    def _turn(self, lane: _Lane) -> None:
        """The piece is handed out: it is the next lane's turn."""
        lane.piece = None
        name = lane.state.id.name
        del self._lanes[name]
        if lane.chunks:
            self._lanes[name] = lane

    def _deserialize(self, partition: TopicIdPartition, raw: list[RawRecord]) -> list[Record[K, V]]:
        """Return as many records as can be made; raise if not even the first can."""
        key: Callable[[bytes], K] = self._key.decode
        value: Callable[[bytes], Any] = self._value.decode
        topic, index = partition.topic, partition.partition
        try:
            return [
                Record(
                    topic,
                    index,
                    each.offset,
                    -1 if (timestamp := each.timestamp) is None else timestamp,
                    None if (data := each.key) is None else key(data),
                    None if (data := each.value) is None else value(data),  # type: ignore[arg-type]
                    each.headers,
                )
                for each in raw
            ]
        except Exception:  # noqa: BLE001 a serde may raise anything; below we learn where
            records: list[Record[K, V]] = []
            for each in raw:
                try:
                    records.append(self._deserialize_one(partition, each))
                except DeserializationError:
                    if records:
                        return records
                    raise
            return records

    def _deserialize_one(self, partition: TopicIdPartition, raw: RawRecord) -> Record[K, V]:
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
            raise DeserializationError(
                partition.topic,
                partition.partition,
                raw.offset,
                part=part,
                serde=serde,
                reason=f"{type(error).__name__}: {error}",
            ) from error
        timestamp_ms = -1 if raw.timestamp is None else raw.timestamp
        return Record(
            partition.topic, partition.partition, raw.offset, timestamp_ms, key, value, raw.headers
        )


def _position(lane: _Lane) -> Offset:
    assert lane.state.position is not None, "only positioned partitions hand out"
    return lane.state.position


def _ignore_outcome(decoding: asyncio.Future[Piece]) -> None:
    """Keep asyncio from reporting an error that concerned a lane which is gone."""
    if not decoding.cancelled():
        decoding.exception()

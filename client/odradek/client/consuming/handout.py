"""What was fetched, and its way into the application's hands.

Problem: records must come in order, fairly from all partitions, quickly (a few hundred nanoseconds
each), and still any of them may have to stay back because its partition was paused, sought or
revoked a moment ago. Idea: a lane per partition holds fetched chunks and one portion made of them.
`take` hands out a slice of it; what the application did not look at yet can be given back.

Invariants: a lane belongs to one generation of its partition; `take` waits without losing anything
when it is cancelled; a slice is handed out only while its partition hands out; bytes are released
to the fetcher exactly once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from odradek.client.consuming.deserialized import Deserializer, Portion, no_collections
from odradek.client.consuming.fetch_plan import Accepted
from odradek.client.consuming.fetched import Chunk, Piece
from odradek.client.consuming.positions import PartitionState, Positions, TopicIdPartition
from odradek.client.record import Record
from odradek.client.serdes import Serde
from odradek.protocol.errors import BrokerError, OdradekError
from odradek.protocol.record_batch import PlainRecord
from odradek.protocol.types import LeaderEpoch, Offset, TopicPartition

K = TypeVar("K")
V = TypeVar("V")

PIECE_BYTES: Final = 256 * 1024
"""So much is decoded in one go: at most about 5 ms of small records."""
_THREAD_BYTES: Final = 64 * 1024  # compressed bytes worth a thread switch


class Slice(Struct, Generic[K, V], frozen=True):
    """Records in the application's hands, all of one partition.

    Attributes:
        partition: Whose.
        generation: Positions' when it was handed out.
        records: In offset order; at least one.
        start: Where the partition stood before it.
        end: Where it stands after it.
        epoch: The leader epoch of its records.
        portion: Whence.
        first_index: Of its first record within the portion.
    """

    partition: TopicIdPartition
    generation: int
    records: list[Record[K, V]]
    start: Offset
    end: Offset
    epoch: LeaderEpoch
    portion: Portion[K, V]
    first_index: int

    def raw(self, index: int) -> PlainRecord:
        """Return the bytes of a record; only after `Handout.keep_raw`."""
        assert self.portion.raw is not None, "kept"
        return self.portion.raw.record(self.first_index + index)


@dataclass(slots=True, eq=False)
class _Lane(Generic[K, V]):
    state: PartitionState
    generation: int
    chunks: deque[Chunk] = field(default_factory=deque)
    portion: Portion[K, V] | None = None
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
        self._deserializer = Deserializer(key, value)
        self._release = release
        self._on_damaged = on_damaged
        self._lanes: dict[TopicPartition, _Lane[K, V]] = {}  # every one has something; in turn
        self._changed = asyncio.Event()
        self._closed = False
        self.waited_s = 0.0
        """When `take` last had to wait, on the monotonic clock."""
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

    def drop_ahead(self, partition: TopicPartition) -> None:
        """Forget what was not handed out of a partition; what was may still be given back."""
        lane = self._lanes.get(partition)
        if lane is not None and lane.portion is not None:
            lane.portion.cut()
        self.drop([partition])

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
                self.waited_s = time.monotonic()
            elif lane.portion is None:
                await self._decode(lane)
            elif (taken := self._take_from(lane, lane.portion, count_max)) is not None:
                return taken
        return None

    def give_back(self, taken: Slice[K, V], count: int) -> None:
        """Take back the last `count` records of a slice; they are handed out again later."""
        state = self._positions.current(taken.partition.name, taken.generation)
        if count == 0 or state is None:
            return
        portion = taken.portion
        portion.index = taken.first_index + len(taken.records) - count
        position = portion.offset_at(portion.index)
        self._positions.on_given_back(
            taken.partition.name, taken.generation, position, portion.epoch
        )
        if portion.is_exhausted:
            return  # what comes back was dropped meanwhile
        lane = self._lanes.get(taken.partition.name)
        if lane is None:
            lane = self._lanes[taken.partition.name] = _Lane(state, taken.generation)
        assert lane.portion is None or lane.portion is portion, "slices come back in order"
        lane.portion = portion

    def keep_raw(self, *, keep: bool) -> list[TopicPartition]:
        """Keep the bytes of records that are handed out, or no longer.

        Returns:
            Partitions with a portion that was made without; they have to be fetched again.
        """
        self._deserializer.keeps_raw = keep
        return [
            name
            for name, lane in self._lanes.items()
            if keep and lane.portion is not None and lane.portion.raw is None
        ]

    def next_timestamp_ms(self, partition: TopicPartition) -> int | None:
        """Return the time of the next record to hand out, if it has been fetched.

        Of one that is not decoded yet it is the time of its batch's first.
        """
        lane = self._lanes.get(partition)
        if lane is None or not lane.is_current:
            return None
        if lane.portion is not None:
            return lane.portion.next_timestamp_ms
        header = lane.chunks[0].batches[0].header
        return header.max_timestamp if header.is_log_append_time else header.base_timestamp

    def damaged(self, partition: TopicPartition, offset: int) -> PlainRecord | None:
        """Return the record at `offset`, if it is next and does not deserialize."""
        lane = self._lanes.get(partition)
        portion = lane.portion if lane is not None and lane.is_current else None
        if portion is None or portion.index < len(portion.records):
            return None
        if not portion.waiting or portion.waiting.offsets[0] != offset:
            return None
        return portion.waiting.record(0)

    def skip(self, partition: TopicPartition, offset: int) -> bool:
        """Move past the record at `offset`, if it is next and does not deserialize.

        It was not handed out, so it counts as processed once all before it are.
        """
        if self.damaged(partition, offset) is None:
            return False
        lane = self._lanes[partition]
        assert lane.portion is not None, "it holds the damaged record"
        lane.portion = portion = self._deserializer.skip(lane.state.id, lane.portion)
        self._positions.on_passed_over(
            partition, lane.generation, portion.offset_at(0), portion.epoch
        )
        if portion.is_exhausted:
            self._turn(lane)
        return True

    # ------------------------------------------------------------------ lanes

    def _next_lane(self, but_not: Container[TopicPartition]) -> _Lane[K, V] | None:
        for name, lane in self._lanes.items():
            if lane.is_current and lane.state.hands_out and name not in but_not:
                return lane
        return None

    def _wants_thread(self, chunk: Chunk) -> bool:
        return chunk.compressed_bytes(PIECE_BYTES) >= _THREAD_BYTES

    async def _decode(self, lane: _Lane[K, V]) -> None:
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

    def _decode_here(self, lane: _Lane[K, V]) -> None:
        try:
            with no_collections():
                self._keep(lane, lane.chunks[0].next_piece(_position(lane), PIECE_BYTES))
        except BrokerError as error:
            self._damaged(lane, error)

    def _keep(self, lane: _Lane[K, V], piece: Piece) -> None:
        if not lane.chunks[0].batches:
            # A pass of the loop later: what comes first is that it is handed out.
            asyncio.get_running_loop().call_soon(self._release, lane.chunks.popleft().push)
        if piece.records:
            lane.portion = self._deserializer.portion(lane.state.id, _position(lane), piece)
            return
        self._turn(lane)
        self._positions.on_passed_over(lane.state.id.name, lane.generation, piece.end, piece.epoch)

    def _damaged(self, lane: _Lane[K, V], error: BrokerError) -> None:
        self.drop([lane.state.id.name])
        self._on_damaged(lane.state.id, lane.generation, error)

    def _take_from(
        self, lane: _Lane[K, V], portion: Portion[K, V], count_max: int
    ) -> Slice[K, V] | None:
        """Hand out some of a portion.

        Raises:
            DeserializationError: Its next record does not deserialize.
        """
        first = portion.index
        records = portion.records
        if first == len(records):
            assert portion.error is not None, "an exhausted portion is gone"
            raise portion.error
        if first or len(records) > count_max:
            records = records[first : first + count_max]
        start = _position(lane)
        portion.index = first + len(records)
        end = portion.offset_at(portion.index)
        if portion.is_exhausted:
            self._turn(lane)
        name = lane.state.id.name
        self._positions.on_handed(name, lane.generation, end, portion.epoch)
        return Slice(
            lane.state.id, lane.generation, records, start, end, portion.epoch, portion, first
        )

    def _turn(self, lane: _Lane[K, V]) -> None:
        """The portion is handed out: it is the next lane's turn."""
        lane.portion = None
        name = lane.state.id.name
        del self._lanes[name]
        if lane.chunks:
            self._lanes[name] = lane


def _position(lane: _Lane[Any, Any]) -> Offset:
    assert lane.state.position is not None, "only positioned partitions hand out"
    return lane.state.position


def _ignore_outcome(decoding: asyncio.Future[Piece]) -> None:
    """Keep asyncio from reporting an error that concerned a lane which is gone."""
    if not decoding.cancelled():
        decoding.exception()

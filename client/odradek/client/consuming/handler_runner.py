"""`Consumer.run`: many handlers at a time, in order where order matters.

A dispatcher takes slices a little ahead of the handlers, and from no partition so many that others
would have to wait; a record starts when its line and a slot are free. Offsets follow the ledger's
frontier, so a record that is not handled is never committed past. A record that fails every attempt
goes to the dead letter topic; if there is none, nothing more is started, what runs is finished, and
`run` raises.

Source: Confluent's Parallel Consumer (ordering by key over a partition log).
"""

import asyncio
import random
import sys
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Container, Hashable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from odradek.client.consuming.handler_order import Ledger, Lines, OrderedBy
from odradek.client.consuming.handout import Slice
from odradek.client.consuming.positions import Positions
from odradek.client.errors import DeserializationError
from odradek.client.record import Record
from odradek.protocol.record_batch import PlainRecord
from odradek.protocol.types import Offset, PartitionIndex, TopicName, TopicPartition
from odradek.rpc.backoff import delays

K = TypeVar("K")
V = TypeVar("V")

_AHEAD: Final = 2  # records taken for each that can be handled now
_RETRY_DELAY_S_MAX: Final = 30.0


class Source(Protocol[K, V]):
    """Where the runner gets records from."""

    async def take(
        self, count_max: int, *, but_not: Container[TopicPartition] = ()
    ) -> Slice[K, V] | None:
        """Return the next records; None when the consumer is closed."""

    def damaged(self, error: DeserializationError) -> PlainRecord | None:
        """Return the record that does not deserialize; None when it is gone."""

    def skip(self, error: DeserializationError) -> bool:
        """Step past a record that does not deserialize; False when it is gone."""

    def on_progress(self) -> None:
        """Something was processed, and `but_not` may have shrunk."""

    def rewind(self, partition: TopicPartition) -> None:
        """Hand out again what was taken of a partition and not processed."""


class DeadLetters(Protocol):
    """Where records go that cannot be handled."""

    async def put(self, raw: PlainRecord, origin: TopicPartition, error: BaseException) -> None:
        """Return once the record is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to run handlers; see `Consumer.run`."""

    concurrency: int
    ordered_by: OrderedBy
    retries: int
    retry_delay_s: float
    timeout_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class _Work(Generic[K, V]):
    taken: Slice[K, V]
    index: int
    line: Hashable | None

    @property
    def record(self) -> Record[K, V]:
        return self.taken.records[self.index]

    @property
    def raw(self) -> PlainRecord:
        return self.taken.raw(self.index)


class HandlerRunner(Generic[K, V]):
    """One call of `Consumer.run`."""

    def __init__(
        self,
        source: Source[K, V],
        positions: Positions,
        handler: Callable[[Record[K, V]], Awaitable[object]],
        options: RunOptions,
        dead_letters: DeadLetters | None,
        *,
        at_most_once: bool,
        chance: random.Random,
    ) -> None:
        self._source = source
        self._positions = positions
        self._handler = handler
        self._options = options
        self._dead_letters = dead_letters
        self._at_most_once = at_most_once
        self._chance = chance
        self._lines: Lines[_Work[K, V]] = Lines()
        self._ledgers: dict[tuple[TopicPartition, int], Ledger] = {}
        self._startable: deque[_Work[K, V]] = deque()
        self._running: dict[_Work[K, V], float] = {}
        self._admitted: Counter[TopicPartition] = Counter()
        self._full: set[TopicPartition] = set()
        if options.ordered_by is OrderedBy.PARTITION:
            # One of a partition at a time, so partitions bound what is taken.
            self._partition_max, self._total_max = _AHEAD, sys.maxsize
        else:
            self._partition_max = max(_AHEAD, options.concurrency)
            self._total_max = _AHEAD * options.concurrency
        self._room = asyncio.Event()
        self._stopped = asyncio.Event()
        self._error: BaseException | None = None
        self.finished = asyncio.Event()

    def oldest(self) -> tuple[Record[K, V], float] | None:
        """Return the record that has been in its handler longest, and since when."""
        return next(((work.record, since_s) for work, since_s in self._running.items()), None)

    async def run(self) -> None:
        """Handle records until the consumer is closed or a record cannot be handled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                dispatcher = tasks.create_task(self._dispatch(tasks))
                await self._stopped.wait()
                dispatcher.cancel()
        finally:
            self._give_back_unhandled()
            self.finished.set()
        if self._error is not None:
            raise self._error

    # ------------------------------------------------------------------ taking

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        try:
            while (taken := await self._take()) is not None:
                self._admit(taken, tasks)
            self._stop(None)
        except Exception as error:  # noqa: BLE001 raised by `run`, once handlers have ended
            self._stop(error)

    async def _take(self) -> Slice[K, V] | None:
        while True:
            room = min(self._partition_max, self._total_max - self._admitted.total())
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                return await self._source.take(room, but_not=self._full)
            except DeserializationError as error:
                if self._dead_letters is None:
                    raise
                raw = self._source.damaged(error)
                if raw is not None:
                    origin = TopicPartition(TopicName(error.topic), PartitionIndex(error.partition))
                    await self._dead_letters.put(raw, origin, error)
                    self._source.skip(error)  # stored: now it may be committed past

    def _admit(self, taken: Slice[K, V], tasks: asyncio.TaskGroup) -> None:
        name = taken.partition.name
        ledger = self._ledgers.setdefault((name, taken.generation), Ledger())
        last = len(taken.records) - 1
        for index, record in enumerate(taken.records):
            end = taken.end if index == last else Offset(record.offset + 1)
            ledger.add(record.offset, end)
            work = _Work(taken, index, self._line_of(taken, index))
            if self._lines.join(work.line, work):
                self._startable.append(work)
        self._admitted[name] += len(taken.records)
        if self._admitted[name] >= self._partition_max:
            self._full.add(name)
        if self._at_most_once:
            self._positions.on_processed(name, taken.generation, taken.end, taken.epoch)
        self._start_some(tasks)

    def _line_of(self, taken: Slice[K, V], index: int) -> Hashable | None:
        match self._options.ordered_by:
            case OrderedBy.NOTHING:
                return None
            case OrderedBy.PARTITION:
                return taken.partition.name
            case OrderedBy.KEY:
                key = taken.raw(index).key
                return None if key is None else (taken.partition.name, key)

    # ------------------------------------------------------------------ handling

    def _start_some(self, tasks: asyncio.TaskGroup) -> None:
        if self._stopped.is_set():
            return
        now_s = asyncio.get_running_loop().time()
        while self._startable and len(self._running) < self._options.concurrency:
            work = self._startable.popleft()
            if self._is_void(work.taken):
                self._done(work)
                continue
            self._running[work] = now_s
            tasks.create_task(self._work(work, tasks))

    def _is_void(self, taken: Slice[K, V]) -> bool:
        """Whether what waits of a slice comes again, or elsewhere: it was sought, or given up.

        At most once it never does: it is committed.
        """
        name, generation = taken.partition.name, taken.generation
        return not self._at_most_once and self._positions.current(name, generation) is None

    async def _work(self, work: _Work[K, V], tasks: asyncio.TaskGroup) -> None:
        try:
            await self._handle(work)
        except Exception as error:  # noqa: BLE001 raised by `run`, once other handlers have ended
            self._stop(error)
            return
        finally:
            del self._running[work]
        self._done(work)
        self._start_some(tasks)

    async def _handle(self, work: _Work[K, V]) -> None:
        pauses = delays(
            self._chance, initial_s=self._options.retry_delay_s, max_s=_RETRY_DELAY_S_MAX
        )
        for retries_left in reversed(range(self._options.retries + 1)):
            try:
                await self._attempt(work.record)
            except Exception as error:
                record = work.record
                error.add_note(
                    f"while handling {record.topic}-{record.partition} offset {record.offset}"
                )
                if retries_left:
                    await asyncio.sleep(next(pauses))
                elif self._dead_letters is None:
                    raise
                else:
                    await self._dead_letters.put(work.raw, work.taken.partition.name, error)
            else:
                return

    async def _attempt(self, record: Record[K, V]) -> None:
        """Call the handler once; its own `CancelledError` is a failure like any other.

        Taken for the end of our task, it would leave the record, and its line, for ever unhandled.
        """
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await self._handler(record)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError("the handler raised CancelledError") from error

    def _done(self, work: _Work[K, V]) -> None:
        taken = work.taken
        key = (taken.partition.name, taken.generation)
        ledger = self._ledgers[key]
        frontier = ledger.done(work.record.offset)
        if frontier is not None:
            self._positions.on_processed(*key, frontier, taken.epoch)
            if not ledger:
                del self._ledgers[key]
        self._admitted[key[0]] -= 1
        if self._admitted[key[0]] < self._partition_max:
            self._full.discard(key[0])
        self._room.set()
        self._source.on_progress()
        successor = self._lines.leave(work.line)
        if successor is not None:
            self._startable.append(successor)

    def _give_back_unhandled(self) -> None:
        """Have what was taken and not handled handed out again: offsets must not pass it."""
        for (name, generation), ledger in self._ledgers.items():
            if ledger and self._positions.current(name, generation) is not None:
                self._source.rewind(name)

    def _stop(self, error: BaseException | None) -> None:
        if self._error is None:
            self._error = error
        self._stopped.set()

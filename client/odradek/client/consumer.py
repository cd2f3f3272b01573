"""The consumer: `async for record in consumer`.

Problem: records at memory speed, one at a time, and a commit that never runs ahead of the loop
body. Idea: the application holds a slice of records of one partition (`InHand`); asking for the
next record is stepping through a list, and only every few milliseconds touches the event loop.

Invariants: a record counts as processed when the next one is asked for; a loop that was left early
(by `break` or an exception) leaves its record unprocessed, and the next loop begins with it again;
whatever is cancelled between two records, the next `__anext__` continues without gap; `close`
commits what was processed and leaves the group.

Heartbeats and commits come from tasks of the consumer, so a slow `await` in the loop body is fine.
A body that blocks the event loop (`time.sleep`, long computation) stops them: after the group's
session time-out (45 s) the member is expelled. Use `asyncio.to_thread` for such work.
"""

import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Generic, Literal, Self, TypeAlias, TypeVar

from odradek.client import serdes
from odradek.client.cluster.scope import Scope
from odradek.client.config import ConsumerOptions, ProducerOptions
from odradek.client.consuming.batch import Batch
from odradek.client.consuming.commits import Offsets
from odradek.client.consuming.consumption import Consumption, Partition
from odradek.client.consuming.dead_letters import DeadLetterTopic
from odradek.client.consuming.handler_order import OrderedBy
from odradek.client.consuming.handler_runner import RunOptions
from odradek.client.consuming.positions import Target, check_offset
from odradek.client.consuming.queries import Lag
from odradek.client.consuming.reader import resolve_start
from odradek.client.errors import ClientClosedError, ConsumerBusyError, DeserializationError
from odradek.client.producer import Producer
from odradek.client.record import Record
from odradek.client.serdes import Serde
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.types import TopicPartition

K = TypeVar("K")
V = TypeVar("V")

SeekTarget: TypeAlias = int | Literal["earliest", "latest"] | datetime | timedelta
"""An offset, an end of the log, the first record at or after a time, or so long ago."""

_SLICE_S: Final = 0.01  # what the application should need for a slice
_SLICE_RECORDS_MAX: Final = 1024
_BATCH_RECORDS_MAX: Final = 1 << 30


class Consumer(Generic[K, V]):
    """Reads records; made by `Client.consumer` and entered with `async with`.

    One task at a time asks for records; everything else may be called from any task of the loop.
    """

    def __init__(
        self,
        scope: Scope,
        options: ConsumerOptions,
        topics: Iterable[str],
        key: Serde[K],
        value: Serde[V],
    ) -> None:
        self._scope = scope
        self._inside: Consumption[K, V] = Consumption(scope, options, topics, key, value)
        self._in_hand = self._inside.in_hand
        self._entered = False
        self._closing = False
        self._closed = False
        self._busy = False
        self._slice_records = 1
        self._slice_began_s = 0.0

    # ------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        """Check the topics, then join the group or begin to read.

        Raises:
            UnknownTopicOrPartitionError: At once, with near names.
        """
        self._scope.check()
        if self._entered:
            raise ClientClosedError("a consumer is entered once; make another one")
        await self._inside.start()
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if getattr(self, "_entered", False) and not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"Consumer(group={self._inside.options.group!r})"

    async def close(self) -> None:
        """Commit what was processed and leave the group; a second call does nothing.

        A loop that waits for records in another task ends; handlers of `run` end first. They, and
        callbacks, may use the consumer until then.
        """
        if self._entered and not self._closing:
            self._closing = True
            try:
                await self._inside.close()
            finally:
                self._closed = True

    # ------------------------------------------------------------------ records

    def __aiter__(self) -> Self:
        """Begin a loop; what a loop before left unprocessed comes first, unless committed."""
        self._check()
        self._in_hand.rewind()
        return self

    async def __anext__(self) -> Record[K, V]:
        """Return the next record; the one before counts as processed from now on.

        Safe to cancel: nothing is lost.

        Raises:
            StopAsyncIteration: The consumer was closed.
            DeserializationError: The next record does not fit the serdes; raised again until
                `skip(error)` or a seek moves past it.
            OdradekError: A partition, or the group, cannot be read any more.
        """
        hand = self._in_hand
        for record in hand.records:
            hand.record = record
            return record
        return await self._next_record()

    async def _next_record(self) -> Record[K, V]:
        await self._next_slice(self._fitting_count(), whole=False)
        hand = self._in_hand
        hand.record = next(hand.records)
        return hand.record

    async def batches(self) -> AsyncGenerator[Batch[K, V], None]:
        """Iterate over records in batches, each of one partition: the fastest way to read.

        A batch counts as processed when the next one is asked for.
        """
        self._check()
        self._in_hand.rewind()
        while True:
            try:
                await self._next_slice(_BATCH_RECORDS_MAX, whole=True)
            except StopAsyncIteration:
                return
            taken = self._in_hand.slice
            assert taken is not None, "just begun"
            name = taken.partition
            yield Batch(name.topic, name.partition, taken.records, taken.end)

    async def _next_slice(self, count_max: int, *, whole: bool) -> None:
        if self._closing:
            raise StopAsyncIteration
        self._check()
        if self._busy:
            raise ConsumerBusyError
        self._busy = True
        try:
            self._in_hand.finish()
            self._inside.on_progress()
            taken = await self._inside.take(count_max)
            if taken is None:
                raise StopAsyncIteration
            self._in_hand.begin(taken, whole=whole)
        finally:
            self._busy = False

    def _fitting_count(self) -> int:
        """Return how many records to hand out before the loop gets a chance to run."""
        now_s = time.monotonic()
        took_s, self._slice_began_s = now_s - self._slice_began_s, now_s
        fitting = int(self._slice_records * _SLICE_S / max(took_s, 1e-6))
        self._slice_records = max(1, min(fitting, 2 * self._slice_records, _SLICE_RECORDS_MAX))
        return self._slice_records

    def skip(self, error: DeserializationError) -> bool:
        """Move past the record an error is about, which then counts as processed.

        Returns:
            False when it is no longer the next one: it was sought past, or its partition is gone.
        """
        self._check()
        return self._inside.skip(error)

    async def run(
        self,
        handler: Callable[[Record[K, V]], Awaitable[object]],
        *,
        concurrency: int = 16,
        ordered_by: OrderedBy | Literal["partition", "key"] | None = "partition",
        retries: int = 0,
        retry_delay_s: float = 0.1,
        dead_letter: str | None = None,
    ) -> None:
        """Handle records concurrently until the consumer is closed or this call is cancelled.

        A record counts as processed when its handler returned, and is committed when all before it
        in its partition are. Handlers of a revoked partition end before another member gets it.

        Args:
            handler: Called with each record; `max_processing_time_s` limits each call.
            concurrency: Handlers at a time.
            ordered_by: Records of a partition, or of a key, are handled one after the other; None:
                in any order.
            retries: Attempts after a failed one.
            retry_delay_s: Before the first retry; doubles up to 30 s.
            dead_letter: Topic for records that failed every attempt, or do not deserialize; None:
                the error is raised once the other handlers have ended.

        Raises:
            Exception: What the handler raised, with a note naming the record. The record was not
                processed; the next `run` begins with it.
            UnknownTopicOrPartitionError: There is no topic `dead_letter`; nothing was handled.
        """
        self._check()
        options = RunOptions(
            concurrency=_at_least("concurrency", concurrency, 1),
            ordered_by=_ordered_by(ordered_by),
            retries=_at_least("retries", retries, 0),
            retry_delay_s=retry_delay_s,
            timeout_s=self._inside.options.max_processing_time_s,
        )
        if self._busy:
            raise ConsumerBusyError
        self._busy = True
        try:
            async with AsyncExitStack() as stack:
                letters = None
                if dead_letter is not None:
                    await self._inside.topic(dead_letter)
                    raw = Producer(self._scope, ProducerOptions(), serdes.raw, serdes.raw)
                    letters = DeadLetterTopic(await stack.enter_async_context(raw), dead_letter)
                await self._inside.run(handler, options, letters)
        finally:
            self._busy = False

    async def commit(self, offsets: Offsets | None = None, *, metadata: str = "") -> None:
        """Commit now, whatever `auto_commit` says.

        Args:
            offsets: For each partition the next offset to read; what was handed out below counts as
                processed. None: all that was handed out does, the record in hand included (within
                `run`: what was handled).
            metadata: Free text of at most 4096 bytes.

        Raises:
            InvalidRequestError: The consumer has no group.
            NotAssignedError: A partition is not assigned, or no longer.
            OdradekError: What the coordinator answered.
        """
        self._check()
        await self._inside.commit(offsets, metadata)

    # ------------------------------------------------------------------ partitions

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Read exactly these partitions, without the group's help; replaces those before.

        With a group, positions begin at its committed offsets and are committed there.

        Raises:
            UnknownTopicOrPartitionError: This cluster has no such partition.
            InvalidOptionsError: The consumer was made with topics.
        """
        self._check()
        self._inside.assign(partitions)

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """What is assigned at the moment."""
        return self._inside.positions.assigned()

    def seek(self, partition: Partition, to: SeekTarget) -> None:
        """Go on reading a partition elsewhere; what was fetched of it is dropped.

        Args:
            partition: An assigned one.
            to: An offset, "earliest", "latest", the first record at or after a time (naive ones
                are local), or so long ago.

        Raises:
            NotAssignedError: It is not assigned.
            InvalidRequestError: `to` is none of these, or an offset no log can have.
        """
        self._check()
        name = self._inside.assigned(partition)
        if isinstance(to, int):
            offset = check_offset(to)
            self._in_hand.let_go([name])
            self._inside.reader.seek(name, offset)
        else:
            target = _seek_target(to)
            self._in_hand.let_go([name])
            self._inside.reader.seek_to(name, target)

    def pause(self, *partitions: Partition) -> None:
        """Hand out nothing of these partitions (none named: all assigned) until `resume`."""
        names = self._named(partitions)
        self._inside.positions.pause(names)
        self._in_hand.let_go(names)

    def resume(self, *partitions: Partition) -> None:
        """Undo `pause`."""
        self._inside.reader.resume(self._named(partitions))

    async def position(self, partition: Partition) -> int:
        """Return the offset of the next record of a partition, once it is known.

        Raises:
            NotAssignedError: It is not assigned.
        """
        self._check()
        return await self._inside.queries.position(self._inside.assigned(partition))

    async def committed(self, *partitions: Partition) -> dict[TopicPartition, int | None]:
        """Return the group's committed offsets (none named: of all assigned partitions)."""
        self._check()
        found = await self._inside.committed(partitions or self.assignment)
        return {each.name: None if at is None else at.offset for each, at in found.items()}

    async def lag(self) -> dict[TopicPartition, Lag]:
        """Return how far behind each assigned partition is, in records and seconds."""
        self._check()
        return await self._inside.queries.lag()

    def _named(self, partitions: tuple[Partition, ...]) -> list[TopicPartition]:
        self._check()
        return [self._inside.assigned(each) for each in partitions or sorted(self.assignment)]

    def _check(self) -> None:
        self._scope.check()
        if not self._entered or self._closed:
            state = "closed" if self._closed else "not open: use `async with client.consumer(...)`"
            raise ClientClosedError(f"the consumer is {state}")


def _seek_target(to: Literal["earliest", "latest"] | datetime | timedelta) -> Target:
    target = resolve_start(to, time.time())
    if target is None:
        raise InvalidRequestError(
            f"cannot seek to {to!r}: use an offset, earliest, latest, a datetime or a timedelta",
            field="to",
            value=to,
            limit="an offset, earliest, latest, a datetime, a timedelta",
        )
    return target


def _ordered_by(choice: OrderedBy | str | None) -> OrderedBy:
    if choice is None:
        return OrderedBy.NOTHING
    try:
        return OrderedBy(choice)
    except ValueError:
        raise InvalidRequestError(
            f"ordered_by {choice!r} is unknown",
            field="ordered_by",
            value=choice,
            limit="partition, key, None",
        ) from None


def _at_least(field: str, value: int, least: int) -> int:
    if value < least:
        raise InvalidRequestError(
            f"{field} must be at least {least}, not {value}", field=field, value=value, limit=least
        )
    return value

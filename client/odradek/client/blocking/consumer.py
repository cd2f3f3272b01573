"""The blocking consumer: steps through slices in the calling thread, fetches in the loop's.

One thread at a time asks for records. A step between two records of a slice touches no loop.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from odradek.client.blocking.portal import Portal
from odradek.client.consumer import Consumer as AsyncConsumer
from odradek.client.consumer import SeekTarget
from odradek.client.consuming.batch import Batch
from odradek.client.consuming.commits import Offsets
from odradek.client.consuming.consumption import Partition
from odradek.client.consuming.handler_order import OrderedBy
from odradek.client.consuming.queries import Lag
from odradek.client.errors import DeserializationError
from odradek.client.record import Record
from odradek.protocol.types import TopicPartition

K = TypeVar("K")
V = TypeVar("V")


class Consumer(Generic[K, V]):
    """Reads records; made by `Client.consumer` and entered with `with`.

    Everything is as in `odradek.client.Consumer`, without `await`. Heartbeats and commits come from
    the client's thread: a slow loop body disturbs nothing. Rebalance callbacks run in that thread;
    they may call what does not wait, such as `seek`.
    """

    def __init__(self, inner: AsyncConsumer[K, V], portal: Portal) -> None:
        self._inner = inner
        self._portal = portal
        self._hand = inner._in_hand  # noqa: SLF001 one implementation, two faces

    def __enter__(self) -> Self:
        self._portal.call(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        """Begin a loop; what a loop before left unprocessed comes first, unless committed."""
        self._portal.run(self._inner.__aiter__)
        return self

    def __next__(self) -> Record[K, V]:
        """Return the next record; the one before counts as processed from now on.

        Raises:
            StopIteration: The consumer was closed.
            DeserializationError: The next record does not fit the serdes; see `skip`.
            OdradekError: A partition, or the group, cannot be read any more.
        """
        hand = self._hand
        # The loop's thread may take records back at any time. No call lies between the step and
        # the note of it, and only at calls and jumps back does CPython let another thread run.
        for record in hand.records:
            hand.record = record
            return record
        try:
            return self._portal.call(self._inner._next_record())  # noqa: SLF001 see above
        except StopAsyncIteration:
            raise StopIteration from None

    def batches(self) -> Iterator[Batch[K, V]]:
        """Iterate over records in batches, each of one partition: the fastest way to read."""
        inner = self._inner.batches()

        async def following() -> Batch[K, V] | None:
            return await anext(inner, None)

        try:
            while (batch := self._portal.call(following())) is not None:
                yield batch
        finally:
            self._portal.call(inner.aclose())

    def run(
        self,
        handler: Callable[[Record[K, V]], object],
        *,
        concurrency: int = 16,
        ordered_by: OrderedBy | Literal["partition", "key"] | None = "partition",
        retries: int = 0,
        retry_delay_s: float = 0.1,
        dead_letter: str | None = None,
    ) -> None:
        """Handle records in threads until the consumer is closed; as `odradek.client.Consumer.run`.

        Args:
            handler: Called with each record, in one of `concurrency` threads. A thread cannot be
                interrupted: one that exceeds `max_processing_time_s` counts as failed and goes on.
            concurrency: Handlers at a time.
            ordered_by: As there.
            retries: As there.
            retry_delay_s: As there.
            dead_letter: As there.

        Raises:
            Exception: What the handler raised.
        """

        def call(record: Record[K, V]) -> None:
            try:
                handler(record)
            except StopIteration as error:  # a future that is given one never ends (PEP 479)
                raise RuntimeError("the handler raised StopIteration") from error

        with ThreadPoolExecutor(
            max(1, concurrency), thread_name_prefix="odradek-handler"
        ) as threads:

            async def handle(record: Record[K, V]) -> None:
                await asyncio.get_running_loop().run_in_executor(threads, call, record)

            self._portal.call(
                self._inner.run(
                    handle,
                    concurrency=concurrency,
                    ordered_by=ordered_by,
                    retries=retries,
                    retry_delay_s=retry_delay_s,
                    dead_letter=dead_letter,
                )
            )

    def skip(self, error: DeserializationError) -> bool:
        """Move past the record an error is about, which then counts as processed."""
        return self._portal.run(self._inner.skip, error)

    def commit(self, offsets: Offsets | None = None, *, metadata: str = "") -> None:
        """Commit now, whatever `auto_commit` says."""
        self._portal.call(self._inner.commit(offsets, metadata=metadata))

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Read exactly these partitions, without the group's help; replaces those before."""
        self._portal.run(self._inner.assign, list(partitions))

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """What is assigned at the moment."""
        return self._portal.run(lambda: self._inner.assignment)

    def seek(self, partition: Partition, to: SeekTarget) -> None:
        """Go on reading a partition elsewhere; what was fetched of it is dropped."""
        self._portal.run(self._inner.seek, partition, to)

    def pause(self, *partitions: Partition) -> None:
        """Hand out nothing of these partitions (none named: all assigned) until `resume`."""
        self._portal.run(self._inner.pause, *partitions)

    def resume(self, *partitions: Partition) -> None:
        """Undo `pause`."""
        self._portal.run(self._inner.resume, *partitions)

    def position(self, partition: Partition) -> int:
        """Return the offset of the next record of a partition, once it is known."""
        return self._portal.call(self._inner.position(partition))

    def committed(self, *partitions: Partition) -> dict[TopicPartition, int | None]:
        """Return the group's committed offsets (none named: of all assigned partitions)."""
        return self._portal.call(self._inner.committed(*partitions))

    def lag(self) -> dict[TopicPartition, Lag]:
        """Return how far behind each assigned partition is, in records and seconds."""
        return self._portal.call(self._inner.lag())

    def close(self) -> None:
        """Commit what was processed and leave the group; a second call does nothing."""
        self._portal.call(self._inner.close())

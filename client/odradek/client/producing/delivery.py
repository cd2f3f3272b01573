"""What `enqueue` and `send_many` hand out: records on their way, and where they came to lie."""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any, final, overload

from msgspec import Struct

from odradek.client.producing.producer_batch import UNKNOWN_OFFSET, ProducerBatch
from odradek.client.record import RecordMetadata


@final
class Delivery(Struct, eq=False, gc=False):
    """A record on its way; await it for its acknowledgement.

    Cancelling who awaits does not recall the record. A failed delivery nobody awaits is raised by
    `flush` and when the producer closes.

    Attributes:
        batch: The batch it shares its fate with; of no use to applications.
        index: Its place in that batch.
        timestamp_ms: Milliseconds since the epoch, as sent.
        is_watched: True once somebody waits for the outcome, or has heard it.
    """

    batch: ProducerBatch
    index: int
    timestamp_ms: int
    is_watched: bool = False

    @property
    def partition(self) -> int:
        """Where it goes."""
        return self.batch.partition

    @property
    def done(self) -> bool:
        """True once it is acknowledged or has failed."""
        return self.batch.done

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        """Wait for the acknowledgement.

        Raises:
            DeliveryTimeoutError: Says whether the record may be in the log.
            BrokerError: The cluster refused it.
        """
        batch = self.batch
        is_first = self.watch()
        if not batch.done:
            # A future of one's own: a shared one would be cancelled with the first of its waiters.
            waiter = asyncio.get_running_loop().create_future()
            batch.watch(waiter)
            try:
                yield from waiter
            except BaseException:  # cancelled: nobody has heard
                if is_first:
                    self.unwatch()
                raise
        return self.outcome()

    def watch(self) -> bool:
        """Note that somebody will hear the outcome; True when that was news."""
        if self.is_watched:
            return False
        self.is_watched = True
        self.batch.watched_count += 1
        return True

    def unwatch(self) -> None:
        """Note that whoever watched has gone without having heard."""
        self.is_watched = False
        self.batch.unwatch(1)

    def outcome(self) -> RecordMetadata:
        """Return or raise what became of it; only once it is `done`."""
        assert self.batch.done, "asked once there is an outcome"
        if self.batch.error is not None:
            raise self.batch.error
        return metadata_of(self.batch, self.index, self.timestamp_ms)

    def as_run(self, position: int) -> "Run":
        """Return this record as a run of one, watched: its sender will raise what it meets."""
        self.watch()
        return Run(self.batch, self.index, position, 1)


class Run(Struct, gc=False):
    """Records that are neighbours in their batch, and in what was sent unless scattered there.

    Attributes:
        batch: Whose.
        first_index: Of the first one in the batch.
        first_position: Of the first one in what was sent.
        count: How many.
        scattered: The position of each in what was sent, ascending; None: neighbours there too.
    """

    batch: ProducerBatch
    first_index: int
    first_position: int
    count: int
    scattered: list[int] | None = None

    def positions(self) -> Sequence[int]:
        """Return the position of each in what was sent."""
        if self.scattered is not None:
            return self.scattered
        return range(self.first_position, self.first_position + self.count)


class Acknowledgements(Sequence[RecordMetadata]):
    """Where the records of one `send_many` lie, in the order they were given; made when looked at.

    A million records are a few hundred runs of neighbours; those scattered by their keys are put
    in order at the first look.
    """

    def __init__(self, runs: list[Run], timestamp_ms: int) -> None:
        self._runs = runs
        self._timestamp_ms = timestamp_ms
        self._starts = [run.first_position for run in runs]
        self._count = sum(run.count for run in runs)
        self._in_order = self._starts == sorted(self._starts) and all(
            run.scattered is None for run in runs
        )

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RecordMetadata: ...

    @overload
    def __getitem__(self, index: slice) -> list[RecordMetadata]: ...

    def __getitem__(self, index: int | slice) -> RecordMetadata | list[RecordMetadata]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"{len(self)} records were sent")
        run = self._run_of(position)
        index = run.first_index + bisect_left(run.positions(), position)
        return metadata_of(run.batch, index, self._timestamp_ms)

    def _run_of(self, position: int) -> Run:
        if self._in_order:
            return self._runs[bisect_right(self._starts, position) - 1]
        return self._run_of_each[position]

    @cached_property
    def _run_of_each(self) -> list[Run]:
        runs = self._runs[:1] * self._count
        for run in self._runs:
            for position in run.positions():
                runs[position] = run
        return runs


def extend_runs(runs: list[Run], run: Run) -> None:
    """Add a run; one that goes on where the last one ended prolongs it."""
    last = runs[-1] if runs else None
    if (
        last is not None
        and last.scattered is None
        and last.batch is run.batch
        and last.first_index + last.count == run.first_index
        and last.first_position + last.count == run.first_position
    ):
        last.count += run.count
    else:
        runs.append(run)


async def outcome(batch: ProducerBatch) -> None:
    """Wait until a batch is acknowledged or has failed."""
    if not batch.done:
        waiter = asyncio.get_running_loop().create_future()
        batch.watch(waiter)
        await waiter


async def outcomes(runs: list[Run]) -> None:
    """Wait until every batch is acknowledged or has failed."""
    for batch in dict.fromkeys(run.batch for run in runs):
        await outcome(batch)


def raise_first(runs: list[Run]) -> None:
    """Raise the error of the first record that failed; every batch has its outcome."""
    failed = (run for run in runs if run.batch.error is not None)
    first = min(failed, key=lambda run: run.first_position, default=None)
    if first is not None and first.batch.error is not None:
        raise first.batch.error


def metadata_of(batch: ProducerBatch, index: int, timestamp_ms: int) -> RecordMetadata:
    """Return where a record of an acknowledged batch lies."""
    known = batch.base_offset != UNKNOWN_OFFSET
    return RecordMetadata(
        batch.topic,
        batch.partition,
        batch.base_offset + index if known else UNKNOWN_OFFSET,
        timestamp_ms if batch.append_time_ms < 0 else batch.append_time_ms,
    )

"""The producer: three verbs over one buffer.

`send` returns once the record is acknowledged, `enqueue` once it is buffered, `send_many` takes a
whole sequence. Whatever they accept is delivered in order per partition, once, within
`delivery_timeout_s`, or its failure is raised: to whoever awaits it, else by `flush` and on exit.
"""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from threading import get_ident
from time import monotonic, time_ns
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, overload

from odradek.client.cluster.scope import Scope
from odradek.client.config import ProducerOptions
from odradek.client.producing.appender import Appender
from odradek.client.producing.delivery import (
    Acknowledgements,
    Delivery,
    Run,
    outcomes,
    raise_first,
)
from odradek.client.producing.encoding import check_many
from odradek.client.producing.producer_batch import FRAME_BYTES_MAX
from odradek.client.record import Headers, RecordMetadata
from odradek.client.serdes import Serde
from odradek.client.topic import Topic
from odradek.protocol.errors import OdradekError

_GRACE_S: Final = 2.0

K = TypeVar("K")
V = TypeVar("V")
TK = TypeVar("TK")
TV = TypeVar("TV")


class Producer(Generic[K, V]):
    """Writes records; made by `Client.producer` and entered with `async with`.

    Safe to use from any number of tasks of one loop. Leaving the block delivers what was accepted;
    left by an error or a cancellation, it takes two seconds for that at most, abandons the rest,
    and adds a note to the error.
    """

    def __init__(
        self,
        scope: Scope,
        options: ProducerOptions,
        key: Serde[K],
        value: Serde[V],
        *,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._core = Appender(scope, options, key, value, lock=lock)

    async def __aenter__(self) -> Self:
        """Begin to send.

        Raises:
            ClientClosedError: The client is not open, or the producer was entered before.
        """
        await self._core.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
            return
        try:
            await self.close(timeout_s=_GRACE_S)
        except (OdradekError, BaseExceptionGroup) as failure:
            # The block's own error is the one to raise.
            error.add_note(f"The producer it ended: {failure}")

    def __del__(self) -> None:
        if (core := getattr(self, "_core", None)) is not None and core.loop is not None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    # ------------------------------------------------------------------ sending

    @overload
    async def send(
        self,
        topic: Topic[TK, TV],
        value: TV | None,
        *,
        key: TK | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata: ...

    @overload
    async def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata: ...

    async def send(
        self,
        topic: str | Topic[Any, Any],
        value: object,
        *,
        key: object = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Append one record and return once it is acknowledged.

        Records with equal keys share a partition and keep their order. A retry never duplicates.
        Cancelling does not recall the record.

        Args:
            topic: An existing topic; a `Topic` brings serdes of its own.
            value: Encoded by the value serde; None is a tombstone.
            key: Encoded by the key serde; None lets partitions take turns, batch by batch.
            partition: Overrides the choice by key.
            headers: Names may repeat in a list of pairs.
            timestamp_ms: Milliseconds since the epoch; now by default.

        Returns:
            Partition, offset and timestamp.

        Raises:
            SerializationError: Key, value or headers do not encode; nothing was sent.
            PartitionerError: The partitioner of the options failed; nothing was sent.
            RecordTooLargeError: Larger than the topic allows; nothing was sent.
            UnknownTopicOrPartitionError: With near names; nothing was sent.
            BufferFullError: No room within `delivery_timeout_s`; nothing was sent.
            DeliveryTimeoutError: `maybe_appended` tells whether the record may be in the log.
            BrokerError: The cluster refused the record.

        Source: KIP-98 (idempotence), KIP-480 (sticky partitioning).
        """
        core = self._core
        target = core.targets.get(topic)
        if target is None or core.thread_id != get_ident() or not core.is_running():
            target = await core.target(topic)
        placed = core.place(target, value, key, partition, headers, timestamp_ms)
        if type(placed) is Delivery:
            return await placed
        return await (await core.append_slowly(target, placed))

    @overload
    async def enqueue(
        self,
        topic: Topic[TK, TV],
        value: TV | None,
        *,
        key: TK | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery: ...

    @overload
    async def enqueue(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery: ...

    async def enqueue(  # noqa: PLR0917 defaults of keywords are looked up at each call
        self,
        topic: str | Topic[Any, Any],
        value: object,
        key: object = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Buffer one record and return as soon as there was room; arguments as in `send`.

        Returns:
            An awaitable that gives the record's metadata. One that fails and that nobody awaited is
            raised by `flush` and on exit.

        Raises:
            SerializationError, RecordTooLargeError, UnknownTopicOrPartitionError, BufferFullError:
                As in `send`; nothing was sent.
        """
        core = self._core
        target = core.targets.get(topic)
        if (
            target is not None
            and key is None
            and type(value) is bytes
            and partition is None
            and headers is None
            and timestamp_ms is None
            and target.takes_bytes
            and core.thread_id == get_ident()
            and core.is_running()
        ):  # `ProducerBatch.gather` without the calls: the most records a second come this way
            batch = target.topic.current.open
            if batch is not None:
                counted_bytes = len(value) + FRAME_BYTES_MAX
                room_bytes = batch.gathers_bytes - counted_bytes
                ledger = batch.ledger
                if (
                    room_bytes >= 0
                    and ledger.used_bytes < ledger.quick_until_bytes
                    and monotonic() < batch.gathers_until_s
                ):
                    ledger.used_bytes += counted_bytes
                    batch.gathers_bytes = room_bytes
                    gathered = batch.gathered
                    gathered.append(value)
                    return Delivery(batch, batch.before_gathered + len(gathered), batch.gathered_ms)
        if target is None or core.thread_id != get_ident() or not core.is_running():
            target = await core.target(topic)
        placed = core.place(target, value, key, partition, headers, timestamp_ms)
        if type(placed) is Delivery:
            return placed
        return await core.append_slowly(target, placed)

    @overload
    async def send_many(
        self,
        topic: Topic[TK, TV],
        values: Iterable[TV | None],
        *,
        keys: Iterable[TK | None] | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Acknowledgements: ...

    @overload
    async def send_many(
        self,
        topic: str,
        values: Iterable[V | None],
        *,
        keys: Iterable[K | None] | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Acknowledgements: ...

    async def send_many(
        self,
        topic: str | Topic[Any, Any],
        values: Iterable[object],
        *,
        keys: Iterable[object] | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Acknowledgements:
        """Append many records and return once all are acknowledged; the fastest way in bulk.

        All values and keys are encoded before the first record is buffered. Cancelling does not
        recall what was buffered; if that fails, `flush` tells.

        Args:
            topic: As in `send`.
            values: One per record.
            keys: As many; None: no record has a key.
            partition: For all of them.
            headers: For all of them.
            timestamp_ms: For all of them.

        Returns:
            A sequence with the metadata of each record, in the order given.

        Raises:
            ValueError, TypeError: Not as many keys as values, or one text for many; nothing was
                sent.
            DeliveryTimeoutError, BrokerError: Of the first record that failed; others may be in the
                log.
            SerializationError, UnknownTopicOrPartitionError: As in `send`; nothing was sent.
            RecordTooLargeError, BufferFullError: Of one record; those before it are on their way.
        """
        check_many(values)
        core = self._core
        target = await core.target(topic)
        now_ms = time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
        runs: list[Run] = []
        try:
            await core.append_all(
                target,
                values,
                keys=keys,
                partition=partition,
                headers=headers,
                timestamp_ms=now_ms,
                runs=runs,
            )
            await outcomes(runs)
        except BaseException:  # of a later record, or cancelled: of these nobody has heard
            core.unwatch(runs)
            raise
        raise_first(runs)
        return Acknowledgements(runs, now_ms)

    # ------------------------------------------------------------------ ending

    async def flush(self) -> None:
        """Send what lingers and wait until everything accepted so far has its outcome.

        Raises:
            DeliveryFailedError: Records whose delivery nobody awaited have failed.
        """
        self._core.check()
        await self._core.drain()
        self._core.raise_unheard()

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Deliver what was accepted, then stop; a second call does nothing.

        Cancelling it abandons what is not acknowledged yet.

        Args:
            timeout_s: What is not acknowledged by then is abandoned; None: each record's delivery
                time-out decides.

        Raises:
            DeliveryFailedError: As in `flush`; of what was abandoned too.
        """
        await self._core.close(timeout_s=timeout_s)

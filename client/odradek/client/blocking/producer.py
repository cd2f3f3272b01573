"""The blocking producer: any number of threads fill the batches that the loop's thread sends.

A record that fits an open batch takes a lock and an append in the calling thread, nothing else;
making a new batch, or waiting for room, is the loop's work: one hop per batch.
"""

import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, overload

from odradek.client.blocking.portal import Portal
from odradek.client.errors import ClientClosedError
from odradek.client.producer import Producer as AsyncProducer
from odradek.client.producing import delivery as asynchronous
from odradek.client.producing.delivery import Acknowledgements
from odradek.client.producing.encoding import check_many
from odradek.client.record import Headers, RecordMetadata
from odradek.client.topic import Topic

K = TypeVar("K")
V = TypeVar("V")
TK = TypeVar("TK")
TV = TypeVar("TV")

_PATIENCE_S: Final = 1.0  # between two looks at whether the loop's thread still lives


class _Waiter(threading.Event):
    """What a batch wakes."""

    def done(self) -> bool:
        return self.is_set()

    def set_result(self, result: None, /) -> None:
        del result
        self.set()


class Delivery:
    """A record on its way: `result` waits for its acknowledgement."""

    __slots__ = ("_inner", "_lock", "_portal")

    def __init__(
        self, inner: asynchronous.Delivery, lock: AbstractContextManager[Any], portal: Portal
    ) -> None:
        self._inner = inner
        self._lock = lock
        self._portal = portal

    @property
    def partition(self) -> int:
        """Where it goes."""
        return self._inner.partition

    @property
    def done(self) -> bool:
        """True once it is acknowledged or has failed."""
        return self._inner.done

    def result(self, timeout_s: float | None = None) -> RecordMetadata:
        """Wait for the acknowledgement.

        Args:
            timeout_s: How long to wait here; None: until the delivery time-out decides.

        Raises:
            TimeoutError: `timeout_s` passed; the record is still on its way.
            DeliveryTimeoutError: Says whether the record may be in the log.
            BrokerError: The cluster refused it.
        """
        batch = self._inner.batch
        waiter = _Waiter()
        with self._lock:
            is_first = self._inner.watch()
            if not batch.done:
                batch.watch(waiter)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not batch.done:
            left_s = _PATIENCE_S if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                if is_first:
                    with self._lock:
                        self._inner.unwatch()
                raise TimeoutError(f"not acknowledged within {timeout_s:g} s; still on its way")
            waiter.wait(min(left_s, _PATIENCE_S))
            if not self._portal.is_running and not batch.done:
                raise ClientClosedError("the client's thread has ended")
        return self._inner.outcome()


class Producer(Generic[K, V]):
    """Writes records; made by `Client.producer`, entered with `with`, used by any threads.

    Leaving the block delivers what was accepted; left by an error, it takes two seconds for that at
    most, abandons the rest, and adds a note to the error.
    """

    def __init__(
        self, inner: AsyncProducer[K, V], lock: AbstractContextManager[Any], portal: Portal
    ) -> None:
        self._inner = inner
        self._core = inner._core  # noqa: SLF001 one implementation, two faces
        self._lock = lock
        self._portal = portal

    def __enter__(self) -> Self:
        self._portal.call(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._portal.call(self._inner.__aexit__(kind, error, traceback))

    @overload
    def send(
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
    def send(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata: ...

    def send(
        self,
        topic: str | Topic[Any, Any],
        value: object,
        *,
        key: object = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Append one record and return once it is acknowledged; as `odradek.client.Producer.send`.

        Raises:
            OdradekError: As there.
        """
        return self._enqueue(topic, value, key, partition, headers, timestamp_ms).result()

    @overload
    def enqueue(
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
    def enqueue(
        self,
        topic: str,
        value: V | None,
        *,
        key: K | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery: ...

    def enqueue(
        self,
        topic: str | Topic[Any, Any],
        value: object,
        *,
        key: object = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Buffer one record and return as soon as there was room; arguments as in `send`.

        Returns:
            Its `result()` waits for the acknowledgement. One that fails and that nobody asked for
            is raised by `flush` and on exit.

        Raises:
            OdradekError: As `odradek.client.Producer.enqueue`; nothing was sent.
        """
        return self._enqueue(topic, value, key, partition, headers, timestamp_ms)

    @overload
    def send_many(
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
    def send_many(
        self,
        topic: str,
        values: Iterable[V | None],
        *,
        keys: Iterable[K | None] | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Acknowledgements: ...

    def send_many(
        self,
        topic: str | Topic[Any, Any],
        values: Iterable[Any],
        *,
        keys: Iterable[Any] | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Acknowledgements:
        """Append many records and return once all are acknowledged; the fastest way in bulk.

        Arguments, result and errors as `odradek.client.Producer.send_many`.
        """
        check_many(values)
        taken = list(values)
        return self._portal.call(
            self._inner.send_many(
                topic,
                taken,
                keys=None if keys is None else list(keys),
                partition=partition,
                headers=headers,
                timestamp_ms=timestamp_ms,
            )
        )

    def flush(self) -> None:
        """Send what lingers and wait until everything accepted so far has its outcome.

        Raises:
            DeliveryFailedError: Records whose delivery nobody asked for have failed.
        """
        self._portal.call(self._inner.flush())

    def close(self, *, timeout_s: float | None = None) -> None:
        """Deliver what was accepted, then stop; a second call does nothing.

        Args:
            timeout_s: What is not acknowledged by then is abandoned; None: each record's delivery
                time-out decides.

        Raises:
            DeliveryFailedError: As in `flush`; of what was abandoned too.
        """
        self._portal.call(self._inner.close(timeout_s=timeout_s))

    def _enqueue(  # noqa: PLR0917 the hottest call of all: keywords cost
        self,
        topic: str | Topic[Any, Any],
        value: object,
        key: object,
        partition: int | None,
        headers: Headers | None,
        timestamp_ms: int | None,
    ) -> Delivery:
        core = self._core
        target = core.targets.get(topic)
        if target is None or not core.is_usable:
            target = self._portal.call(core.target(topic))
        with self._lock:
            placed = core.intake.place(target, value, key, partition, headers, timestamp_ms)
        if not isinstance(placed, asynchronous.Delivery):
            placed = self._portal.call(core.append_slowly(target, placed))
        return Delivery(placed, self._lock, self._portal)

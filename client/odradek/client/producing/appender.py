"""Everything of a producer but its public face: targets, room, intake and sender put together.

Invariant: between finding room for a record and putting it into a batch nothing is awaited,
so records enter batches in the order in which they found room.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import repeat
from threading import get_ident
from typing import Any, Final
from weakref import WeakSet

from odradek.client.cluster.scope import Scope
from odradek.client.config import ProducerOptions
from odradek.client.errors import ClientClosedError
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.delivery import Delivery, Run, extend_runs, outcome
from odradek.client.producing.encoding import Bulk, Encoded, Target, encode_values
from odradek.client.producing.intake import Intake
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.room import Room
from odradek.client.producing.sender import Sender
from odradek.client.record import Headers
from odradek.client.serdes import Serde, raw
from odradek.client.topic import Topic

_CHUNK_RECORDS: Final = 1024
_TARGETS_MAX: Final = 10_000


def _forget_in_child() -> None:
    """In a forked child every producer looks again where it is, and refuses."""
    for appender in _opened:
        appender.targets.clear()
        appender.loop = None


class Appender:
    """One producer's inside.

    Attributes:
        targets: Where records go, by what the application calls it.
        ledger: What the buffer holds.
        room: The line before the buffer.
        intake: Encodes and appends.
        place: The intake's, at hand for every record.
        loop: The client's loop while the producer is open.
        thread_id: Of the thread it runs in. With `is_running` and `targets`, which a forked child
            finds empty, it tells what `get_running_loop` would, without that one's system call.
        is_running: The loop's.

    Args:
        lock: Guards what threads may fill; None when only the loop does.
    """

    def __init__(
        self,
        scope: Scope,
        options: ProducerOptions,
        key: Serde[Any],
        value: Serde[Any],
        *,
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self._scope = scope
        self._lock = lock or contextlib.nullcontext()
        self._options = options
        self._key = key
        self._value = value
        self.ledger = Ledger(options.buffer_bytes)
        self.room = Room(self.ledger)
        self._sender = Sender(
            scope,
            options,
            ledger=self.ledger,
            lock=self._lock,
            on_turn=self.room.on_turn,
            on_topic_gone=self._forget,
            on_broken=self._forget_all,
        )
        self.intake = Intake(options.partitioner, self.ledger, self._sender.on_ready)
        self.place = self.intake.place
        self.targets: dict[str | Topic[Any, Any], Target] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread_id = 0
        self.is_running: Callable[[], bool] = bool
        self._entered = False

    # ------------------------------------------------------------------ opening and ending

    async def open(self) -> None:
        """Begin to send."""
        self._scope.check()
        if self._entered:
            raise ClientClosedError("a producer is entered once; make another one")
        self._entered = True
        await self._sender.start()
        self.loop = loop = asyncio.get_running_loop()
        assert loop is self._scope.loop, "checked"
        self.thread_id = get_ident()
        self.is_running = loop.is_running
        _opened.add(self)

    async def drain(self) -> None:
        """Send what lingers and wait until everything accepted so far has its outcome."""
        for batch in self._sender.hurry():
            await outcome(batch)

    def raise_unheard(self) -> None:
        """Raise the failures nobody awaited."""
        with self._lock:
            failure = self.ledger.take_failure()
        if failure is not None:
            raise failure

    async def close(self, *, timeout_s: float | None = None) -> None:
        """Deliver what was accepted, as far as the time allows, then stop."""
        if self.loop is None:
            return
        self._check_loop()
        self.loop = None
        self._forget_all()
        self.room.dismiss()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.drain()
        finally:
            await self._sender.close()
        self.raise_unheard()

    # ------------------------------------------------------------------ checking

    @property
    def is_usable(self) -> bool:
        """False once closed, or in a forked child; asked by threads, which have no loop."""
        return self.loop is not None and self._scope.loop is self.loop

    def check(self) -> None:
        """Raise unless records may be sent here and now."""
        self._check_loop()
        self._sender.check()

    def _check_loop(self) -> None:
        if self.loop is not asyncio.get_running_loop():
            self._scope.check()
            raise ClientClosedError("the producer is not open: use `async with client.producer()`")

    async def target(self, topic: str | Topic[Any, Any]) -> Target:
        """Return where records for a topic go; asks metadata the first time."""
        self.check()
        known = self.targets.get(topic)
        if known is not None:
            return known
        name, key, value = (
            (topic.name, topic.key, topic.value)
            if isinstance(topic, Topic)
            else (topic, self._key, self._value)
        )
        info = await self._scope.metadata.topic(name, timeout_s=self._options.delivery_timeout_s)
        self.check()
        if len(self.targets) >= _TARGETS_MAX:  # somebody makes a new `Topic` for every record
            self.targets.clear()
        target = self.targets[topic] = Target(
            self._sender.use(info),
            key,
            value,
            takes_bytes=value is raw and self._options.partitioner is None,
        )
        return target

    def _forget_all(self) -> None:
        """Have every record look first whether the producer still works."""
        self.targets.clear()
        self.ledger.quick_until_bytes = 0

    def _forget(self, topic: TopicQueues) -> None:
        self.targets = {
            handle: target for handle, target in self.targets.items() if target.topic is not topic
        }

    async def append_slowly(self, target: Target, record: Encoded) -> Delivery:
        """Append where a new batch must be made, room be waited for, or the loop must breathe."""
        if self.ledger.is_quick and (record.queue or target.topic.current).open is None:
            self._check_still(target)
            with self._lock:
                return self.intake.append_new(target, record, self._now_s())
        if not self.room.is_free:
            await self.room.enter(timeout_s=self._options.delivery_timeout_s)
        try:
            self._check_still(target)
            with self._lock:
                delivery = self.intake.append(target, record)
                breathes = not self.ledger.is_quick
                if delivery is None:
                    breathes |= (record.queue or target.topic.current).open is not None
                    delivery = self.intake.append_new(target, record, self._now_s())
        finally:
            self.room.look()
        if breathes:  # whoever fills batches in a loop lets the loop have its turn
            await asyncio.sleep(0)
            self.room.on_turn()
        return delivery

    def _check_still(self, target: Target) -> None:
        """Raise when the producer was closed or the topic deleted while we waited."""
        self.check()
        name = target.topic.info.name
        if self._sender.topics.get(name) is not target.topic:
            raise self._scope.metadata.unknown_topic(name)

    async def append_all(
        self,
        target: Target,
        values: Iterable[object],
        *,
        keys: Iterable[object] | None,
        partition: int | None,
        headers: Headers | None,
        timestamp_ms: int,
        runs: list[Run],
    ) -> None:
        """Encode records, then append them, to `runs` too: one by one only where that is needed."""
        if headers is not None or self.intake.asks_partitioner:
            every_key = repeat(None) if keys is None else keys
            records = [
                self.intake.encode(
                    target,
                    value,
                    key,
                    partition=partition,
                    headers=headers,
                    timestamp_ms=timestamp_ms,
                )
                for value, key in zip(values, every_key, strict=keys is not None)
            ]
            await self.append_each(target, records, runs)
        elif keys is None:
            await self.fill(
                target,
                list(values),
                partition=partition,
                timestamp_ms=timestamp_ms,
                runs=runs,
            )
        else:
            bulk = self.intake.encode_keyed(
                target,
                zip(values, keys, strict=True),
                partition=partition,
                timestamp_ms=timestamp_ms,
            )
            await self.fill_keyed(target, bulk, runs)

    async def fill(
        self,
        target: Target,
        values: list[object],
        *,
        partition: int | None,
        timestamp_ms: int,
        runs: list[Run],
    ) -> None:
        """Append records without keys and headers, to `runs` too: no line of Python per record."""
        encoded = encode_values(target, values)
        queue = self.intake.choose(target.topic, None, partition)
        position = 0
        while position < len(encoded):
            if not self.room.is_free:
                await self.room.enter(timeout_s=self._options.delivery_timeout_s)
            try:
                self._check_still(target)
                chunk = encoded[position : position + _CHUNK_RECORDS]
                with self._lock:
                    run = self.intake.append_many(
                        target, queue, chunk, position, timestamp_ms, self._now_s()
                    )
            finally:
                self.room.look()
            opened = not runs or runs[-1].batch is not run.batch
            extend_runs(runs, run)
            position += run.count
            if opened:
                await asyncio.sleep(0)

    async def fill_keyed(self, target: Target, bulk: Bulk, runs: list[Run]) -> None:
        """Append records with keys, to `runs` too: each partition's of a chunk in one go."""
        position, count = 0, len(bulk.queues)
        one_by_one = None in bulk.queues  # whose turn it is depends on those before
        while position < count and not one_by_one:
            if not self.room.is_free:
                await self.room.enter(timeout_s=self._options.delivery_timeout_s)
            try:
                self._check_still(target)
                if one_by_one := target.topic.may_refuse(bulk.largest_bytes):
                    break
                with self._lock:
                    room_bytes = self.ledger.quick_until_bytes - self.ledger.used_bytes
                    chunk = range(position, bulk.chunk_end(position, room_bytes))
                    self.intake.append_bulk(target, bulk, chunk, self._now_s(), runs)
            finally:
                self.room.look()
            position = chunk.stop
            if position < count:  # whoever fills batches lets the loop have its turn
                await asyncio.sleep(0)
                self.room.on_turn()
        rest = map(bulk.record, range(position, count))
        await self.append_each(target, rest, runs, first=position)

    async def append_each(
        self,
        target: Target,
        records: Iterable[Encoded],
        runs: list[Run],
        *,
        first: int = 0,
    ) -> None:
        """Append records one by one, to `runs` too; `first` is the position of the first."""
        for position, record in enumerate(records, first):
            delivery = None
            if self.ledger.is_quick:
                with self._lock:
                    delivery = self.intake.append(target, record)
            if delivery is None:
                delivery = await self.append_slowly(target, record)
            extend_runs(runs, delivery.as_run(position))

    def unwatch(self, runs: list[Run]) -> None:
        """Note that whoever sent these has gone without having heard of them."""
        with self._lock:
            for run in runs:
                run.batch.unwatch(run.count)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


_opened: Final[WeakSet[Appender]] = WeakSet()
os.register_at_fork(after_in_child=_forget_in_child)

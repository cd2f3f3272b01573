"""One Fetch stream: subscriptions and credit in, batches out as they commit.

Problem: a consumer reads hundreds of partitions of which few have something new, and nothing may be
polled. Idea: a subscription that has read everything stands in its replica's set of readers; the
high watermark's advance moves it to its stream's queue, and one pump per stream serves that queue
in turn, as much per subscription as credit and fairness allow. What the tail cache lacks is read in
a thread while the pump serves others, and read ahead while it sends.

Invariants: a subscription is in exactly one `Place`; nothing beyond the isolation's limit is ever
sent; bytes beyond the credit are sent only as the first batch after a grant; a stream does a
bounded amount of work in a turn of the loop, however much one request names; the high watermark
that is told never falls: a new leader that knows but a lower bound serves what is below, and tells
none.

Source: HTTP/2's flow control; SEMANTICS.md, "Replication" and "Isolation".
"""

import asyncio
from collections import deque
from typing import Any, Final

import grpc

from odradek.node import metrics
from odradek.node.api.subscription import Place, Subscription, check_position
from odradek.node.api.turns import TURN_MAX, Steps, Turns
from odradek.node.replication.replicas import Replicas
from odradek.protocol.errors import BrokerError, InvalidRequestError, NodeShuttingDownError
from odradek.protocol.hot import EpochEnd, FetchedPartitionFrame, encode_fetch_response
from odradek.protocol.names import check_identifier
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId
from odradek.rpc.outlet import Outlet
from odradek.rpc.server import first_request
from odradek.v1 import broker_pb2 as pb

PUSH_BYTES: Final = 1 << 20
_SUBSCRIPTIONS_MAX: Final = 20_000
_HOLD_S_MAX: Final = 10.0
_FINISH_S: Final = 1.0
_UNKNOWN_OFFSET: Final = Offset(-1)

Frame = FetchedPartitionFrame[list[bytes]]


class FetchStream:
    """Serves one client's stream until it ends."""

    def __init__(self, replicas: Replicas, context: Any, turns: Turns) -> None:
        self._replicas = replicas
        self._context = context
        self._subscriptions: dict[int, Subscription] = {}
        self._queue: deque[Subscription] = deque()
        self._refusals: list[Frame] = []
        self._outlet = Outlet[bytes](context, self._next_push)
        self._held: list[Frame] = []
        self._held_bytes = 0
        self._holding: asyncio.TimerHandle | None = None
        self._has_held_long = False
        self._total_credit_bytes = 0
        self._steps = Steps(turns)
        self._pass_frames = 0
        self._min_bytes = 0
        self._hold_s = 0.0
        self._reads_stable = True
        self._failure: BrokerError | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Read until the client half-closes or goes away.

        Raises:
            NodeShuttingDownError: `stopping` was set.
            RequestTimedOutError: The client opened the stream and sent nothing.
            InvalidRequestError: A request that makes no sense.
        """
        metrics.FETCH_STREAMS.inc()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                pumping = self._tasks.create_task(self._outlet.run())
                reading = self._tasks.create_task(self._read_until_refused())
                halt = self._tasks.create_task(stopping.wait())
                ends = (pumping, reading, halt)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                reading.cancel()
                halt.cancel()
                self._outlet.close()
                # What is being pushed leaves first, if the client takes it.
                await asyncio.wait((pumping,), timeout=_FINISH_S)
                pumping.cancel()
        finally:
            metrics.FETCH_STREAMS.dec()
            self._end_holding()
            for subscription_id in list(self._subscriptions):
                self._unsubscribe(subscription_id)
        if self._failure is not None:
            raise self._failure
        if stopping.is_set():
            raise NodeShuttingDownError

    # What the client asks for

    async def _read_until_refused(self) -> None:
        try:
            await self._read_requests()
        except BrokerError as error:
            self._failure = error

    async def _read_requests(self) -> None:
        read, end = self._context.read, grpc.aio.EOF
        request = await first_request(read())
        if request is end:
            return
        if not request.HasField("open"):
            raise InvalidRequestError("the first frame of a fetch stream opens it", field="open")
        self._open(request.open)
        while request is not end:
            await self._on_request(request)
            del request  # an idle stream holds nothing
            request = await read()

    async def _on_request(self, request: pb.FetchRequest) -> None:
        self._check_backlog(len(request.subscribe))
        await self._count()
        for subscription_id in request.unsubscribe:
            await self._count()
            self._unsubscribe(subscription_id)
        for wanted in request.subscribe:
            await self._count()
            self._subscribe(wanted)
        for credit in request.credits:
            await self._count()
            subscription = self._subscriptions.get(credit.subscription_id)
            if subscription is not None:
                subscription.grant(credit.bytes)
        if request.total_credit_bytes:
            self._total_credit_bytes += request.total_credit_bytes
            self._outlet.wake()

    async def _count(self) -> None:
        """Count a step; after many, let everybody else have a turn."""
        await self._steps.next_turn()
        self._steps.count(1)

    def _check_backlog(self, coming: int) -> None:
        backlog = len(self._queue) + len(self._refusals) + coming
        if backlog > 2 * _SUBSCRIPTIONS_MAX:
            raise InvalidRequestError(
                "the client subscribes again and again, and takes no answers",
                field="subscribe",
                value=backlog,
                limit=2 * _SUBSCRIPTIONS_MAX,
            )

    def _open(self, opened: pb.FetchOpen) -> None:
        check_identifier(opened.client_id, field="open.client_id")
        self._min_bytes = opened.min_bytes
        self._hold_s = min(opened.max_wait_ms / 1000, _HOLD_S_MAX)
        self._reads_stable = opened.isolation_level != pb.ISOLATION_LEVEL_READ_UNCOMMITTED

    def _subscribe(self, wanted: pb.FetchSubscribe) -> None:
        if wanted.subscription_id in self._subscriptions:
            raise InvalidRequestError(
                f"subscription {wanted.subscription_id} exists already",
                field="subscribe.subscription_id",
                value=wanted.subscription_id,
            )
        try:
            if len(self._subscriptions) >= _SUBSCRIPTIONS_MAX:
                raise InvalidRequestError(
                    "too many subscriptions on one stream",
                    field="subscribe",
                    value=len(self._subscriptions),
                    limit=_SUBSCRIPTIONS_MAX,
                )
            replica = self._replicas.find(
                TopicId(wanted.topic_id),
                wanted.topic,
                PartitionIndex(wanted.partition),
                LeaderEpoch(wanted.current_leader_epoch),
            )
            offset = Offset(wanted.offset)
            diverging = check_position(replica, offset, LeaderEpoch(wanted.last_fetched_epoch))
        except BrokerError as error:
            self._refuse(wanted, error=error)
            return
        if diverging is not None:
            self._refuse(wanted, diverging=diverging)
            return
        subscription = Subscription(
            wanted.subscription_id, replica, offset, wanted.credit_bytes, self._enqueue
        )
        self._subscriptions[wanted.subscription_id] = subscription
        replica.subscribers.add(subscription)
        self._enqueue(subscription)

    def _refuse(
        self,
        wanted: pb.FetchSubscribe,
        *,
        error: BrokerError | None = None,
        diverging: EpochEnd | None = None,
    ) -> None:
        leader_id, leader_epoch = self._replicas.leader_hint(
            TopicId(wanted.topic_id), wanted.topic, wanted.partition
        )
        self._refusals.append(
            FetchedPartitionFrame(
                subscription_id=wanted.subscription_id,
                records=[],
                error=error,
                diverging_epoch=diverging,
                leader_id=NodeId(leader_id),
                leader_epoch=LeaderEpoch(leader_epoch),
            )
        )
        self._outlet.wake()

    def _unsubscribe(self, subscription_id: int) -> None:
        subscription = self._subscriptions.pop(subscription_id, None)
        if subscription is not None:
            subscription.place = Place.GONE
            subscription.replica.readers.discard(subscription)
            subscription.replica.subscribers.discard(subscription)

    # What the client gets

    def _enqueue(self, subscription: Subscription) -> None:
        subscription.place = Place.QUEUED
        self._queue.append(subscription)
        self._outlet.wake()

    def _next_push(self) -> bytes | None:
        """Return what there is, or, if the client prefers, what came meanwhile."""
        if self._pass_frames < TURN_MAX:
            before = len(self._held)
            self._held_bytes += self._gather(self._held)
            self._pass_frames += len(self._held) - before
            if self._held and not self._waits_for_more():
                frames, self._held, self._held_bytes = self._held, [], 0
                self._end_holding()
                return encode_fetch_response(frames)
        if self._pass_frames >= TURN_MAX:
            self._outlet.wake()  # for the rest: others want a turn, too
        self._pass_frames = 0
        return None

    def _waits_for_more(self) -> bool:
        if (
            self._hold_s == 0
            or self._has_held_long
            or self._held_bytes >= min(self._min_bytes, PUSH_BYTES)
            or not all(frame.records for frame in self._held)
        ):
            return False
        if self._holding is None:
            loop = asyncio.get_running_loop()
            self._holding = loop.call_later(self._hold_s, self._on_held_long)
        return True

    def _on_held_long(self) -> None:
        self._has_held_long = True
        self._outlet.wake()

    def _end_holding(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        self._has_held_long = False

    def _gather(self, frames: list[Frame]) -> int:
        """Give queued subscriptions a turn; return the bytes of records added to `frames`."""
        frames_max = len(frames) + TURN_MAX
        frames += self._refusals[:TURN_MAX]
        del self._refusals[:TURN_MAX]
        gathered_bytes = 0
        for _ in range(len(self._queue)):
            if gathered_bytes >= PUSH_BYTES or len(frames) >= frames_max:
                break
            subscription = self._queue.popleft()
            if subscription.place is Place.GONE:
                continue
            if subscription.error is not None:
                frames.append(self._ending(subscription, subscription.error))
                continue
            if self._total_credit_bytes <= 0:
                subscription.place = Place.QUEUED
                self._queue.append(subscription)
                continue
            try:
                frame = self._turn(subscription, PUSH_BYTES - gathered_bytes)
            except BrokerError as error:
                frame = self._ending(subscription, error)
            if frame is not None:
                frames.append(frame)
                gathered_bytes += sum(map(len, frame.records))
        return gathered_bytes

    def _turn(self, subscription: Subscription, bytes_max: int) -> Frame | None:
        """Serve one subscription, and put it where it waits for its next turn.

        Raises:
            OffsetOutOfRangeError: Retention has overtaken the reader.
        """
        replica = subscription.replica
        limit = replica.last_stable_offset if self._reads_stable else replica.high_watermark
        cold = bool(subscription.fetched)
        available = subscription.fetched
        if not cold and subscription.offset < limit:
            bytes_max = max(min(bytes_max, subscription.credit_bytes), 1)
            cached = replica.log.read_cached(subscription.offset, bytes_max, limit)
            if cached is None:
                self._read_cold(subscription, limit)
                return self._introduction(subscription)
            available = cached
        if not available:
            subscription.place = Place.AT_END
            replica.readers.add(subscription)
            return self._introduction(subscription)
        batches, size_bytes = subscription.take(available, self._total_credit_bytes)
        subscription.fetched = available[len(batches) :] if cold else []
        if not batches:
            if subscription.credit_bytes >= self._total_credit_bytes:
                self._queue.append(subscription)  # it is the stream's credit that is used up
            else:
                subscription.place = Place.OUT_OF_CREDIT
            return self._introduction(subscription)
        subscription.offset = BatchHeader.parse(batches[-1]).next_offset
        subscription.credit_bytes -= size_bytes
        subscription.is_grant_unused = False
        self._total_credit_bytes -= size_bytes
        metrics.FETCHED_BYTES.total += size_bytes
        if subscription.offset >= limit:
            subscription.place = Place.AT_END
            replica.readers.add(subscription)
        elif cold and not subscription.fetched:
            self._read_cold(subscription, limit)  # ahead, while this push is on its way
        else:
            self._queue.append(subscription)
        return self._frame(subscription, batches)

    def _read_cold(self, subscription: Subscription, limit: Offset) -> None:
        subscription.place = Place.READING
        metrics.COLD_READS.inc()
        self._tasks.create_task(self._finish_cold_read(subscription, limit))

    async def _finish_cold_read(self, subscription: Subscription, limit: Offset) -> None:
        try:
            fetched = await subscription.replica.read(subscription.offset, PUSH_BYTES, limit)
        except BrokerError as error:
            subscription.error = subscription.error or error
        else:
            subscription.fetched = fetched
        if subscription.place is Place.READING:
            self._enqueue(subscription)

    def _introduction(self, subscription: Subscription) -> Frame | None:
        """Tell a new subscriber the watermarks even when there are no records for it yet."""
        is_due = subscription.is_new and subscription.replica.reached_epoch_start
        return self._frame(subscription, []) if is_due else None

    def _frame(self, subscription: Subscription, batches: list[bytes]) -> Frame:
        subscription.is_new = False
        replica = subscription.replica
        knows = replica.reached_epoch_start  # if not, the records up to there are still to come
        return FetchedPartitionFrame(
            subscription_id=subscription.subscription_id,
            records=batches,
            high_watermark=replica.high_watermark if knows else _UNKNOWN_OFFSET,
            last_stable_offset=replica.last_stable_offset if knows else _UNKNOWN_OFFSET,
            log_start_offset=replica.log_start_offset,
            leader_id=self._replicas.node_id,
            leader_epoch=replica.leader_epoch,
        )

    def _ending(self, subscription: Subscription, error: BrokerError) -> Frame:
        self._unsubscribe(subscription.subscription_id)
        replica = subscription.replica
        leader_id, leader_epoch = self._replicas.leader_hint(
            replica.topic.topic_id, replica.topic.name, replica.partition.index
        )
        return FetchedPartitionFrame(
            subscription_id=subscription.subscription_id,
            records=[],
            error=error,
            log_start_offset=replica.log_start_offset,
            leader_id=NodeId(leader_id),
            leader_epoch=LeaderEpoch(leader_epoch),
        )

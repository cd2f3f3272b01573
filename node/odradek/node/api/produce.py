"""One Produce stream: requests in, answers out in the order in which they are ready.

Problem: a producer keeps several requests in flight, each for several partitions that commit at
different moments, and a node has a few microseconds of Python for each. Idea: no task and no future
per request. A request becomes a `ProduceCall` that counts its partitions; each is answered by the
group commit that covers it; the last one answers it.

Invariants: batches of a partition are appended in stream order; every request is answered exactly
once, at the latest when its time-out has passed; what a stream holds of unanswered requests is
bounded (beyond, it is not read until some are answered), and more tightly while a node holds much;
a stream does a bounded amount of work in a turn of the loop, however many partitions are named.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from odradek.node import metrics
from odradek.node.api.turns import TURN_MAX, Steps, Turns
from odradek.node.replication.replicas import Replicas
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    InvalidTopicError,
    InvalidTxnStateError,
    NodeShuttingDownError,
    RequestTimedOutError,
    StorageFullError,
    ThrottledError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
    error_to_proto,
)
from odradek.protocol.hot import (
    Acks,
    ProduceFrame,
    ProducePartitionFrame,
    decode_produce_request,
)
from odradek.protocol.produced import encode_acknowledged, encode_produce_response
from odradek.protocol.types import Offset
from odradek.rpc.outlet import Outlet
from odradek.rpc.server import first_request
from odradek.v1 import broker_pb2 as pb

_UNANSWERED_BYTES_MAX: Final = 32 << 20
_NODE_UNANSWERED_BYTES_MAX: Final = 256 << 20
_SHARE_BYTES: Final = 1 << 20
"""What a stream may always have: who takes no answers cannot stop the others."""
_CALL_BYTES: Final = 512
"""What a request takes beside its bytes, however small it is."""
_PARTITION_BYTES: Final = 512
"""What each partition of it takes, result included: 2 bytes suffice to name one."""
_ANSWER_BYTES: Final = 64
_PARKED_OVERHEAD_BYTES: Final = 1024
_TIMEOUT_DEFAULT_S: Final = 30.0
_TICK_S: Final = 0.5
_FINISH_S: Final = 2.0
_LET_GO: Final = ProduceFrame(0, Acks.ALL, 0, "", [])


class ProduceCall:
    """A request on its way through the partitions it names."""

    __slots__ = (
        "_missing",
        "_stream",
        "began_at_s",
        "deadline_s",
        "frame",
        "results",
        "size_bytes",
    )

    def __init__(
        self, stream: "ProduceStream", frame: ProduceFrame, size_bytes: int, now_s: float
    ) -> None:
        self.frame = frame
        self.size_bytes = size_bytes + _CALL_BYTES + _PARTITION_BYTES * len(frame.partitions)
        self.began_at_s = now_s
        self.deadline_s = now_s + (frame.timeout_ms / 1000 or _TIMEOUT_DEFAULT_S)
        self.results: list[bytes | None] = [None] * len(frame.partitions)
        self._missing = len(frame.partitions)
        self._stream = stream

    def committed(
        self, index: int, base_offset: Offset, log_append_time_ms: int, log_start_offset: Offset
    ) -> None:
        """One partition's batches are acknowledged."""
        if self.results[index] is not None:
            return  # it timed out before
        target = self.frame.partitions[index]
        result = encode_acknowledged(
            target.topic_id, target.partition, base_offset, log_append_time_ms, log_start_offset
        )
        self._set(index, result)

    def failed(self, index: int, error: BrokerError) -> None:
        """One partition's batches were refused, or their outcome is unknown."""
        if self.results[index] is not None:
            return
        target = self.frame.partitions[index]
        metrics.PRODUCE_ERRORS.labels(type(error).__name__).inc()
        leader_id, leader_epoch = self._stream.leader_hint(target)
        self._set(
            index,
            pb.ProducePartitionResult(
                topic_id=target.topic_id,
                partition=target.partition,
                error=error_to_proto(error),
                base_offset=-1,
                log_append_time_ms=-1,
                leader_id=leader_id,
                leader_epoch=leader_epoch,
            ).SerializeToString(),
        )

    def _set(self, index: int, result: bytes) -> None:
        self.results[index] = result
        self._missing -= 1
        if self._missing == 0:
            self._stream.answer(self)


@dataclass(slots=True)
class NodeLoad:
    """What all produce streams of a node hold together."""

    unanswered_bytes: int = 0


class ProduceStream:
    """Serves one client's stream until it ends."""

    def __init__(self, replicas: Replicas, context: Any, load: NodeLoad, turns: Turns) -> None:
        self._replicas = replicas
        self._load = load
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._calls: dict[ProduceCall, None] = {}
        self._unanswered_bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._steps = Steps(turns)
        self._answers: deque[bytes] = deque()
        self._outlet = Outlet[bytes](context, self._next_answer)
        self._leaving_bytes = 0
        self._ended = False
        self._failure: BrokerError | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Read until the client half-closes, then finish what is in flight.

        Raises:
            NodeShuttingDownError: `stopping` was set; what had begun is answered first.
            RequestTimedOutError: The client opened the stream and sent nothing.
            InvalidRequestError: A request that cannot be read.
        """
        metrics.PRODUCE_STREAMS.inc()
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._outlet.run())
                reading = tasks.create_task(self._read_requests())
                halt = tasks.create_task(stopping.wait())
                ends = (writing, reading, halt)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                reading.cancel()
                halt.cancel()
                self._ended = True
                self._outlet.wake()
                # What is answered already leaves first, if the client takes it.
                await asyncio.wait((writing,), timeout=_FINISH_S)
                writing.cancel()
        finally:
            metrics.PRODUCE_STREAMS.dec()
            self._load.unanswered_bytes -= self._unanswered_bytes
            self._load = NodeLoad()  # answers that nobody takes any more count nowhere
            if self._timer is not None:
                self._timer.cancel()
        if self._failure is not None:
            raise self._failure
        if stopping.is_set():
            raise NodeShuttingDownError

    def leader_hint(self, target: ProducePartitionFrame) -> tuple[int, int]:
        """Return leader and epoch of a partition as this node knows them; -1 when unknown."""
        return self._replicas.leader_hint(target.topic_id, target.topic, target.partition)

    def answer(self, call: ProduceCall) -> None:
        """Queue the answer of a call whose partitions all have results."""
        results = [result for result in call.results if result is not None]
        data = encode_produce_response(call.frame.correlation_id, results)
        metrics.COMMIT_SECONDS.observe(time.monotonic() - call.began_at_s)
        call.frame = _LET_GO  # replicas may hold a call long after its time-out
        self._answers.append(data)
        del self._calls[call]
        self._unanswered(len(data) + _ANSWER_BYTES - call.size_bytes)
        self._outlet.wake()  # a pass later, as pushes do: those leave first

    def _unanswered(self, change_bytes: int) -> None:
        """Count a request until it is answered, and its answer until the client takes it."""
        self._unanswered_bytes += change_bytes
        self._load.unanswered_bytes += change_bytes
        if self._has_room:
            self._room.set()

    @property
    def _has_room(self) -> bool:
        crowded = self._load.unanswered_bytes > _NODE_UNANSWERED_BYTES_MAX
        return self._unanswered_bytes <= (_SHARE_BYTES if crowded else _UNANSWERED_BYTES_MAX)

    async def _read_requests(self) -> None:
        try:
            data = await first_request(self._context.read())
            if data is grpc.aio.EOF:
                return
            later = self._on_request(data)
            del data  # an idle stream holds nothing
            if later is not None:
                await later
            await self._context.hear(self._on_request)
        except (InvalidRequestError, RequestTimedOutError) as error:
            self._failure = error

    def _on_request(self, data: bytes) -> Awaitable[None] | None:
        metrics.PRODUCE_REQUESTS.total += 1
        return self._begin(decode_produce_request(data), len(data))

    def _begin(self, frame: ProduceFrame, size_bytes: int) -> Awaitable[None] | None:
        """Begin a request; return what to wait for before the next one, if anything."""
        call = ProduceCall(self, frame, size_bytes, time.monotonic())
        self._calls[call] = None
        self._unanswered(call.size_bytes)
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._steps.count(1 + len(frame.partitions))
        if not frame.partitions:
            self.answer(call)
        elif self._steps.are_many:
            return self._append_slowly(call, 0)
        else:
            for index in range(len(frame.partitions)):
                if not self._replicas.has_room or not self._append(call, index):
                    return self._append_slowly(call, index)
            self._replicas.commit_soon()
        if self._steps.are_many or not self._has_room:
            return self._until_room()
        return None

    async def _append_slowly(self, call: ProduceCall, first: int) -> None:
        """Append the rest of a request in many turns, and as the store has room for it."""
        for index in range(first, len(call.results)):
            await self._steps.next_turn()
            self._steps.count(1)
            try:
                while not self._replicas.has_room or not self._append(call, index):
                    await self._replicas.room()
            except StorageFullError as error:  # the disk filled up while this waited for room
                call.failed(index, error)
        self._replicas.commit_soon()
        await self._until_room()

    async def _until_room(self) -> None:
        await self._steps.next_turn()
        while not self._has_room:
            self._room.clear()
            await self._room.wait()

    def _append(self, call: ProduceCall, index: int) -> bool:
        """Append one partition's batches; False when the store wants a moment's rest."""
        if call.results[index] is not None:
            return True  # timed out while it waited for room
        try:
            self._produce(call, index)
        except (UnknownLeaderEpochError, UnknownTopicIdError) as error:
            self._park(call, index, error)
        except ThrottledError as error:
            if not self._replicas.has_room:
                return False
            call.failed(index, error)
        except StorageFullError as error:
            self._replicas.storage_refused()
            call.failed(index, error)
        except BrokerError as error:
            call.failed(index, error)
        return True

    def _produce(self, call: ProduceCall, index: int) -> None:
        if call.frame.transactional_id:
            raise _transactions_come_later(call.frame.transactional_id)
        target = call.frame.partitions[index]
        replica = self._replicas.find(
            target.topic_id, target.topic, target.partition, target.leader_epoch
        )
        if replica.topic.internal:
            # What a coordinator cannot replay would take away all its groups.
            raise InvalidTopicError(
                f"topic {replica.topic.name!r} is internal: Odradek alone writes it",
                field="topic",
                value=replica.topic.name,
            )
        replica.produce(target.records, call.frame.acks, call, index)

    def _park(self, call: ProduceCall, index: int, error: BrokerError) -> None:
        """The client's metadata is newer than ours: wait for it, within bounds."""

        def retry() -> bool:
            if call.results[index] is not None:
                return True
            try:
                self._produce(call, index)
            except (UnknownLeaderEpochError, UnknownTopicIdError):
                return False
            except BrokerError as refusal:
                call.failed(index, refusal)
            return True

        def give_up() -> None:
            call.failed(index, error)

        size_bytes = _PARKED_OVERHEAD_BYTES + len(call.frame.partitions[index].records)
        if not self._replicas.park(size_bytes, call.deadline_s, retry, give_up):
            call.failed(index, error)

    def _tick(self) -> None:
        self._timer = None
        is_done = self._time_out_some()
        if self._calls:
            self._timer = self._loop.call_later(_TICK_S if is_done else 0, self._tick)

    def _time_out_some(self) -> bool:
        """Answer what is too late; False when more of it is left for the next turn."""
        now_s = time.monotonic()
        count = 0
        for call in [call for call in self._calls if call.deadline_s <= now_s]:
            for index, result in enumerate(call.results):
                if result is not None:
                    continue
                if count == TURN_MAX:
                    return False
                count += 1
                call.failed(index, self._too_late(call.frame, index))
        return True

    def _too_late(self, frame: ProduceFrame, index: int) -> BrokerError:
        """Say why the time did not suffice; it is known when the ISR shrank after the append."""
        target = frame.partitions[index]
        replica = self._replicas.get(target.topic_id, target.partition)
        starved = None
        if replica is not None and replica.leading is not None and frame.acks is Acks.ALL:
            starved = replica.leading.why_not_committed()
        return starved or RequestTimedOutError(
            f"not acknowledged within {frame.timeout_ms} ms; the outcome is unknown",
            field="timeout_ms",
            value=frame.timeout_ms,
        )

    def _next_answer(self) -> bytes | None:
        self._unanswered(-self._leaving_bytes)  # it has left
        self._leaving_bytes = 0
        if self._answers:
            data = self._answers.popleft()
            self._leaving_bytes = len(data) + _ANSWER_BYTES
            return data
        if self._ended and not self._calls:
            self._outlet.close()
        return None


def _transactions_come_later(transactional_id: str) -> InvalidTxnStateError:
    return InvalidTxnStateError(
        "transactions come later; send without a transactional id",
        field="transactional_id",
        value=transactional_id,
    )

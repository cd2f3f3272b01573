"""The produce stream to one node: takes ready batches, sends requests, reads answers.

Problem: what requests cost is their count, not their bytes. Idea: while a request is under way,
records gather, and the next one goes out when a whole one is ready or when nothing is under way,
so that batches grow with the load. Where answers take long, since they come from afar or the
followers of one partition lag, records do not wait for them: the next one goes out a little later,
unless many batches are under way. Batches of all the node's partitions travel together.

A node that takes nothing in is as silent as one that does not answer: one alarm watches the oldest
request, from before it is written, however many there are. A stream to where the node no longer is
ends as soon as metadata says so: dialling a dead address takes longest of all.

Invariants: a batch is registered as under way before its bytes leave; when the stream ends, every
batch of its requests is answered "lost"; an answer counts only for the attempt it belongs to; while
a request is under way the alarm is set.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import grpc

from odradek.client.cluster.connections import Connection
from odradek.client.config import Acks
from odradek.client.producing.compressing import Compressing
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.produce_request import Attempt, Request, encode
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.client.producing.sender_settings import SenderSettings
from odradek.protocol.errors import (
    DuplicateSequenceNumberError,
    OdradekError,
    RequestTimedOutError,
    UnknownServerError,
    error_from_proto,
)
from odradek.protocol.record_batch import Codec
from odradek.protocol.types import NodeId
from odradek.rpc.channels import Call, ConnectionLostError, converse, error_from_rpc
from odradek.rpc.outlet import Outlet
from odradek.v1 import broker_pb2

_Call: TypeAlias = Call[bytes, broker_pb2.ProduceResponse]

_METHOD: Final = "/odradek.v1.BrokerService/Produce"
_REQUESTS_MAX: Final = 5
# Each batch has its price at every node it passes: once so many are under way, the other partitions
# gather records until an answer comes, and few large batches follow instead of many small ones.
_BATCHES_MAX: Final = 64
# How long a request of any size waits for the answer to the one before. Two at once are slower
# where processors are scarce: each has its price at every node it passes (bench/README.md).
_SPACING_S: Final = 0.01
_SUSPICION_S: Final = 1.0

_log = logging.getLogger(__name__)


class NodeSender:
    """One node's.

    Attributes:
        node_id: Whose.
        queues: Partitions led by the node that have something to send, in turn.
    """

    def __init__(
        self, node_id: NodeId, connect: Callable[[], Connection], settings: SenderSettings
    ) -> None:
        self.node_id = node_id
        self.queues: dict[PartitionQueue, None] = {}
        self._connect = connect
        self._settings = settings
        self._woken = asyncio.Event()
        self._outlet: Outlet[bytes] | None = None
        """Of a stream that has begun; without one, a task waits until it is woken."""
        self._compressing: Compressing | None = None
        self._requests: dict[int, Request] = {}
        self._answers: list[broker_pb2.ProduceResponse] = []
        self._correlation_id = 0
        self._paused_until_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._patience = asyncio.timeout(None)
        self._address: str | None = None
        self._given_up: Exception | None = None
        self._failure: Exception | None = None
        """A mistake of ours, met where no task would hear of it: `run` raises it."""

    def wake(self) -> None:
        """Look again at the queues."""
        if self._outlet is not None:
            self._outlet.wake()
        else:
            self._woken.set()

    def on_ready(self, queue: PartitionQueue) -> None:
        """A queue has something to send."""
        self.queues[queue] = None
        if self._requests and queue.ledger.used_bytes < self._settings.options.request_bytes:
            self._set_alarm(self._any_size_at_s())  # no whole request can have gathered yet
        else:
            self.wake()

    def on_address(self, address: str | None) -> None:
        """Metadata says where the node is (None: nowhere): end a stream to anywhere else."""
        if self._address not in {None, address}:
            self._give_up(
                ConnectionLostError(f"node {self.node_id} is no longer at {self._address}")
            )

    async def run(self) -> None:
        """Send until cancelled; a broken stream is opened again when there is something to send.

        Raises:
            Exception: A mistake of ours, wherever it was met.
        """
        try:
            while True:
                while not self._is_due():
                    await self._rest()
                try:
                    await self._converse()
                except OdradekError as error:
                    if self._failure is not None:
                        raise self._failure from error
                    _log.debug("produce stream to node %d ended: %s", self.node_id, error)
                    self._lose_requests(error)
                    self._settings.suspect()
                    # What waits for this node has pauses of its own only once it was sent.
                    pause_ends_s = self._loop.time() + self._settings.options.retry_delay_s
                    self._paused_until_s = max(self._paused_until_s, pause_ends_s)
        finally:
            self._stop_alarm()

    # ------------------------------------------------------------------ one stream

    async def _converse(self) -> None:
        connection = self._connect()
        decode = broker_pb2.ProduceResponse.FromString
        call: _Call = converse(connection.channel, _METHOD, encode=None, decode=decode)
        # No TaskGroup: one that is cancelled while a child fails forgets the cancellation (3.11).
        reading = asyncio.create_task(self._read(call))
        reading.add_done_callback(lambda _: self._on_read())
        self._given_up = None
        try:
            async with asyncio.timeout(None) as self._patience:
                self._address = connection.address
                await self._write(call, reading)
        except TimeoutError:
            assert self._given_up is not None, "patience ends for a reason"
            raise self._given_up from None
        finally:
            self._address = self._outlet = self._compressing = None
            self._take_answers()
            self._stop_alarm()
            reading.cancel()
            call.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _write(self, call: _Call, reading: asyncio.Task[None]) -> None:
        try:
            while (data := self._next_request()) is None and not reading.done():
                await self._rest()
            if data is not None:
                await call.write(data)  # it may take a while until there is a stream
                self._outlet = Outlet(call, self._next_request)
                if not reading.done():
                    await self._outlet.run()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        except asyncio.InvalidStateError as error:
            raise ConnectionLostError("the produce stream has ended") from error
        if reading.cancelled():
            raise ConnectionLostError("the produce stream was cancelled")
        reading.result()

    def _on_read(self) -> None:
        """The stream has ended."""
        self._woken.set()
        if self._outlet is not None:
            self._outlet.close()

    async def _read(self, call: _Call) -> None:
        try:
            await call.listen(self._on_answer)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        raise ConnectionLostError(f"node {self.node_id} ended the produce stream")

    async def _rest(self) -> None:
        """Sleep until woken."""
        self._woken.clear()
        await self._woken.wait()

    def _set_alarm(self, at_s: float) -> None:
        """Have the alarm ring no later; it may ring early, for what was answered meanwhile."""
        if at_s < math.inf and (self._alarm is None or self._alarm.when() > at_s):
            self._stop_alarm()
            self._alarm = self._loop.call_at(at_s, self._ring)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _ring(self) -> None:
        self._alarm = None
        self.wake()
        if self._requests:
            self._watch_silence(next(iter(self._requests.values())).sent_s, self._loop.time())

    def _give_up(self, reason: Exception) -> None:
        """End the stream, if it has not ended."""
        if self._given_up is None and self._address is not None:
            self._given_up = reason
            self._patience.reschedule(self._loop.time())

    def _watch_silence(self, sent_s: float, now_s: float) -> None:
        """Suspect a node that has not answered the oldest request; end the stream in the end."""
        timeout_s = self._settings.options.request_timeout_s
        if now_s >= sent_s + timeout_s:
            error = f"node {self.node_id} did not answer for {timeout_s:g} s"
            self._give_up(RequestTimedOutError(error))
            return
        suspects = now_s >= sent_s + _SUSPICION_S
        if suspects:
            self._settings.suspect()
        look_at_s = (now_s if suspects else sent_s) + _SUSPICION_S
        self._set_alarm(min(look_at_s, sent_s + timeout_s))

    # ------------------------------------------------------------------ taking

    def _next_request(self) -> bytes | None:
        """Make the next request, if one is due by now; else have the alarm ring when it is."""
        if self._compressing is not None:
            data = self._compressing.encoded()
            if data is not None:
                self._compressing = None
            return data
        if not self._is_due():
            return None
        now_s = self._loop.time()
        request = Request(now_s, self._take(now_s))
        number = self._correlation_id = self._correlation_id + 1
        self._requests[number] = request
        self._set_alarm(request.sent_s + _SUSPICION_S)
        if self._settings.codec is not Codec.NONE:
            self._compressing = Compressing(number, request, self._settings, self.wake)
            return None
        payloads = [attempt.batch.data for attempt in request.attempts]
        return encode(number, request, payloads, self._settings.options)

    def _is_due(self) -> bool:
        now_s = self._loop.time()
        due_at_s = self._due_at_s(now_s)
        if due_at_s > now_s:
            self._set_alarm(due_at_s)
        return due_at_s <= now_s

    def _due_at_s(self, now_s: float) -> float:
        """Return when the next request may be made, as things stand."""
        if not self.queues or len(self._requests) >= _REQUESTS_MAX:
            return math.inf
        if sum(len(request.attempts) for request in self._requests.values()) >= _BATCHES_MAX:
            return math.inf
        identity = self._settings.identity()
        if identity is None and self._settings.options.acks is Acks.ALL:
            return math.inf
        ready_at_s, ready_bytes = math.inf, 0
        any_size_at_s = self._any_size_at_s()
        enough_bytes = 0 if any_size_at_s <= now_s else self._settings.options.request_bytes
        with self._settings.lock:
            for queue in self.queues:
                at_s = queue.ready_at_s(identity)
                ready_at_s = min(ready_at_s, at_s)
                if at_s <= now_s:
                    if enough_bytes:
                        ready_bytes += queue.ready_bytes(enough_bytes)
                    if ready_bytes >= enough_bytes:  # with many partitions, few looks suffice
                        return max(at_s, self._paused_until_s)
        return max(ready_at_s, any_size_at_s)

    def _any_size_at_s(self) -> float:
        """Return from when on a request goes out however small it is."""
        if not self._requests:
            return self._paused_until_s
        latest = next(reversed(self._requests.values()))
        return max(self._paused_until_s, latest.sent_s + _SPACING_S)

    def _take(self, now_s: float) -> list[Attempt]:
        """Move ready batches under way, one per partition and round, up to a request's size."""
        taken: list[Attempt] = []
        room_bytes = self._settings.options.request_bytes
        full_bytes = room_bytes // 16  # with many partitions, smaller batches are not worth a look
        identity = self._settings.identity()
        with self._settings.lock:
            turn = list(self.queues)
            while turn:
                more = []
                for queue in turn:
                    if room_bytes < full_bytes:
                        break
                    if queue.ready_at_s(identity) > now_s:
                        continue
                    if taken and queue.next_bytes > room_bytes:
                        continue
                    batch = queue.take(identity)
                    taken.append(Attempt(queue, batch, batch.attempts))
                    room_bytes -= batch.size_bytes
                    if not queue.is_drained:
                        more.append(queue)
                turn = more
            for queue, batch, _ in taken:
                batch.build()
                # Whoever was served goes to the end of the line.
                self.queues[queue] = self.queues.pop(queue)
        assert taken, "something was due"
        return taken

    # ------------------------------------------------------------------ answers

    def _on_answer(self, response: broker_pb2.ProduceResponse) -> None:
        if not self._answers:
            # A pass of the loop later: records that came along are handed out first.
            self._loop.call_soon(self._take_answers)
        self._answers.append(response)

    def _take_answers(self) -> None:
        answers, self._answers = self._answers, []
        now_s = self._loop.time()
        try:
            for response in answers:
                self._on_response(response, now_s)
        except OdradekError as error:
            self._give_up(error)
        except Exception as error:  # noqa: BLE001 `run` raises it: the loop would only log it
            self._failure = error
            self._give_up(error)
        self.wake()  # last: what those woken by an answer send goes along

    def _on_response(self, response: broker_pb2.ProduceResponse, now_s: float) -> None:
        request = self._requests.get(response.correlation_id)
        if request is None or len(request.attempts) != len(response.partitions):
            # Kept, if it is one of ours: it is lost with the others when the stream ends.
            raise UnknownServerError(
                f"node {self.node_id} answered request {response.correlation_id} with"
                f" {len(response.partitions)} results, which does not fit",
                field="correlation_id",
            )
        del self._requests[response.correlation_id]
        if response.throttle_ms:
            self._paused_until_s = now_s + response.throttle_ms / 1000
        with self._settings.lock:
            for attempt, result in zip(request.attempts, response.partitions, strict=True):
                if attempt.is_current:
                    self._on_result(attempt.queue, attempt.batch, result, now_s)
        self._after_answers(request)

    def _on_result(
        self,
        queue: PartitionQueue,
        batch: ProducerBatch,
        result: broker_pb2.ProducePartitionResult,
        now_s: float,
    ) -> None:
        if not result.HasField("error"):
            queue.on_acknowledged(batch, result.base_offset, result.log_append_time_ms, now_s)
            return
        error = error_from_proto(result.error)
        if isinstance(error, DuplicateSequenceNumberError):
            queue.on_acknowledged(batch, -1, -1, now_s)
            return
        queue.on_failed(batch, error, now_s)
        if error.refreshes_metadata and result.leader_id >= 0:
            self._settings.hint_leader(
                queue.topic_id, queue.partition, result.leader_id, result.leader_epoch
            )

    def _lose_requests(self, error: OdradekError) -> None:
        now_s = self._loop.time()
        requests, self._requests = self._requests, {}
        for request in requests.values():
            with self._settings.lock:
                for attempt in request.attempts:
                    if attempt.is_current:
                        attempt.queue.on_failed(attempt.batch, error, now_s)
            self._after_answers(request)

    def _after_answers(self, request: Request) -> None:
        queues = list(dict.fromkeys(attempt.queue for attempt in request.attempts))
        for queue in queues:
            if queue.idle:
                self.queues.pop(queue, None)
        self._settings.on_answers(queues)

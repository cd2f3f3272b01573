"""One Fetch stream per node that leads something we read: performs what `FetchPlan` decides.

A task per stream, and one that follows metadata. What comes in goes to a `FetchSink` in the same
step in which the plan accepted it, so a seek between two steps can never let an old push through.

Invariant: a stream that broke is opened again for as long as the plan wants its node; nobody above
learns of it. One that is not wanted any more stays until it breaks: leaders often come back.
"""

import asyncio
import logging
from functools import partial
from typing import Final, Protocol, TypeAlias

import grpc

from odradek.client.cluster.background import Background
from odradek.client.cluster.image import NodeInfo
from odradek.client.cluster.log_offsets import ISOLATION_LEVELS, leader_of
from odradek.client.cluster.scope import Scope
from odradek.client.config import ConsumerOptions
from odradek.client.consuming.fetch_plan import Accepted, EndKind, FetchPlan, Frame
from odradek.client.consuming.fetched import Chunk, cut
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import BrokerError, CorruptMessageError, OdradekError
from odradek.protocol.hot import EpochEnd, FetchedPartitionFrame, decode_fetch_response
from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, NodeId, Offset, TopicPartition
from odradek.rpc.backoff import delays
from odradek.rpc.channels import Call, ConnectionLostError, converse, error_from_rpc
from odradek.v1 import broker_pb2

_FETCH_METHOD: Final = "/odradek.v1.BrokerService/Fetch"

_Call: TypeAlias = Call[broker_pb2.FetchRequest, bytes]

_NO_SUBSCRIPTION: Final = 0  # never given out
# A stream that stood for so long was no failure: the next one is opened without delay.
_STEADY_S: Final = 1.0

_log = logging.getLogger(__name__)


class FetchSink(Protocol):
    """Where fetched things go. Nothing here may block."""

    def on_chunk(self, chunk: Chunk) -> None:
        """Records came."""

    def on_damaged(self, partition: TopicIdPartition, generation: int, error: BrokerError) -> None:
        """Bytes came that are no record batches; reading has stopped."""

    def on_out_of_range(self, partition: TopicIdPartition, generation: int) -> None:
        """The position is not in the log; reading has stopped."""

    def on_diverged(self, partition: TopicIdPartition, generation: int, end: EpochEnd) -> None:
        """Records that were read are gone from the log (KIP-320); reading has stopped."""

    def on_refused(self, partition: TopicIdPartition, generation: int, error: BrokerError) -> None:
        """The partition cannot be read; reading has stopped."""


class _Stream:
    """What pokes the writer of one stream."""

    def __init__(self) -> None:
        self.due = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None


class Fetcher:
    """Fetches for one consumer. Its tasks belong to the background it is given."""

    def __init__(
        self, scope: Scope, options: ConsumerOptions, background: Background, sink: FetchSink
    ) -> None:
        self._scope = scope
        self._options = options
        self._background = background
        self._sink = sink
        self._plan = FetchPlan(
            partition_bytes=options.partition_fetch_bytes, total_bytes=options.fetch_bytes
        )
        self._running: set[NodeId] = set()
        self._streams: dict[NodeId, _Stream] = {}

    def start(self) -> None:
        """Begin to follow metadata."""
        self._background.spawn(self._follow_leaders(), name="follow-leaders")

    def read(
        self,
        partition: TopicIdPartition,
        generation: int,
        offset: Offset,
        last_epoch: LeaderEpoch,
    ) -> None:
        """Read a partition from an offset on; what was read of it before is void."""
        leader = leader_of(self._scope.metadata.image, partition)
        self._plan.read(partition, generation, offset, last_epoch, leader)
        self._sync()

    def reads(self, partition: TopicPartition, generation: int) -> bool:
        """Whether a partition is being read for this generation."""
        return self._plan.reads(partition, generation)

    def stop(self, partition: TopicPartition) -> None:
        """Read a partition no longer."""
        self._plan.stop(partition)
        self._sync()

    def release(self, push: Accepted) -> None:
        """The bytes of a push have left the buffer."""
        self._plan.on_released(push)
        self._poke(push.node)

    def buffered_bytes(self) -> int:
        """Return how much has been accepted and not released."""
        return self._plan.buffered_bytes()

    # ------------------------------------------------------------------ leaders

    async def _follow_leaders(self) -> None:
        while True:
            image = self._scope.metadata.image
            for partition in list(self._plan.partitions()):
                self._plan.on_leader(partition.name, leader_of(image, partition))
            self._sync()
            await self._scope.metadata.newer_than(image)

    def _sync(self) -> None:
        """Have a stream for every node the plan names."""
        for node in self._plan.nodes() - self._running:
            self._running.add(node)
            self._background.spawn(self._run(node), name=f"fetch-{node}")
        for node in self._running:
            self._poke(node)

    # ------------------------------------------------------------------ one stream

    async def _run(self, node: NodeId) -> None:
        pauses = delays(self._scope.chance)
        while node in self._plan.nodes():
            opened_s = self._now_s()
            try:
                await self._stream(node)
            except OdradekError as error:
                _log.debug("fetch stream to node %d ended: %s", node, error)
                self._scope.metadata.suspect()
            if self._now_s() - opened_s > _STEADY_S:
                pauses = delays(self._scope.chance)
            await asyncio.sleep(next(pauses))
        self._running.discard(node)

    async def _stream(self, node: NodeId) -> None:
        info = self._scope.metadata.node(node)
        if info is None:
            raise ConnectionLostError(f"node {node} is not registered")
        channel = self._scope.connections.to(info.address).channel
        encode = broker_pb2.FetchRequest.SerializeToString
        call: _Call = converse(channel, _FETCH_METHOD, encode=encode, decode=None)
        failures: tuple[BaseException, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(node, call))
                tasks.create_task(self._read(node, call))
                tasks.create_task(self._follow_node(info))
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, OdradekError) as lost:
            failures = lost.exceptions
        finally:
            call.cancel()
            self._forget_stream(node)
        raise _lost(failures[0])

    async def _follow_node(self, info: NodeInfo) -> None:
        """End the stream once the node is elsewhere: what it left behind may be silent for long."""
        image = self._scope.metadata.image
        while (known := image.nodes.get(info.node_id)) and known.address == info.address:
            image = await self._scope.metadata.newer_than(image)
        raise ConnectionLostError(f"node {info.node_id} is no longer at {info.address}")

    def _forget_stream(self, node: NodeId) -> None:
        stream = self._streams.pop(node, None)
        if stream is not None and stream.timer is not None:
            stream.timer.cancel()
        self._plan.on_stream_lost(node, self._now_s())

    def _open(self) -> broker_pb2.FetchOpen:
        return broker_pb2.FetchOpen(
            client_id=self._scope.options.client_id,
            isolation_level=ISOLATION_LEVELS[self._options.isolation],
            max_wait_ms=round(self._options.max_wait_s * 1000),
            min_bytes=self._options.min_bytes,
            rack=self._scope.options.rack,
        )

    async def _write(self, node: NodeId, call: _Call) -> None:
        await call.write(broker_pb2.FetchRequest(open=self._open()))
        stream = self._streams[node] = _Stream()
        self._plan.on_stream_opened(node)
        while True:
            self._poke(node)
            await stream.due.wait()
            stream.due.clear()
            frame = self._plan.frame(node, self._now_s())
            if frame:
                await call.write(_to_proto(frame))

    def _poke(self, node: NodeId) -> None:
        """Have a frame written when one is due."""
        stream = self._streams.get(node)
        if stream is None or stream.due.is_set():
            return
        wait_s = self._plan.due_in_s(node, self._now_s())
        if wait_s is None:
            return
        if wait_s > 0:
            if stream.timer is None or stream.timer.when() > self._now_s() + wait_s:
                self._arm(stream, wait_s)
            return
        stream.due.set()

    def _arm(self, stream: _Stream, wait_s: float) -> None:
        def ring() -> None:
            stream.timer = None
            stream.due.set()

        if stream.timer is not None:
            stream.timer.cancel()
        stream.timer = asyncio.get_running_loop().call_later(wait_s, ring)

    async def _read(self, node: NodeId, call: _Call) -> None:
        await call.listen(partial(self._on_response, node))
        raise ConnectionLostError(f"node {node} ended the fetch stream")

    def _on_response(self, node: NodeId, data: bytes) -> None:
        for each in decode_fetch_response(data).partitions:
            if each.error is not None:
                self._on_ended(node, each, each.error)
            elif each.diverging_epoch is not None:
                self._on_diverged(node, each, each.diverging_epoch)
            else:
                self._on_push(node, each)

    # ------------------------------------------------------------------ what a node pushes

    def _on_push(self, node: NodeId, pushed: FetchedPartitionFrame[memoryview]) -> None:
        if not pushed.records:
            self._plan.on_answered(node, pushed.subscription_id)
            return  # only watermarks
        message, start, size_bytes = pushed.records.obj, pushed.records_start, len(pushed.records)
        assert isinstance(message, bytes), "as received"
        try:
            batches, end, epoch = cut(message, start, start + size_bytes)
        except CorruptMessageError as error:
            standing = self._plan.standing(node, pushed.subscription_id)
            if standing is not None:
                self.stop(standing[0].name)
            self._plan.on_push(node, _NO_SUBSCRIPTION, size_bytes, Offset(0), NO_LEADER_EPOCH)
            self._poke(node)
            if standing is not None:
                self._sink.on_damaged(*standing, error)
            return
        accepted = self._plan.on_push(node, pushed.subscription_id, size_bytes, end, epoch)
        if accepted is None:
            self._poke(node)  # nobody will release these bytes
        else:
            self._sink.on_chunk(Chunk.of(accepted, message, batches, pushed.aborted))

    def _on_diverged(
        self, node: NodeId, pushed: FetchedPartitionFrame[memoryview], end: EpochEnd
    ) -> None:
        standing = self._plan.standing(node, pushed.subscription_id)
        if standing is not None:
            self.stop(standing[0].name)
            self._sink.on_diverged(*standing, end)

    def _on_ended(
        self, node: NodeId, pushed: FetchedPartitionFrame[memoryview], error: BrokerError
    ) -> None:
        ended = self._plan.on_ended(node, pushed.subscription_id, error, self._now_s())
        self._poke(node)
        if ended is None:
            return
        _log.debug("fetching %s from node %d: %s", ended.partition, node, error)
        match ended.kind:
            case EndKind.STALE_LEADER:
                self._scope.metadata.hint_leader(
                    ended.partition.topic_id,
                    ended.partition.partition,
                    pushed.leader_id,
                    pushed.leader_epoch,
                )
            case EndKind.OUT_OF_RANGE:
                self._sink.on_out_of_range(ended.partition, ended.generation)
            case EndKind.REFUSED:
                self._sink.on_refused(ended.partition, ended.generation, error)
            case EndKind.RETRY:
                pass

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _lost(error: BaseException) -> OdradekError:
    if isinstance(error, grpc.aio.AioRpcError):
        return error_from_rpc(error)
    return error if isinstance(error, OdradekError) else ConnectionLostError(str(error))


def _to_proto(frame: Frame) -> broker_pb2.FetchRequest:
    return broker_pb2.FetchRequest(
        unsubscribe=frame.unsubscribe,
        subscribe=[
            broker_pb2.FetchSubscribe(
                subscription_id=each.subscription_id,
                topic_id=each.partition.topic_id,
                topic=each.partition.topic,
                partition=each.partition.partition,
                current_leader_epoch=each.leader_epoch,
                offset=each.offset,
                last_fetched_epoch=each.last_fetched_epoch,
                credit_bytes=each.credit_bytes,
            )
            for each in frame.subscribe
        ],
        credits=[
            broker_pb2.FetchCredit(subscription_id=subscription_id, bytes=size)
            for subscription_id, size in frame.credits
        ],
        total_credit_bytes=frame.total_credit_bytes,
    )

"""The consumer's side of the cluster in memory: Fetch with credit, ListOffsets.

It keeps the contract of broker.proto (credit, one batch beyond it when a grant is unused, epochs,
log start) and does wrong on demand. A test appends with `FakeLogs.append`, which wakes the streams.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    InvalidRequestError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
    error_to_proto,
)
from odradek.protocol.hot import EpochEnd, FetchedPartitionFrame, encode_fetch_response
from odradek.protocol.record_batch import BatchBuilder, BatchHeader, Codec, compress, decode
from odradek.protocol.types import LeaderEpoch, NodeId, Offset
from odradek.v1 import broker_pb2
from tests.client.fake_node import FakeCluster, FakeNode, FakePartition, FakeTopic

EARLIEST = broker_pb2.OFFSET_SPEC_EARLIEST
LATEST = broker_pb2.OFFSET_SPEC_LATEST


def batch_of(
    values: Iterable[bytes | None],
    *,
    key: bytes | None = None,
    timestamp_ms: int = 1000,
    codec: Codec = Codec.NONE,
) -> bytearray:
    builder = BatchBuilder(16 << 20)
    for value in values:
        builder.append(key, value, timestamp_ms, [])
    return bytearray(compress(builder.close(), codec))


@dataclass(eq=False)
class _Subscription:
    begun: broker_pb2.FetchSubscribe
    topic: FakeTopic
    partition: FakePartition
    offset: int
    unused: int
    untouched: bool = True


class FakeLogs:
    """What every node's fetch service shares.

    Attributes:
        starts: Log start offsets of partitions, by uid, where they are not 0.
        timestamp_ms: Of records appended without one.
        subscribed: Every subscription seen, in order.
        held: While set, no node pushes.
        push_bytes: At most so much in one push.
        change: Set at the next wake.
        divergence: By uid: answered instead of records when a subscription carries an epoch.
        on_listed: Called once, after the next question about offsets was answered.
    """

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.starts: dict[int, int] = {}
        self.subscribed: list[broker_pb2.FetchSubscribe] = []
        self.divergence: dict[int, EpochEnd] = {}
        self.held = False
        self.push_bytes = 1 << 20
        self.credit_frames = 0
        self.on_listed: Callable[[], object] = bool
        self.change = asyncio.Event()

    def append(
        self,
        topic: FakeTopic,
        partition: int,
        values: Iterable[bytes | None],
        *,
        codec: Codec = Codec.NONE,
        key: bytes | None = None,
        timestamp_ms: int = 1000,
    ) -> None:
        """Append one batch."""
        batch = batch_of(values, codec=codec, key=key, timestamp_ms=timestamp_ms)
        topic.partitions[partition].append(bytes(batch), 64 << 20)
        self.wake()

    def cut_start(self, topic: FakeTopic, partition: int, offset: int) -> None:
        """Delete records, as retention does."""
        self.starts[topic.partitions[partition].uid] = offset
        self.wake()

    def wake(self) -> None:
        self.change.set()
        self.change = asyncio.Event()

    async def changed(self) -> None:
        await self.change.wait()

    def start(self, partition: FakePartition) -> int:
        return self.starts.get(partition.uid, 0)


class FakeFetch:
    """One node's fetch service.

    Attributes:
        errors: For the subscriptions to come, in order: ended at once with this error.
    """

    def __init__(self, node: FakeNode, logs: FakeLogs) -> None:
        self._node = node
        self._logs = logs
        self.errors: list[BrokerError] = []
        self.streams: set[asyncio.Task[Any]] = set()
        node.servicers.append(self._serve)

    def break_streams(self) -> None:
        for stream in list(self.streams):
            stream.cancel()

    def _serve(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Fetch": grpc.stream_stream_rpc_method_handler(
                self._fetch, request_deserializer=broker_pb2.FetchRequest.FromString
            ),
            "ListOffsets": grpc.unary_unary_rpc_method_handler(
                self._list_offsets,
                request_deserializer=broker_pb2.ListOffsetsRequest.FromString,
                response_serializer=broker_pb2.ListOffsetsResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("odradek.v1.BrokerService", handlers),)
        )

    async def _fetch(self, _: object, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.streams.add(task)
        standing: dict[int, _Subscription] = {}
        woken = asyncio.Event()
        reader = asyncio.create_task(self._read(context, standing, woken))
        try:
            while not reader.done():
                woken.clear()
                change = self._logs.change  # of before the look: none is missed
                while frames := self._frames(standing):
                    await context.write(encode_fetch_response(frames))
                waits = [asyncio.create_task(woken.wait()), asyncio.create_task(change.wait())]
                try:
                    await asyncio.wait((*waits, reader), return_when=asyncio.FIRST_COMPLETED)
                finally:  # also when the stream is broken
                    for wait in waits:
                        wait.cancel()
        except asyncio.CancelledError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the stream breaks")
        finally:
            self.streams.discard(task)
            reader.cancel()

    async def _read(
        self, context: Any, standing: dict[int, _Subscription], woken: asyncio.Event
    ) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            for each in request.unsubscribe:
                standing.pop(each, None)
            for begun in request.subscribe:
                self._logs.subscribed.append(begun)
                self._logs.wake()
                topic = self._logs.cluster.topics[begun.topic]
                partition = topic.partitions[begun.partition]
                standing[begun.subscription_id] = _Subscription(
                    begun, topic, partition, begun.offset, begun.credit_bytes
                )
            for credit in request.credits:
                self._logs.credit_frames += 1
                if credit.subscription_id in standing:
                    one = standing[credit.subscription_id]
                    one.unused += credit.bytes
                    one.untouched = one.unused >= one.begun.credit_bytes
            woken.set()

    def _frames(
        self, standing: dict[int, _Subscription]
    ) -> list[FetchedPartitionFrame[list[bytes]]]:
        frames = []
        for subscription_id, one in list(standing.items()):
            try:
                frame = self._push(subscription_id, one)
            except BrokerError as error:
                del standing[subscription_id]
                frame = FetchedPartitionFrame(
                    subscription_id=subscription_id,
                    records=[],
                    error=error,
                    leader_id=NodeId(one.partition.leader_id),
                    leader_epoch=LeaderEpoch(one.partition.leader_epoch),
                )
            if frame is not None:
                frames.append(frame)
                if frame.diverging_epoch is not None:
                    standing.pop(subscription_id, None)
        return frames

    def _push(
        self, subscription_id: int, one: _Subscription
    ) -> FetchedPartitionFrame[list[bytes]] | None:
        if self.errors:
            raise self.errors.pop(0)
        partition, start = one.partition, self._logs.start(one.partition)
        self._check(one)
        if one.begun.last_fetched_epoch >= 0 and partition.uid in self._logs.divergence:
            return FetchedPartitionFrame(
                subscription_id=subscription_id,
                records=[],
                diverging_epoch=self._logs.divergence.pop(partition.uid),
            )
        if one.offset < start:
            raise OffsetOutOfRangeError(f"{one.offset} is below {start}")
        if self._logs.held:
            return None
        batches, size = [], 0
        for batch in partition.batches:
            header = BatchHeader.parse(batch)
            if header.next_offset <= one.offset:
                continue
            if size and size + len(batch) > self._logs.push_bytes:
                break
            if size + len(batch) > one.unused and not (one.untouched and not size):
                break
            batches.append(bytes(batch))
            size += len(batch)
            one.offset = header.next_offset
        if not batches:
            return None
        one.unused -= size
        one.untouched = False
        return FetchedPartitionFrame(
            subscription_id=subscription_id,
            records=batches,
            high_watermark=Offset(partition.end),
            last_stable_offset=Offset(partition.end),
            log_start_offset=Offset(start),
        )

    def _check(self, one: _Subscription) -> None:
        if one.partition.leader_id != self._node.node_id:
            raise NotLeaderOrFollowerError("not here")
        if 0 <= one.begun.current_leader_epoch < one.partition.leader_epoch:
            raise FencedLeaderEpochError("an old epoch")
        if one.begun.current_leader_epoch > one.partition.leader_epoch:
            raise UnknownLeaderEpochError("a new epoch")

    async def _list_offsets(
        self, request: broker_pb2.ListOffsetsRequest, _: object
    ) -> broker_pb2.ListOffsetsResponse:
        found = [self._list_offset(each) for each in request.partitions]
        listed, self._logs.on_listed = self._logs.on_listed, bool
        listed()
        return broker_pb2.ListOffsetsResponse(partitions=found)

    def _list_offset(self, asked: broker_pb2.ListOffsetsPartition) -> broker_pb2.ListOffsetsResult:
        result = broker_pb2.ListOffsetsResult(topic_id=asked.topic_id, partition=asked.partition)
        try:
            partition = self._logs.cluster.by_id(asked.topic_id).partitions[asked.partition]
            if partition.leader_id != self._node.node_id:
                raise NotLeaderOrFollowerError("not here")
            if asked.timestamp_ms < 0:
                raise InvalidRequestError("before 1970")
        except BrokerError as error:
            result.error.CopyFrom(error_to_proto(error))
            return result
        result.leader_epoch = partition.leader_epoch
        if asked.spec == EARLIEST:
            result.offset = self._logs.start(partition)
        elif asked.spec == LATEST:
            result.offset = partition.end
        else:
            result.offset = next(
                (
                    record.offset
                    for batch in partition.batches
                    for record in decode(bytes(batch))
                    if (record.timestamp or 0) >= asked.timestamp_ms
                ),
                -1,
            )
        return result

"""BrokerService: the streams of records, and questions about offsets."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import grpc

from odradek.node.api.fetch import FetchStream
from odradek.node.api.limits import check_count
from odradek.node.api.produce import NodeLoad, ProduceStream
from odradek.node.api.turns import Turns
from odradek.node.cluster.producer_ids import ProducerIds
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.replicas import Replicas
from odradek.node.storage.log_reader import TimestampOffset
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    InvalidTxnStateError,
    OffsetNotAvailableError,
    error_to_proto,
)
from odradek.protocol.types import LeaderEpoch, PartitionIndex, TopicId
from odradek.v1 import broker_pb2 as pb

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["BrokerService"].full_name
_UNKNOWN: Final = -1


class BrokerServicer:
    """Serves the partitions this node leads."""

    def __init__(self, replicas: Replicas, producer_ids: ProducerIds) -> None:
        self._replicas = replicas
        self._producer_ids = producer_ids
        self._load = NodeLoad()
        self._turns = Turns()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End every stream once what it began is answered, and take no new ones."""
        self._stopping.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what to register: records pass as bytes, without generated classes."""
        methods: dict[str, Any] = {
            "Produce": grpc.stream_stream_rpc_method_handler(self.produce),
            "Fetch": grpc.stream_stream_rpc_method_handler(
                self.fetch, request_deserializer=pb.FetchRequest.FromString
            ),
            "ListOffsets": grpc.unary_unary_rpc_method_handler(
                self.list_offsets,
                request_deserializer=pb.ListOffsetsRequest.FromString,
                response_serializer=pb.ListOffsetsResponse.SerializeToString,
            ),
            "OffsetsForLeaderEpoch": grpc.unary_unary_rpc_method_handler(
                self.offsets_for_leader_epoch,
                request_deserializer=pb.OffsetsForLeaderEpochRequest.FromString,
                response_serializer=pb.OffsetsForLeaderEpochResponse.SerializeToString,
            ),
            "InitProducerId": grpc.unary_unary_rpc_method_handler(
                self.init_producer_id,
                request_deserializer=pb.InitProducerIdRequest.FromString,
                response_serializer=pb.InitProducerIdResponse.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    async def produce(self, _: Any, context: Any) -> None:
        """Append; see `ProduceStream`."""
        await ProduceStream(self._replicas, context, self._load, self._turns).run(self._stopping)

    async def fetch(self, _: Any, context: Any) -> None:
        """Read; see `FetchStream`."""
        await FetchStream(self._replicas, context, self._turns).run(self._stopping)

    async def list_offsets(
        self, request: pb.ListOffsetsRequest, context: Any
    ) -> pb.ListOffsetsResponse:
        """Find offsets by timestamp, or a log's ends."""
        del context
        check_count("partitions", len(request.partitions))
        stable = request.isolation_level != pb.ISOLATION_LEVEL_READ_UNCOMMITTED
        results = [await self._list_offset(each, stable=stable) for each in request.partitions]
        return pb.ListOffsetsResponse(partitions=results)

    async def _list_offset(
        self, question: pb.ListOffsetsPartition, *, stable: bool
    ) -> pb.ListOffsetsResult:
        result = pb.ListOffsetsResult(
            topic_id=question.topic_id,
            partition=question.partition,
            offset=_UNKNOWN,
            timestamp_ms=_UNKNOWN,
            leader_epoch=_UNKNOWN,
        )
        try:
            replica = self._find(question)
            end = replica.last_stable_offset if stable else replica.high_watermark
            if not replica.reached_epoch_start:
                raise OffsetNotAvailableError(f"partition {replica} has only just been taken over")
            epochs = replica.log.leader_epochs
            match question.spec:
                case pb.OFFSET_SPEC_EARLIEST:
                    result.offset = replica.log_start_offset
                    result.leader_epoch = epochs.epoch_at(replica.log_start_offset)
                case pb.OFFSET_SPEC_LATEST:
                    result.offset, result.leader_epoch = end, epochs.latest
                case _:
                    found = await self._by_time(replica, question)
                    if found is not None and found.offset < end:
                        result.offset = found.offset
                        result.timestamp_ms = found.timestamp_ms
                        result.leader_epoch = found.leader_epoch
        except BrokerError as error:
            result.error.CopyFrom(error_to_proto(error))
        return result

    async def _by_time(
        self, replica: PartitionReplica, question: pb.ListOffsetsPartition
    ) -> TimestampOffset | None:
        if question.spec == pb.OFFSET_SPEC_MAX_TIMESTAMP:
            return await replica.max_timestamp()
        if question.spec != pb.OFFSET_SPEC_UNSPECIFIED or question.timestamp_ms < 0:
            raise InvalidRequestError(
                f"offset spec {question.spec} at {question.timestamp_ms} ms asks for nothing known",
                field="spec" if question.spec else "timestamp_ms",
                value=question.spec or question.timestamp_ms,
            )
        return await replica.offset_for_timestamp(question.timestamp_ms)

    async def offsets_for_leader_epoch(
        self, request: pb.OffsetsForLeaderEpochRequest, context: Any
    ) -> pb.OffsetsForLeaderEpochResponse:
        """Tell where epochs ended."""
        del context
        check_count("partitions", len(request.partitions))
        return pb.OffsetsForLeaderEpochResponse(
            partitions=self._epoch_ends(request.partitions),
        )

    def _epoch_ends(
        self, questions: Iterable[pb.LeaderEpochPartition]
    ) -> Iterable[pb.LeaderEpochResult]:
        for question in questions:
            result = pb.LeaderEpochResult(topic_id=question.topic_id, partition=question.partition)
            try:
                replica = self._find(question)
                epoch = LeaderEpoch(question.leader_epoch)
                known = epoch <= replica.leader_epoch
                epochs, log_end = replica.log.leader_epochs, replica.log_end_offset
                end = epochs.end_of(epoch, log_end) if known else None
                result.end.leader_epoch = _UNKNOWN if end is None else end.epoch
                result.end.end_offset = _UNKNOWN if end is None else end.end_offset
            except BrokerError as error:
                result.error.CopyFrom(error_to_proto(error))
            yield result

    def _find(
        self, question: pb.ListOffsetsPartition | pb.LeaderEpochPartition
    ) -> PartitionReplica:
        return self._replicas.find(
            TopicId(question.topic_id),
            question.topic,
            PartitionIndex(question.partition),
            LeaderEpoch(question.current_leader_epoch),
        )

    async def init_producer_id(
        self, request: pb.InitProducerIdRequest, context: Any
    ) -> pb.InitProducerIdResponse:
        """Grant a producer id.

        Raises:
            InvalidTxnStateError: A transactional id; transactions come later.
        """
        del context
        if request.transactional_id:
            raise InvalidTxnStateError(
                "transactions come later; ask without a transactional id",
                field="transactional_id",
                value=request.transactional_id,
            )
        held = request.producer_id, request.producer_epoch
        producer_id, epoch = await self._producer_ids.grant(*held)
        return pb.InitProducerIdResponse(producer_id=producer_id, producer_epoch=epoch)

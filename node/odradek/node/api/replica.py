"""ReplicaService: what other nodes ask of this one."""

from typing import Any, Final

import grpc

from odradek.node.api.limits import check_count
from odradek.node.replication import lags
from odradek.node.replication.node_links import NodeLinks
from odradek.node.replication.replicas import Replicas
from odradek.protocol.errors import InvalidRequestError, UnknownTopicOrPartitionError
from odradek.protocol.types import Offset, PartitionUid
from odradek.rpc.server import first_request
from odradek.v1 import replica_pb2 as pb

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["ReplicaService"].full_name


class ReplicaServicer:
    """Serves the nodes that follow partitions led here."""

    def __init__(self, replicas: Replicas, links: NodeLinks) -> None:
        self._replicas = replicas
        self._links = links

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what to register: pushes pass as bytes, without generated classes."""
        methods: dict[str, Any] = {
            "Replicate": grpc.stream_stream_rpc_method_handler(
                self.replicate, request_deserializer=pb.ReplicateRequest.FromString
            ),
            "ConfirmLeadership": grpc.unary_unary_rpc_method_handler(
                self.confirm_leadership,
                request_deserializer=pb.ConfirmLeadershipRequest.FromString,
                response_serializer=pb.ConfirmLeadershipResponse.SerializeToString,
            ),
            "FetchBatch": grpc.unary_unary_rpc_method_handler(
                self.fetch_batch,
                request_deserializer=pb.FetchBatchRequest.FromString,
                response_serializer=pb.FetchBatchResponse.SerializeToString,
            ),
            "DescribeFollowers": grpc.unary_unary_rpc_method_handler(
                self.describe_followers,
                request_deserializer=pb.DescribeFollowersRequest.FromString,
                response_serializer=pb.DescribeFollowersResponse.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    async def replicate(self, _: Any, context: Any) -> None:
        """Serve one stream until it ends.

        Raises:
            RequestTimedOutError: It does not begin.
            InvalidRequestError: It does not begin with `open`, or contradicts itself.
            StaleBrokerEpochError: The follower has opened a newer pair of streams.
        """
        request = await first_request(context.read())
        if request is grpc.aio.EOF or not request.HasField("open"):
            raise InvalidRequestError("a stream begins with `open`", field="open")
        follower = self._links.admit(request.open)
        match request.open.stream:
            case pb.REPLICATE_STREAM_LIVE:
                await follower.serve_live(context)
            case pb.REPLICATE_STREAM_CATCH_UP:
                await follower.serve_catch_up(context)
            case other:
                raise InvalidRequestError(
                    f"no stream is of kind {other}", field="open.stream", value=other
                )

    async def confirm_leadership(
        self, request: pb.ConfirmLeadershipRequest, context: Any
    ) -> pb.ConfirmLeadershipResponse:
        """Name the partitions of which this node knows a later epoch."""
        del context
        check_count("partitions", len(request.partitions))
        superseded = []
        for led in request.partitions:
            replica = self._replicas.with_uid(PartitionUid(led.uid))
            if replica is None or replica.leader_epoch > led.leader_epoch:
                superseded.append(led.uid)
        return pb.ConfirmLeadershipResponse(superseded=superseded)

    async def fetch_batch(
        self, request: pb.FetchBatchRequest, context: Any
    ) -> pb.FetchBatchResponse:
        """Return one batch as this replica has it, for a replica whose copy is damaged.

        Raises:
            UnknownTopicOrPartitionError: This node holds no such replica.
            OffsetOutOfRangeError: It holds no such offset.
            CorruptMessageError: It is damaged here too.
        """
        del context
        replica = self._replicas.with_uid(PartitionUid(request.uid))
        if replica is None:
            raise UnknownTopicOrPartitionError(field="uid", value=request.uid)
        batches = await replica.log.read(Offset(request.offset), 1)
        return pb.FetchBatchResponse(batch=batches[0] if batches else b"")

    async def describe_followers(
        self, request: pb.DescribeFollowersRequest, context: Any
    ) -> pb.DescribeFollowersResponse:
        """Tell how much the followers of partitions led here lack."""
        del context
        check_count("uids", len(request.uids), lags.PARTITIONS_MAX)
        logs = await self._links.lags.here(map(PartitionUid, request.uids))
        return pb.DescribeFollowersResponse(logs=logs)

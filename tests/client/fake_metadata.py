"""The metadata and admin services of a cluster in memory."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from odradek.protocol.errors import (
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    error_to_proto,
)
from odradek.v1 import admin_pb2, metadata_pb2, metadata_pb2_grpc

if TYPE_CHECKING:
    from tests.client.fake_node import FakeNode


class MetadataServicer(metadata_pb2_grpc.MetadataServiceServicer):
    def __init__(self, node: "FakeNode") -> None:
        self._node = node

    async def GetMetadata(  # noqa: N802
        self, request: metadata_pb2.GetMetadataRequest, context: Any
    ) -> metadata_pb2.GetMetadataResponse:
        await self._node.reading.wait()
        cluster = self._node.cluster
        found = []
        for name in [*request.topics, *(cluster.topics if request.all_topics else ())]:
            if name in cluster.topics:
                found.append(cluster.topics[name].metadata())
                continue
            error = error_to_proto(UnknownTopicOrPartitionError(f"unknown topic {name!r}"))
            found.append(metadata_pb2.TopicMetadata(name=name, error=error))
        return metadata_pb2.GetMetadataResponse(
            cluster_id=cluster.cluster_id,
            version=cluster.version,
            controller_id=1 if self._node.hears_controller else -1,
            nodes=[node.metadata() for node in cluster.nodes.values()],
            topics=found,
        )

    async def WatchMetadata(  # noqa: N802
        self, request: metadata_pb2.WatchMetadataRequest, context: Any
    ) -> AsyncIterator[metadata_pb2.WatchMetadataResponse]:
        cluster = self._node.cluster
        async with cluster.watching(self._node) as watcher:
            yield metadata_pb2.WatchMetadataResponse(
                cluster_id=cluster.cluster_id, update=cluster.image()
            )
            while (update := await watcher.get()) is not None:
                yield metadata_pb2.WatchMetadataResponse(
                    cluster_id=cluster.cluster_id, update=update
                )


class AdminServicer:
    def __init__(self, node: "FakeNode") -> None:
        self._cluster = node.cluster

    async def CreateTopics(  # noqa: N802
        self, request: admin_pb2.CreateTopicsRequest, context: Any
    ) -> admin_pb2.CreateTopicsResponse:
        results = []
        for wanted in request.topics:
            result = admin_pb2.TopicResult(name=wanted.name)
            if wanted.name in self._cluster.topics:
                error = TopicAlreadyExistsError(f"topic {wanted.name!r} exists")
                result.error.CopyFrom(error_to_proto(error))
            else:
                topic = self._cluster.create_topic(
                    wanted.name, partitions=wanted.partitions or 6, config=dict(wanted.config)
                )
                result.topic_id = topic.topic_id
                result.partitions = len(topic.partitions)
                result.replication_factor = 1
            results.append(result)
        return admin_pb2.CreateTopicsResponse(topics=results, version=self._cluster.version)

    async def DeleteTopics(  # noqa: N802
        self, request: admin_pb2.DeleteTopicsRequest, context: Any
    ) -> admin_pb2.DeleteTopicsResponse:
        results = []
        for wanted in request.topics:
            result = admin_pb2.TopicResult(name=wanted.name)
            if wanted.name in self._cluster.topics:
                self._cluster.delete_topic(wanted.name)
            else:
                error = UnknownTopicOrPartitionError(f"unknown topic {wanted.name!r}")
                result.error.CopyFrom(error_to_proto(error))
            results.append(result)
        return admin_pb2.DeleteTopicsResponse(topics=results, version=self._cluster.version)

    async def DescribeCluster(  # noqa: N802
        self, request: admin_pb2.DescribeClusterRequest, context: Any
    ) -> admin_pb2.DescribeClusterResponse:
        return admin_pb2.DescribeClusterResponse(
            cluster_id=self._cluster.cluster_id,
            version=self._cluster.version,
            nodes=[
                admin_pb2.NodeStatus(node=node.metadata(), leader_count=1)
                for node in self._cluster.nodes.values()
            ],
            controllers=[admin_pb2.ControllerStatus(controller_id=-1, address="c:1")],
        )

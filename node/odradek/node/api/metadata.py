"""MetadataService: where everything lies, from this node's image."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Any, Final

from odradek.node.api.limits import NAMES_MAX, check_count
from odradek.node.cluster.controllers import UNKNOWN_CONTROLLER, Controllers
from odradek.node.cluster.image import ClusterImage, ImageUpdate, TopicState
from odradek.node.cluster.translation import node_to_proto, topic_to_proto, update_to_proto
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import BrokerError, error_to_proto
from odradek.protocol.names import check_topic_name
from odradek.protocol.types import TopicId
from odradek.v1 import metadata_pb2 as pb
from odradek.v1 import metadata_pb2_grpc

_VERSION_WAIT_MAX_S: Final = 5.0
# Before its first image a node knows nothing; clients would take that for a cluster without topics.
_FIRST_VERSION: Final = 1


class MetadataServicer(metadata_pb2_grpc.MetadataServiceServicer):
    """Answers from the image in force."""

    def __init__(self, view: ClusterView, controllers: Controllers) -> None:
        self._view = view
        self._controllers = controllers

    async def GetMetadata(  # noqa: N802  the contract's name
        self, request: pb.GetMetadataRequest, context: Any
    ) -> pb.GetMetadataResponse:
        """Return topics by name, by id, or all of them.

        Raises:
            RequestTimedOutError: This node did not reach `min_version` in time.
        """
        check_count("topics", len(request.topics) + len(request.topic_ids), NAMES_MAX)
        timeout_s = min(context.time_remaining() or _VERSION_WAIT_MAX_S, _VERSION_WAIT_MAX_S)
        image = await self._view.at_least(max(_FIRST_VERSION, request.min_version), timeout_s)
        if request.all_topics:
            topics: Iterable[pb.TopicMetadata] = (
                topic_to_proto(topic)
                for topic in image.topics.values()
                if request.include_internal or not topic.internal
            )
        else:
            topics = (
                *(_topic_by_name(image, name) for name in request.topics),
                *(_topic_by_id(image, topic_id) for topic_id in request.topic_ids),
            )
        return pb.GetMetadataResponse(
            cluster_id=self._view.cluster_id,
            version=image.version,
            controller_id=self._active_id,
            nodes=map(node_to_proto, image.nodes.values()),
            topics=topics,
        )

    async def WatchMetadata(  # noqa: N802
        self, request: pb.WatchMetadataRequest, context: Any
    ) -> AsyncIterator[pb.WatchMetadataResponse]:
        """Send the image, then what changes of it, both as far as the client is interested.

        Of a step that concerns it in nothing, it is told the version.

        Raises:
            RequestTimedOutError: This node has not joined its cluster yet.
            NotLeaderOrFollowerError: It does not hear the controllers any more.
        """
        del context
        await self._view.at_least(_FIRST_VERSION, _VERSION_WAIT_MAX_S)
        interest = _Interest(frozenset(request.topics), include_internal=request.include_internal)
        with self._view.watch() as watcher:
            async for update in watcher.updates(interest.filter):
                yield pb.WatchMetadataResponse(
                    cluster_id=self._view.cluster_id,
                    controller_id=self._active_id,
                    update=update_to_proto(update),
                )

    @property
    def _active_id(self) -> int:
        active = self._controllers.active
        return UNKNOWN_CONTROLLER if active is None else active.controller_id


class _Interest:
    """Which topics one watcher wants, and which of them it has been sent."""

    def __init__(self, names: frozenset[str], *, include_internal: bool) -> None:
        self._names = names
        self._include_internal = include_internal
        self._sent: set[TopicId] = set()

    def filter(self, update: ImageUpdate) -> ImageUpdate | None:
        """Return the part of an update that matters here; None when there is none."""
        topics = tuple(topic for topic in update.topics if self._wants(topic))
        if update.snapshot:
            self._sent.clear()
        removed = tuple(id_ for id_ in update.removed_topic_ids if id_ in self._sent)
        self._sent.difference_update(removed)
        self._sent.update(topic.topic_id for topic in topics)
        part = replace(
            update,
            topics=topics,
            removed_topic_ids=removed,
            partitions=tuple(each for each in update.partitions if each[0] in self._sent),
        )
        something = (
            part.snapshot
            or part.nodes
            or part.removed_node_ids
            or part.topics
            or part.removed_topic_ids
            or part.partitions
        )
        return part if something else None

    def _wants(self, topic: TopicState) -> bool:
        if self._names:
            return topic.name in self._names
        return self._include_internal or not topic.internal


def _topic_by_name(image: ClusterImage, name: str) -> pb.TopicMetadata:
    try:
        return topic_to_proto(image.topic(b"", check_topic_name(name)))
    except BrokerError as error:
        return pb.TopicMetadata(name=name, error=error_to_proto(error))


def _topic_by_id(image: ClusterImage, topic_id: bytes) -> pb.TopicMetadata:
    topic = image.topics.get(TopicId(topic_id))
    if topic is None:
        error = error_to_proto(image.unknown_topic_id(topic_id))
        return pb.TopicMetadata(topic_id=topic_id, error=error)
    return topic_to_proto(topic)

"""Follows the topics a consumer reads without the help of a group.

With topics but no group, every partition is read, those that are added later too. A partition whose
topic was deleted is a failure the application hears of. (In a group the coordinator does both.)
"""

from collections.abc import Iterable
from typing import Any

from odradek.client.cluster.image import ClusterImage
from odradek.client.cluster.scope import Scope
from odradek.client.consuming.positions import PartitionState, TopicIdPartition
from odradek.client.consuming.reader import Reader
from odradek.protocol.errors import UnknownTopicOrPartitionError
from odradek.protocol.types import PartitionIndex, TopicName


class TopicWatch:
    """Keeps the assignment of a consumer without membership in step with metadata."""

    def __init__(self, scope: Scope, reader: Reader[Any, Any], topics: Iterable[str]) -> None:
        self._scope = scope
        self._reader = reader
        self._topics = tuple(TopicName(topic) for topic in topics)

    async def run(self) -> None:
        """Follow metadata until cancelled."""
        while True:
            image = self._scope.metadata.image
            self.assign_new(image)
            for state in self._reader.positions:
                if state.id.topic_id not in image.names:
                    self._fail(state)
            await self._scope.metadata.newer_than(image)

    def assign_new(self, image: ClusterImage) -> None:
        """Read every partition of the topics that is not read yet."""
        for topic in self._topics:
            info = image.topics.get(topic)
            if info is None:
                continue
            partitions = [
                TopicIdPartition(topic, PartitionIndex(index), info.topic_id)
                for index in range(len(info.partitions))
            ]
            self._reader.assign(
                each for each in partitions if self._reader.positions.get(each.name) is None
            )

    def _fail(self, state: PartitionState) -> None:
        self._reader.handout.fail_partition(
            state.id,
            state.generation,
            UnknownTopicOrPartitionError(
                f"topic {state.id.topic!r} was deleted", field="topic", value=state.id.topic
            ),
        )

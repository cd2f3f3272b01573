"""Telling nodes what is committed: the image once, then what changed, each as one step.

Problem: a node must see changes in commit order and soon, and one slow node must not cost memory or
hold up others. Idea: a watcher keeps the names of what changed since it was last told
(state/touched.py) and gets their present values when it can be told again.

Invariants: versions never go backwards within a stream; a group goes to the node that leads its
partition of `__consumer_offsets` and to nobody else, and arrives with that leadership in one step;
a stream ends as soon as this controller is not active, or the node has registered again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress

from odradek.controller.active import ActiveController
from odradek.controller.committed import Committed
from odradek.controller.groups_wire import group_to_proto
from odradek.controller.signals import Signal
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.nodes import check_incarnation
from odradek.controller.state.touched import Touched
from odradek.controller.wire.metadata import node_to_proto, partition_to_proto, topic_to_proto
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import (
    GroupId,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionIndex,
    PartitionUid,
)
from odradek.v1 import controller_pb2, metadata_pb2

_KEEP_ALIVE_S = 10.0
# A step that concerns a node in nothing but its version may wait for one that does.
_VERSION_DELAY_S = 0.1


class PartitionMessages:
    """The messages of partitions, each made once for all watchers: one death changes thousands."""

    def __init__(self) -> None:
        self._version = -1
        self._messages: dict[PartitionUid, metadata_pb2.PartitionUpdate] = {}

    def of(self, image: ClusterImage, touched: Touched) -> Iterator[metadata_pb2.PartitionUpdate]:
        """Yield the messages of the partitions touched, as of an image."""
        if image.version != self._version:
            self._version = image.version
            self._messages.clear()
        for uid in sorted(touched.partitions):
            place = image.places.get(uid)
            # A topic that is told whole holds its partitions; one that is gone has none.
            if place is None or place.topic_id in touched.topics:
                continue
            message = self._messages.get(uid)
            if message is None:
                message = self._messages[uid] = metadata_pb2.PartitionUpdate(
                    topic_id=place.topic_id,
                    partition=partition_to_proto(place.index, image.partitions[uid]),
                )
            yield message


class Watcher:
    """What one node has been told, and what it is to be told next."""

    def __init__(self, node_id: NodeId, messages: PartitionMessages | None = None) -> None:
        """Begin knowing nothing: the first update is the whole image.

        Args:
            node_id: Whom it tells.
            messages: Shared with the other watchers.
        """
        self.node_id = node_id
        self._messages = messages or PartitionMessages()
        self.version = -1
        self._touched: Touched | None = None  # None: anything may have changed
        self._coordinates: dict[PartitionIndex, LeaderEpoch] = {}
        self._groups: dict[GroupId, PartitionIndex] = {}

    def on_committed(self, touched: Touched | None) -> None:
        """Remember what changed."""
        if touched is None:
            self._touched = None
        elif self._touched is not None:
            self._touched.update(touched)

    def has_news(self, image: ClusterImage) -> bool:
        """Tell whether an update would hold more than a version."""
        touched = self._touched
        if touched is None or touched.nodes or touched.topics or touched.partitions:
            return True
        for name in touched.groups:
            group = image.groups.get(name)
            here = group is not None and group.coordinator_partition in self._coordinates
            if here or name in self._groups:
                return True
        return False

    def next_update(self, image: ClusterImage, epoch: int) -> controller_pb2.WatchClusterResponse:
        """Return what changed since the last call, as of an image."""
        assert image.version >= self.version, "versions never go backwards"
        touched, self._touched = self._touched, Touched()
        if touched is None:
            metadata = _snapshot(image)
        else:
            metadata = _delta(image, touched, self._messages.of(image, touched))
        response = controller_pb2.WatchClusterResponse(controller_epoch=epoch, metadata=metadata)
        self._add_groups(response, image, None if touched is None else touched.groups)
        self.version = image.version
        return response

    def _add_groups(
        self,
        response: controller_pb2.WatchClusterResponse,
        image: ClusterImage,
        touched: Iterable[GroupId] | None,
    ) -> None:
        coordinates = _coordinated_by(image, self.node_id)
        due = set(image.groups if touched is None else touched)
        # A new epoch is a new coordinator, also when the end of the old one was never told.
        gained = {
            index for index, epoch in coordinates.items() if self._coordinates.get(index) != epoch
        }
        if gained:
            due |= {
                name
                for name, group in image.groups.items()
                if group.coordinator_partition in gained
            }
        if self._coordinates.keys() - coordinates.keys():
            due |= {name for name, index in self._groups.items() if index not in coordinates}
        self._coordinates = coordinates
        for name in sorted(due):
            group = image.groups.get(name)
            if group is not None and group.coordinator_partition in coordinates:
                self._groups[name] = group.coordinator_partition
                response.groups.append(group_to_proto(group))
            elif self._groups.pop(name, None) is not None:
                response.removed_groups.append(name)


class Feed:
    """The streams to all nodes that watch."""

    def __init__(self, active: ActiveController, committed: Committed) -> None:
        """Follow the committed image."""
        self._active = active
        self._committed = committed
        self._watchers: set[Watcher] = set()
        self._messages = PartitionMessages()
        self._changed = Signal()
        active.changed.forward_to(self._changed)
        committed.listen(self._on_committed)

    async def watch(
        self, node_id: NodeId, incarnation: Incarnation
    ) -> AsyncIterator[controller_pb2.WatchClusterResponse]:
        """Yield the image and then every change.

        Raises:
            NotControllerError: This controller is not active (any more).
            StaleBrokerEpochError: The node has registered again.
        """
        watcher = Watcher(node_id, self._messages)
        self._watchers.add(watcher)
        clock = asyncio.get_running_loop().time
        due_at_s = 0.0
        try:
            while True:
                changed = self._changed.next()
                epoch, image = self._active.require_epoch(), self._committed.image
                check_incarnation(image, node_id, incarnation)
                if watcher.has_news(image) or clock() >= due_at_s:
                    yield watcher.next_update(image, epoch)
                    due_at_s = clock() + _KEEP_ALIVE_S
                    continue
                if image.version > watcher.version:
                    due_at_s = min(due_at_s, clock() + _VERSION_DELAY_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due_at_s):
                        await changed.wait()
        finally:
            self._watchers.discard(watcher)

    def _on_committed(self, touched: Touched | None) -> None:
        for watcher in self._watchers:
            watcher.on_committed(touched)
        self._changed.fire()


def _snapshot(image: ClusterImage) -> metadata_pb2.MetadataUpdate:
    return metadata_pb2.MetadataUpdate(
        version=image.version,
        snapshot=True,
        nodes=map(node_to_proto, image.nodes.values()),
        topics=(topic_to_proto(image, topic) for topic in image.topics.values()),
        next_partition_uid=image.next_partition_uid,
    )


def _delta(
    image: ClusterImage, touched: Touched, partitions: Iterable[metadata_pb2.PartitionUpdate]
) -> metadata_pb2.MetadataUpdate:
    nodes, topics = image.nodes, image.topics
    return metadata_pb2.MetadataUpdate(
        version=image.version,
        nodes=[node_to_proto(nodes[each]) for each in sorted(touched.nodes) if each in nodes],
        removed_node_ids=sorted(touched.nodes - nodes.keys()),
        topics=[
            topic_to_proto(image, topics[each]) for each in sorted(touched.topics) if each in topics
        ],
        removed_topic_ids=sorted(touched.topics - topics.keys()),
        partitions=partitions,
        next_partition_uid=image.next_partition_uid,
    )


def _coordinated_by(image: ClusterImage, node_id: NodeId) -> dict[PartitionIndex, LeaderEpoch]:
    topic = image.topic_named(CONSUMER_OFFSETS)
    if topic is None:
        return {}
    return {
        PartitionIndex(index): partition.leader_epoch
        for index, partition in enumerate(image.partitions_of(topic))
        if partition.leader == node_id
    }

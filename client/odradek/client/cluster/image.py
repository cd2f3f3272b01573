"""What a client knows about the cluster: nodes, topics, partitions. Pure.

Immutable values; `Metadata` replaces them as a whole.

Invariant: a partition of one topic id never goes back to an older leader epoch, whichever node the
news comes from (a node that lags, or a hint in a produce answer that is ahead of the watch).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    PartitionIndex,
    TopicId,
    TopicName,
)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A broker node.

    Attributes:
        node_id: Its number.
        host: Where to dial it.
        port: Where to dial it.
        rack: Its failure domain; empty when none was configured.
        fenced: True while it leads nothing.
        draining: True once it was asked to hand over its partitions.
    """

    node_id: NodeId
    host: str
    port: int
    rack: str = ""
    fenced: bool = False
    draining: bool = False

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """One partition.

    Attributes:
        partition: Its index.
        leader_id: The leading node; -1 when there is none.
        leader_epoch: Grows with each election.
        replicas: Nodes that hold it, the preferred leader first.
        isr: Replicas in sync.
    """

    partition: PartitionIndex
    leader_id: NodeId
    leader_epoch: LeaderEpoch
    replicas: tuple[NodeId, ...] = ()
    isr: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic.

    Attributes:
        name: Its name.
        topic_id: 16 bytes; another after deletion and re-creation under the same name.
        partitions: By index.
        internal: True for topics Odradek keeps for itself.
        config: Settings that differ from the defaults.
    """

    name: TopicName
    topic_id: TopicId
    partitions: tuple[PartitionInfo, ...]
    internal: bool
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClusterImage:
    """A consistent cut of the cluster.

    Attributes:
        cluster_id: Whose.
        version: Only grows.
        nodes: By id.
        topics: By name.
        names: Topic names by topic id.
    """

    cluster_id: str
    version: int
    nodes: Mapping[NodeId, NodeInfo]
    topics: Mapping[TopicName, TopicInfo]
    names: Mapping[TopicId, TopicName]

    def leader(self, topic: TopicName, partition: PartitionIndex) -> NodeInfo | None:
        """Return the node that leads a partition; None when there is none, or none is known."""
        info = self.topics.get(topic)
        if info is None or not 0 <= partition < len(info.partitions):
            return None
        return self.nodes.get(info.partitions[partition].leader_id)

    def with_leader(
        self, topic_id: TopicId, partition: PartitionIndex, leader: NodeId, epoch: LeaderEpoch
    ) -> "ClusterImage":
        """Return the image with a leader heard of elsewhere, or itself if that is no news."""
        info = self.topics.get(self.names.get(topic_id, TopicName("")))
        if info is None or not 0 <= partition < len(info.partitions) or leader not in self.nodes:
            return self
        known = info.partitions[partition]
        if epoch <= known.leader_epoch:
            return self
        newer = replace(known, leader_id=leader, leader_epoch=epoch)
        return replace(self, topics={**self.topics, info.name: with_partition(info, newer)})

    def keeping_newest_leaders(self, known: "ClusterImage") -> "ClusterImage":
        """Return this image, but without going back to older leader epochs than another knows."""
        topics = {
            name: _with_newest_leaders(info, known.topics.get(name))
            for name, info in self.topics.items()
        }
        return replace(self, topics=topics)


EMPTY = ClusterImage("", -1, {}, {}, {})


def with_partition(info: TopicInfo, partition: PartitionInfo) -> TopicInfo:
    """Return the topic with one partition replaced or added at its end."""
    index = partition.partition
    assert 0 <= index <= len(info.partitions), "partitions are numbered without gaps"
    return replace(
        info, partitions=(*info.partitions[:index], partition, *info.partitions[index + 1 :])
    )


def _with_newest_leaders(fresh: TopicInfo, known: TopicInfo | None) -> TopicInfo:
    if known is None or known is fresh or known.topic_id != fresh.topic_id:
        return fresh
    newest = tuple(
        max(fresh_one, known_one, key=lambda each: each.leader_epoch)
        for fresh_one, known_one in zip(fresh.partitions, known.partitions, strict=False)
    )
    if newest == fresh.partitions[: len(newest)]:
        return fresh
    return replace(fresh, partitions=newest + fresh.partitions[len(newest) :])

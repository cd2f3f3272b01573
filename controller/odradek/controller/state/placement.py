"""Where new replicas go. Pure.

Problem: every node should carry its share of leaders and replicas, within each topic and over all,
and the replicas of a partition should not share a rack. Idea: place one replica at a time on the
node that has least: leaders by (leaders in this topic, leaders in all), followers by (rack already
used, replicas in this topic, replicas in all), equals by chance.

Invariants: a partition's replicas are distinct live nodes; a node that is drained gets none, one
that stops or has no room only when there are too few others; between the rest, leaders of a fresh
topic differ by at most one; racks repeat only when there are fewer racks than replicas.

Source: Apache Kafka's StripedReplicaPlacer, made greedy over the present load.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from odradek.controller.state.image import ClusterImage
from odradek.controller.state.records import Node, Partition
from odradek.protocol.errors import EligibleLeadersNotAvailableError, InvalidReplicationFactorError
from odradek.protocol.types import NodeId


@dataclass(slots=True, eq=False)
class _Load:
    node_id: NodeId
    rack: str
    reluctant: bool
    leaders: int = 0
    replicas: int = 0
    topic_leaders: int = 0
    topic_replicas: int = 0


def place(
    image: ClusterImage,
    count: int,
    replication: int,
    chance: Random,
    *,
    beside: Iterable[Partition] = (),
) -> list[tuple[NodeId, ...]]:
    """Return the replicas of `count` new partitions of one topic, preferred leaders first.

    Args:
        image: Its placeable nodes get the replicas; its partitions are their present load.
        count: How many partitions.
        replication: How many replicas each.
        chance: Decides between equals.
        beside: The partitions the topic has already.

    Raises:
        EligibleLeadersNotAvailableError: No node is alive; retriable.
        InvalidReplicationFactorError: No replicas, or more than there are live nodes.
    """
    loads = _loads(image, beside)
    if not loads:
        raise EligibleLeadersNotAvailableError("no node is alive to hold a partition")
    if not 1 <= replication <= len(loads):
        raise InvalidReplicationFactorError(
            f"replication factor {replication} is not possible: it takes at least one node, and"
            f" there are {len(loads)} alive",
            field="replication_factor",
            value=replication,
            limit=len(loads),
        )
    nodes = list(loads.values())
    return [_place_one(nodes, replication, chance) for _ in range(count)]


def placeable(image: ClusterImage) -> list[Node]:
    """Return the nodes that may get replicas: alive, and not being drained."""
    return [node for node in image.nodes.values() if not (node.fenced or node.draining)]


def _loads(image: ClusterImage, beside: Iterable[Partition]) -> dict[NodeId, _Load]:
    loads = {
        node.node_id: _Load(node.node_id, node.rack, node.stopping or node.storage_full)
        for node in placeable(image)
    }
    for partition in image.partitions.values():
        for node_id in partition.replicas:
            if node_id in loads:
                loads[node_id].replicas += 1
        # What counts is who should lead: present leaders move with every restart.
        if partition.replicas[0] in loads:
            loads[partition.replicas[0]].leaders += 1
    for partition in beside:
        for node_id in partition.replicas:
            if node_id in loads:
                loads[node_id].topic_replicas += 1
        if partition.replicas[0] in loads:
            loads[partition.replicas[0]].topic_leaders += 1
    return loads


def _place_one(nodes: list[_Load], replication: int, chance: Random) -> tuple[NodeId, ...]:
    leader = min(
        nodes,
        key=lambda load: (
            load.reluctant,
            load.topic_leaders,
            load.leaders,
            load.replicas,
            chance.random(),
        ),
    )
    leader.topic_leaders += 1
    leader.leaders += 1
    chosen = [leader]
    while len(chosen) < replication:
        racks = {load.rack for load in chosen}
        chosen.append(
            min(
                (load for load in nodes if load not in chosen),
                key=lambda load: (
                    load.reluctant,
                    load.rack in racks,
                    load.topic_replicas,
                    load.replicas,
                    chance.random(),
                ),
            )
        )
    for load in chosen:
        load.topic_replicas += 1
        load.replicas += 1
    return tuple(load.node_id for load in chosen)

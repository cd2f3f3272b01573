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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from odradek.controller.state.image import ClusterImage
from odradek.controller.state.reassignment import target_of
from odradek.controller.state.records import Node, Partition
from odradek.protocol.errors import EligibleLeadersNotAvailableError, InvalidReplicationFactorError
from odradek.protocol.types import NodeId

NodeIds = tuple[NodeId, ...]


@dataclass(slots=True, eq=False)
class Load:
    """What a node carries; `reluctant`: only when there are too few others."""

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
    loads = loads_of(image, beside)
    _check_replication(loads, replication)
    nodes = list(loads.values())
    return [_place_one(nodes, replication, chance) for _ in range(count)]


def _check_replication(loads: dict[NodeId, Load], replication: int) -> None:
    if not loads:
        raise EligibleLeadersNotAvailableError("no node is alive to hold a partition")
    if not 1 <= replication <= len(loads):
        raise InvalidReplicationFactorError(
            f"replication factor {replication} is not possible: use 1 to {len(loads)}, the number"
            " of nodes alive",
            field="replication_factor",
            value=replication,
            limit=len(loads),
        )


def resize(
    image: ClusterImage, partitions: Sequence[Partition], replication: int, chance: Random
) -> list[NodeIds]:
    """Return the replicas of a topic's partitions with another replication, each a target.

    What is added is placed as for a new topic. What goes is first who may lack records, then who is
    drained or dead, then whose rack holds another replica; the preferred leader last.

    Raises:
        EligibleLeadersNotAvailableError, InvalidReplicationFactorError: As in `place`.
    """
    loads = loads_of(image, partitions)
    _check_replication(loads, replication)
    return [_resize_one(image, loads, each, replication, chance) for each in partitions]


def _resize_one(
    image: ClusterImage,
    loads: dict[NodeId, Load],
    partition: Partition,
    replication: int,
    chance: Random,
) -> NodeIds:
    target = list(target_of(partition))
    while len(target) > replication:
        gone = max(
            target, key=lambda node_id: _dispensable(image, loads, partition, target, node_id)
        )
        target.remove(gone)
        if gone in loads:
            loads[gone].replicas -= 1
            loads[gone].topic_replicas -= 1
    while len(target) < replication:
        free = [load for load in loads.values() if load.node_id not in target]
        if not free:
            break  # a replica on a node that is drained or dead is in nobody's way
        present = [loads[node_id] for node_id in target if node_id in loads]
        added = _next_replica([*free, *present], present, chance)
        added.replicas += 1
        added.topic_replicas += 1
        target.append(added.node_id)
    return tuple(target)


def _dispensable(
    image: ClusterImage,
    loads: dict[NodeId, Load],
    partition: Partition,
    target: list[NodeId],
    node_id: NodeId,
) -> tuple[bool, bool, bool, bool, int, NodeId]:
    """Return how well a replica can be done without; the greatest first."""
    load = loads.get(node_id)
    rack = image.nodes[node_id].rack if node_id in image.nodes else ""
    racks = [image.nodes[each].rack for each in target if each in image.nodes]
    return (
        node_id not in partition.isr + partition.elr,
        load is None,
        racks.count(rack) > 1,
        node_id != target[0],
        0 if load is None else load.replicas,
        node_id,
    )


def placeable(image: ClusterImage) -> list[Node]:
    """Return the nodes that may get replicas: alive, and not being drained."""
    return [node for node in image.nodes.values() if not (node.fenced or node.draining)]


def loads_of(image: ClusterImage, beside: Iterable[Partition]) -> dict[NodeId, Load]:
    """Return what each placeable node carries, of all partitions and of those of one topic."""
    loads = {
        node.node_id: Load(node.node_id, node.rack, node.stopping or node.storage_full)
        for node in placeable(image)
    }
    for partition in image.partitions.values():
        for node_id in target_of(partition):
            if node_id in loads:
                loads[node_id].replicas += 1
        # What counts is who should lead: present leaders move with every restart.
        if partition.replicas[0] in loads:
            loads[partition.replicas[0]].leaders += 1
    for partition in beside:
        for node_id in target_of(partition):
            if node_id in loads:
                loads[node_id].topic_replicas += 1
        if partition.replicas[0] in loads:
            loads[partition.replicas[0]].topic_leaders += 1
    return loads


def _place_one(nodes: list[Load], replication: int, chance: Random) -> tuple[NodeId, ...]:
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
        chosen.append(_next_replica(nodes, chosen, chance))
    for load in chosen:
        load.topic_replicas += 1
        load.replicas += 1
    return tuple(load.node_id for load in chosen)


def _next_replica(nodes: list[Load], chosen: list[Load], chance: Random) -> Load:
    racks = {load.rack for load in chosen}
    return min(
        (load for load in nodes if load not in chosen),
        key=lambda load: (
            load.reluctant,
            load.rack in racks,
            load.topic_replicas,
            load.replicas,
            chance.random(),
        ),
    )

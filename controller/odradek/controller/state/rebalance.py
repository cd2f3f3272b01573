"""Which replicas should move next. Pure.

Problem: a node that joins has nothing, one that is drained must hold nothing, and an internal topic
made when there was one node should be replicated once there are three; all of it a few partitions
at a time, and without going back and forth. Idea: compute the next moves from the present targets
alone; each must make things strictly better.

Invariants: no move makes fewer replicas than wanted, nor fewer racks; every move of the last kinds
makes the counts of two nodes more equal, so that planning ends; what is on its way is left alone.

Source: Apache Kafka's ideas of reassignment limits (KIP-455) and Cruise Control's goals, greatly
reduced.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from odradek.controller.state.elections import change
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.placement import placeable
from odradek.controller.state.reassignment import begin, is_moving, target_of
from odradek.controller.state.records import Partition
from odradek.controller.state.topics import REPLICATION_DEFAULT
from odradek.protocol.names import INTERNAL_TOPICS
from odradek.protocol.types import NodeId, TopicId

NodeIds = tuple[NodeId, ...]

_REORDERED_MAX = 100


class Move(NamedTuple):
    """A partition and the replicas it should have, the preferred leader first."""

    partition: Partition
    target: NodeIds


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Begin the next moves.

    Attributes:
        ready: Nodes that have been up for a while: others are given nothing.
        moving_max: How many partitions one node may be receiving.
    """

    ready: NodeIds
    moving_max: int


def rebalance(draft: Draft, request: Rebalance) -> None:
    """Begin the moves that are next."""
    for partition, target in plan(draft.image, request):
        change(draft, partition, begin(partition, target))


def plan(image: ClusterImage, request: Rebalance) -> list[Move]:
    """Return the moves to begin now; none when everything is where it belongs, or on its way."""
    planner = _Planner(image, request)
    moves = planner.repair()
    if not moves:
        moves = planner.level()
    if not moves and not planner.anything_moves:
        moves = planner.level_leaders()
    return moves


def internal_replication(image: ClusterImage) -> int:
    """Return how many replicas internal topics should have: dead nodes count, drained ones not."""
    staying = sum(not node.draining for node in image.nodes.values())
    return max(1, min(REPLICATION_DEFAULT, staying))


class _Planner:
    """What the nodes carry, and how much more each may receive; kept up with the moves planned."""

    def __init__(self, image: ClusterImage, request: Rebalance) -> None:
        self._image = image
        self._racks = {node.node_id: node.rack for node in image.nodes.values()}
        self._draining = {node.node_id for node in image.nodes.values() if node.draining}
        self._holders = [node.node_id for node in placeable(image)]
        self._room = dict.fromkeys(
            (
                node.node_id
                for node in placeable(image)
                if node.node_id in request.ready and not (node.storage_full or node.stopping)
            ),
            request.moving_max,
        )
        self._held: Counter[NodeId] = Counter()
        self._held_of_topic: Counter[tuple[NodeId, TopicId]] = Counter()
        self._led: Counter[NodeId] = Counter()
        self._moves: dict[int, Move] = {}
        self.anything_moves = False
        for partition in image.partitions.values():
            self._count(partition, target_of(partition), 1)
            self.anything_moves |= is_moving(partition)
            for node_id in partition.adding:
                if node_id in self._room:
                    self._room[node_id] -= 1

    def repair(self) -> list[Move]:
        """Empty drained nodes, replicate internal topics, and use racks that hold no replica."""
        wanted = internal_replication(self._image)
        for partition in self._movable():
            internal = self._image.topics[self._topic(partition)].name in INTERNAL_TOPICS
            target = partition.replicas
            for node_id in partition.replicas:
                if node_id in self._draining:
                    can_shrink = internal and len(target) > wanted
                    target = self._replaced(partition, target, node_id, can_shrink=can_shrink)
            if internal and len(target) < wanted:
                target += self._best(partition, target)[:1]
            if target == partition.replicas:
                target = self._spread(partition)
            self._move(partition, target)
        return list(self._moves.values())

    def level(self) -> list[Move]:
        """Move replicas from nodes that hold more to nodes that hold less."""
        by_holder: dict[NodeId, list[Partition]] = defaultdict(list)
        for partition in self._movable():
            if len(partition.isr) == len(partition.replicas):
                for node_id in partition.replicas:
                    by_holder[node_id].append(partition)
        while any(
            self._level_pair(giver, taker, by_holder[giver]) for giver, taker in self._uneven()
        ):
            pass
        return list(self._moves.values())

    def level_leaders(self) -> list[Move]:
        """Let another replica be the preferred leader where one node has more of them."""
        by_leader: dict[NodeId, list[Partition]] = defaultdict(list)
        for partition in self._movable():
            by_leader[partition.replicas[0]].append(partition)
        while len(self._moves) < _REORDERED_MAX:
            found = next(self._reorderings(by_leader), None)
            if found is None:
                break
            self._move(*found)
        return list(self._moves.values())

    def _reorderings(self, by_leader: dict[NodeId, list[Partition]]) -> Iterator[Move]:
        for giver, taker in self._pairs(self._led, self._holders):
            for partition in by_leader[giver]:
                if taker in partition.isr and partition.uid not in self._moves:
                    others = tuple(each for each in partition.replicas if each != taker)
                    yield Move(partition, (taker, *others))

    def _uneven(self) -> list[tuple[NodeId, NodeId]]:
        takers = [node_id for node_id, room in self._room.items() if room > 0]
        return self._pairs(self._held, takers)

    def _pairs(
        self, load: Counter[NodeId], takers: Iterable[NodeId]
    ) -> list[tuple[NodeId, NodeId]]:
        """Return who could give to whom, the most uneven first."""
        uneven = [
            (giver, taker)
            for giver, taker in product(self._holders, takers)
            if load[giver] - load[taker] >= 2
        ]
        uneven.sort(key=lambda pair: (load[pair[1]] - load[pair[0]], pair))
        return uneven

    def _level_pair(self, giver: NodeId, taker: NodeId, held: list[Partition]) -> bool:
        fitting = [
            partition
            for partition in held
            if partition.uid not in self._moves
            and taker not in partition.replicas
            and self._keeps_racks(partition, giver, taker)
        ]
        if not fitting:
            return False
        leads_more = self._led[giver] > self._led[taker]
        best = min(
            fitting,
            key=lambda partition: (
                (partition.replicas[0] == giver) is not leads_more,
                self._held_of_topic[taker, self._topic(partition)]
                - self._held_of_topic[giver, self._topic(partition)],
                partition.uid,
            ),
        )
        self._move(best, _with(best.replicas, giver, taker))
        return True

    def _replaced(
        self, partition: Partition, target: NodeIds, node_id: NodeId, *, can_shrink: bool
    ) -> NodeIds:
        others = tuple(each for each in target if each != node_id)
        best = self._best(partition, target, instead_of=node_id)
        if best:
            return _with(target, node_id, best[0])
        return others if can_shrink and others else target

    def _spread(self, partition: Partition) -> NodeIds:
        """Return the target with a replica moved to a rack that has none, if two share one."""
        racks = Counter(self._racks.get(node_id, "") for node_id in partition.replicas)
        for node_id in reversed(partition.replicas):
            if racks[self._racks.get(node_id, "")] == 1:
                continue
            for taker in self._best(partition, partition.replicas):
                if self._racks[taker] not in racks:
                    return _with(partition.replicas, node_id, taker)
        return partition.replicas

    def _best(
        self, partition: Partition, target: NodeIds, *, instead_of: NodeId | None = None
    ) -> NodeIds:
        """Return the nodes with room that are not in the target, the best first."""
        racks = {self._racks.get(each, "") for each in target if each != instead_of}
        topic = self._topic(partition)
        free = [
            node_id for node_id, room in self._room.items() if room > 0 and node_id not in target
        ]
        free.sort(
            key=lambda node_id: (
                self._racks[node_id] in racks,
                self._held_of_topic[node_id, topic],
                self._held[node_id],
                node_id,
            )
        )
        return tuple(free)

    def _keeps_racks(self, partition: Partition, giver: NodeId, taker: NodeId) -> bool:
        others = {self._racks.get(each, "") for each in partition.replicas if each != giver}
        return self._racks[taker] not in others or self._racks.get(giver, "") in others

    def _movable(self) -> list[Partition]:
        return [
            partition
            for partition in self._image.partitions.values()
            if partition.is_led and not is_moving(partition)
        ]

    def _move(self, partition: Partition, target: NodeIds) -> None:
        if target == partition.replicas:
            return
        self._moves[partition.uid] = Move(partition, target)
        self._count(partition, partition.replicas, -1)
        self._count(partition, target, 1)
        for node_id in target:
            if node_id not in partition.replicas:
                self._room[node_id] -= 1

    def _count(self, partition: Partition, target: NodeIds, by: int) -> None:
        topic = self._topic(partition)
        for node_id in target:
            self._held[node_id] += by
            self._held_of_topic[node_id, topic] += by
        self._led[target[0]] += by

    def _topic(self, partition: Partition) -> TopicId:
        return self._image.places[partition.uid].topic_id


def _with(replicas: NodeIds, gone: NodeId, instead: NodeId) -> NodeIds:
    return tuple(instead if each == gone else each for each in replicas)

"""Which replicas should move next. Pure.

Problem: a node that joins has nothing, one that is drained must hold nothing, and an internal topic
made when there was one node should be replicated once there are three; all of it a few partitions
at a time, and without going back and forth. Idea: compute the next moves from the present targets
alone; each must make things strictly better.

Invariants: no move makes fewer replicas than wanted, nor fewer racks; every move of the last kinds
makes the counts of two nodes more equal, so that planning ends; what is on its way is left alone,
unless it goes to a node that is drained meanwhile, and not in sync yet.

Source: Apache Kafka's ideas of reassignment limits (KIP-455) and Cruise Control's goals, greatly
reduced.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, product
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
# The best of so many is good enough; planning holds up the controller's loop.
_COMPARED_MAX = 500


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
        # Counted in one go, and of a topic only when asked: there may be tens of thousands.
        partitions = image.partitions.values()
        self._held = Counter(chain.from_iterable(map(target_of, partitions)))
        self._led = Counter(partition.replicas[0] for partition in partitions)
        self._held_of_topic: dict[TopicId, Counter[NodeId]] = {}
        self._moves: dict[int, Move] = {}
        self.anything_moves = any(map(is_moving, partitions))
        for node_id in chain.from_iterable(partition.adding for partition in partitions):
            if node_id in self._room:
                self._room[node_id] -= 1

    def repair(self) -> list[Move]:
        """Empty drained nodes, replicate internal topics, and use racks that hold no replica."""
        wanted = internal_replication(self._image)
        rack_aware = len(set(self._racks.values())) > 1
        for topic in self._image.topics.values():
            internal = topic.name in INTERNAL_TOPICS
            if not (internal or rack_aware or self._draining):
                continue
            for partition in self._image.partitions_of(topic):
                if _is_movable(partition) or self._goes_nowhere(partition):
                    self._repair_one(partition, wanted if internal else None)
        return list(self._moves.values())

    def _goes_nowhere(self, partition: Partition) -> bool:
        """Tell whether it is on its way to a drained node, not in sync and perhaps dead."""
        drained = self._draining.intersection(partition.adding)
        return partition.is_led and bool(drained) and drained.isdisjoint(partition.isr)

    def _repair_one(self, partition: Partition, wanted: int | None) -> None:
        """Do what is due for one partition; `wanted` is how many replicas an internal one has."""
        present = target = target_of(partition)
        for node_id in present:
            if node_id in self._draining:
                can_shrink = wanted is not None and len(target) > wanted
                target = self._replaced(partition, target, node_id, can_shrink=can_shrink)
        if wanted is not None and len(target) < wanted:
            target += self._best(partition, target)[:1]
        if target == present and not is_moving(partition):
            target = self._spread(partition)
        self._move(partition, target)

    def level(self) -> list[Move]:
        """Move replicas from nodes that hold more to nodes that hold less."""
        if not self._uneven():
            return []
        by_holder: dict[NodeId, list[Partition]] = defaultdict(list)
        for partition in self._image.partitions.values():
            if _is_movable(partition) and len(partition.isr) == len(partition.replicas):
                for node_id in partition.replicas:
                    by_holder[node_id].append(partition)
        while any(
            self._level_pair(giver, taker, by_holder[giver]) for giver, taker in self._uneven()
        ):
            pass
        return list(self._moves.values())

    def level_leaders(self) -> list[Move]:
        """Let another replica be the preferred leader where one node has more of them."""
        if not self._pairs(self._led, self._holders):
            return []
        by_leader: dict[NodeId, list[Partition]] = defaultdict(list)
        for partition in filter(_is_movable, self._image.partitions.values()):
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
        fitting = list(
            islice(
                (
                    partition
                    for partition in held
                    if partition.uid not in self._moves
                    and taker not in partition.replicas
                    and self._keeps_racks(partition, giver, taker)
                ),
                _COMPARED_MAX,
            )
        )
        if not fitting:
            return False
        leads_more = self._led[giver] > self._led[taker]
        best = min(
            fitting,
            key=lambda partition: (
                (partition.replicas[0] == giver) is not leads_more,
                self._of_topic(partition)[taker] - self._of_topic(partition)[giver],
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
        if len(racks) == len(partition.replicas):
            return partition.replicas
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
        of_topic = self._of_topic(partition)
        free = [
            node_id for node_id, room in self._room.items() if room > 0 and node_id not in target
        ]
        free.sort(
            key=lambda node_id: (
                self._racks[node_id] in racks,
                of_topic[node_id],
                self._held[node_id],
                node_id,
            )
        )
        return tuple(free)

    def _keeps_racks(self, partition: Partition, giver: NodeId, taker: NodeId) -> bool:
        others = {self._racks.get(each, "") for each in partition.replicas if each != giver}
        return self._racks[taker] not in others or self._racks.get(giver, "") in others

    def _move(self, partition: Partition, target: NodeIds) -> None:
        before = target_of(partition)
        if target == before:
            return
        self._moves[partition.uid] = Move(partition, target)
        for held in (self._held, self._of_topic(partition)):
            held.subtract(before)
            held.update(target)
        self._led[partition.replicas[0]] -= 1
        self._led[target[0]] += 1
        for node_id in target:
            if node_id not in partition.replicas:
                self._room[node_id] -= 1

    def _of_topic(self, partition: Partition) -> Counter[NodeId]:
        """Return how many replicas each node holds of the partition's topic."""
        topic_id = self._image.places[partition.uid].topic_id
        held = self._held_of_topic.get(topic_id)
        if held is None:
            partitions = self._image.partitions_of(self._image.topics[topic_id])
            held = Counter(chain.from_iterable(map(target_of, partitions)))
            self._held_of_topic[topic_id] = held
        return held


def _is_movable(partition: Partition) -> bool:
    return partition.is_led and not is_moving(partition)


def _with(replicas: NodeIds, gone: NodeId, instead: NodeId) -> NodeIds:
    return tuple(instead if each == gone else each for each in replicas)

"""What people do to a cluster while everything else goes wrong, and what the balancer makes of it.

An operator moves replicas, takes that back or turns it round, drains nodes, gives a topic more or
fewer replicas, changes how many must be in sync, and stops nodes as SIGTERM does. There is a fourth
node, so that replicas can move; it holds none at first. The balancer takes the steps that the
active controller's takes, once a second. An operator has chances of its own: without one, a seed
goes as if there were none.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from odradek.controller.state.decide import (
    AlterReplication,
    AlterTopicConfigs,
    DrainNode,
    NodeRequest,
    PreferLeaders,
    Reassign,
)
from odradek.controller.state.elections import misled
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.reassignment import is_moving, target_of
from odradek.controller.state.rebalance import Rebalance, plan
from odradek.controller.state.records import Partition
from odradek.controller.state.replicas import NewReplication, Reassignment
from odradek.controller.state.topics import ConfigChange, TopicRef
from odradek.protocol.topic_config import MAJORITY
from odradek.protocol.types import NodeId, PartitionIndex, PartitionUid
from tests.simulation.cluster.controllers import SimulatedController
from tests.simulation.cluster.leaving import Leaving
from tests.simulation.cluster.moves import check_moves

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode
    from tests.simulation.cluster.world import World

_STEP_S = 1.0
_RECEIVING_MAX = 5
_LEADERS_PER_STEP_MAX = 100


class Operator:
    """Asks for something now and then, until told that all is to heal."""

    def __init__(self, world: "World", seed: int) -> None:
        self.world = world
        self.chance = Random(f"operator-{seed}")
        self.requests_per_s = self.chance.choice([0.5, 1.0, 2.0])
        # With one replica, or one in sync, a disk that loses its data may be all there is.
        self._minimum_first = min(world.min_insync, 2)
        self._hears_late: NodeId | None = None
        self._full: set[NodeId] = set()  # drained nodes that hold something still
        self._moving: set[PartitionUid] = set()
        self._requests: list[Callable[[], None]] = [
            self._reassign,
            self._reassign,
            self._reassign,
            self._replace_absent,
            self._replace_absent,
            self._there_and_back,
            self._there_and_back,
            self._cancel,
            self._drain,
            self._resize,
            self._change_minimum,
            self._stop,
        ]
        world.quorum.watch_lag_s = self._watch_lag_s
        world.quorum.on_decided.append(check_moves)
        world.quorum.on_committed.append(lambda image, _: self._on_image(image))

    def begin(self) -> None:
        """The cluster and its topics are there."""
        self._ask_later()
        self._balance()

    def missing(self, image: ClusterImage) -> str | None:
        """Tell what is on its way still, or should be."""
        draining = {node.node_id for node in image.nodes.values() if node.draining}
        others = len(image.nodes) - len(draining)
        for partition in image.partitions.values():
            # The others may be too few: it was drained before so many replicas were asked for.
            can_go = len(partition.replicas) <= others
            if is_moving(partition) or (can_go and draining.intersection(partition.replicas)):
                return f"replicas move, {draining} are drained: {partition}"
        for node in self.world.nodes.values():
            if node.metadata is None or node.metadata.version < image.version:
                return f"{node} has not heard of all that moved"
        return None

    def _on_image(self, image: ClusterImage) -> None:
        met, partitions = self.world.oracle.met, image.partitions.values()
        moving = {each.uid for each in partitions if is_moving(each)}
        met["reassignments"] += len(self._moving - moving)
        self._moving = moving
        draining = {node.node_id for node in image.nodes.values() if node.draining}
        full = {each for partition in partitions for each in partition.replicas} & draining
        met["drains"] += len(self._full & draining - full)
        self._full = full

    # Requests

    def _ask_later(self) -> None:
        self.world.scheduler.after(self.chance.expovariate(self.requests_per_s), self._ask)

    def _ask(self) -> None:
        if not self.world.nemesis.has_healed:
            self.chance.choice(self._requests)()
            self._ask_later()

    def _submit(self, request: NodeRequest) -> None:
        awake = self._awake()
        if awake:
            self.chance.choice(awake).link.submit(request, lambda *_: None)

    def _awake(self) -> "list[SimulatedNode]":
        return [each for each in self.world.nodes.values() if each.is_up and not each.is_paused]

    @property
    def _topic(self) -> TopicRef:
        return TopicRef(self.world.topic_name)

    def _some_partition(self) -> tuple[PartitionIndex, Partition]:
        index = self.chance.randrange(len(self.world.data_uids))
        return PartitionIndex(index), self.world.image.partitions[self.world.data_uids[index]]

    def _reassign(self) -> None:
        index, partition = self._some_partition()
        count = len(target_of(partition)) + self.chance.choice([-1, 0, 0, 0, 1])
        nodes = list(self.world.nodes)
        target = tuple(self.chance.sample(nodes, min(max(count, 1), len(nodes))))
        self._move(index, target)

    def _move(self, index: PartitionIndex, target: tuple[NodeId, ...] | None) -> None:
        if target is None or len(target) >= self._minimum_first:
            self._submit(Reassign((Reassignment(self._topic, index, target),)))

    def _cancel(self) -> None:
        index, _ = self._some_partition()
        self._move(index, None)

    def _replace_absent(self) -> None:
        """Some are not in sync: let others take their places."""
        index, partition = self._some_partition()
        others = [each for each in self.world.nodes if each not in partition.isr]
        count = min(len(target_of(partition)) - len(partition.isr), len(others))
        if partition.isr and count > 0:
            self._move(index, (*partition.isr, *self.chance.sample(others, count)))

    def _there_and_back(self) -> None:
        """A replica goes, and is back before its leader hears of either, or of what it has now."""
        index, partition = self._some_partition()
        others = [each for each in partition.isr if each != partition.leader]
        if not partition.is_led or not others:
            return
        gone = self.chance.choice(others)
        self._hears_late = partition.leader
        nodes = self.world.nodes
        self.world.nemesis._slow(nodes[gone], nodes[partition.leader], 1.0)
        self._move(index, tuple(each for each in partition.replicas if each != gone))
        self.world.scheduler.after(0.1, partial(self._move, index, partition.replicas))

    def _watch_lag_s(self, node_id: NodeId) -> float:
        if node_id == self._hears_late:
            self._hears_late = None
            return 0.5
        return self.chance.choice([0.02, 0.3]) if self.chance.random() < 0.02 else 0.0

    def _drain(self) -> None:
        """Drain one node, or use the one that is drained again."""
        drained = [node.node_id for node in self.world.image.nodes.values() if node.draining]
        node_id = self.chance.choice(drained or list(self.world.nodes))
        self._submit(DrainNode(node_id, wanted=not drained))

    def _resize(self) -> None:
        replication = self.chance.choice([2, 3, 3, 4])
        self._submit(AlterReplication((NewReplication(self._topic, replication),)))

    def _change_minimum(self) -> None:
        """Set any; or when nothing can be written for want of replicas in sync, what there are."""
        partitions = [self.world.image.partitions[uid] for uid in self.world.data_uids]
        present = [len(each.isr) for each in partitions if each.elr]
        minimum = max(min(present or [self.chance.randint(1, 3)]), self._minimum_first)
        values = [str(minimum)] if present else [str(minimum), MAJORITY]
        change = ConfigChange(self._topic, {"min.insync.replicas": self.chance.choice(values)})
        self._submit(AlterTopicConfigs((change,)))

    def _stop(self) -> None:
        staying = [node for node in self._awake() if node.leaving is None]
        if staying:
            node = self.chance.choice(staying)
            Leaving(node).begin()
            self._restart(node, self.chance.choice([1.0, 4.0]))

    def _restart(self, node: "SimulatedNode", delay_s: float) -> None:
        """Start a node some time after it has stopped, unless somebody else has."""

        def look() -> None:
            if node.is_up and node.leaving is not None:
                self.world.scheduler.after(delay_s, look)
            elif not node.is_up:
                node.start()

        self.world.scheduler.after(delay_s, look)

    # The balancer

    def _balance(self) -> None:
        for controller in self.world.controllers:
            if controller.is_up and not controller.is_paused and controller.epoch is not None:
                self._step(controller)
        self.world.scheduler.after(_STEP_S, self._balance)

    def _step(self, controller: SimulatedController) -> None:
        """What a step of the production balancer does."""
        ready = controller.heartbeats.settled(controller.now_s)
        request = Rebalance(ready, _RECEIVING_MAX)
        if plan(controller.image, request):
            controller.request(request, lambda *_: self._prefer_leaders(controller))
        else:
            self._prefer_leaders(controller)

    def _prefer_leaders(self, controller: SimulatedController) -> None:
        if controller.epoch is None:
            return
        ready = controller.heartbeats.settled(controller.now_s)
        count = len(misled(controller.image, ready))

        def moved(_: Any, version: int) -> None:
            self.world.oracle.met["preferred leader moves"] += count if version else 0

        if count:
            controller.request(PreferLeaders(ready, _LEADERS_PER_STEP_MAX), moved)

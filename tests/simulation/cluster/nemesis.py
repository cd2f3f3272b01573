"""What goes wrong, and when.

Any fault may come at any time, several at once, with one rule: data that was promised to be on disk
may be lost on one node only, and on another not before every replica is in sync again; and not at
all with `min.insync.replicas=1`, since the others may be down, and out of the ISR, when that one
disk goes. That is what replication promises to survive; everything else may come in any
combination: kills, pauses, power cuts of all nodes at once with `flush=commit`, cut links, a
deposed controller.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.cluster.disk import SimulatedDisk
from tests.simulation.cluster.events import Process

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode
    from tests.simulation.cluster.world import World


class Nemesis:
    """Strikes until told to heal."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.chance = world.chance
        self.faults_per_s = self.chance.choice([0.2, 0.5, 1.0, 2.0])
        self.is_hostile = self.chance.random() < 0.4
        self._faults: list[Callable[[], None]] = [
            self._kill_node,
            self._kill_node,
            self._pause,
            self._cut_power,
            self._cut_power_of_all,
            self._cut_power_of_all,
            self._kill_one_after_another,
            self._overtake_leader,
            self._cut_links,
            self._isolate,
            self._slow_down,
            self._kill_controller,
            self._lose_data,
            self._disturb_members,
        ]

    def pause_s(self) -> float:
        """Return the time until the next fault."""
        return self.chance.expovariate(self.faults_per_s)

    def strike(self) -> None:
        """Cause a fault."""
        self.world.network.is_hostile = self.is_hostile
        self.chance.choice(self._faults)()

    def heal(self) -> None:
        """End every fault."""
        world = self.world
        world.network.mend()
        for process in (*world.controllers, *world.nodes.values(), *world.members):
            process.paused_until_s = 0.0
            if not process.is_up:
                process.start()

    # Nodes

    def _some_node(self) -> "SimulatedNode":
        return self.chance.choice(list(self.world.nodes.values()))

    def _start_later(self, node: "SimulatedNode", delay_s: float | None = None) -> None:
        def start() -> None:
            if not node.is_up:
                node.start()

        if delay_s is None:
            delay_s = self.chance.choice([0.05, 0.5, 2.0, 10.0])
        self.world.scheduler.after(delay_s, start)

    def _kill_node(self) -> None:
        self._kill(self._some_node())

    def _kill(self, node: "SimulatedNode", down_s: float | None = None) -> None:
        if node.is_up:
            node.die()
            self._start_later(node, down_s)

    def _kill_one_after_another(self) -> None:
        """Members of the ISR fail one by one, and the last is the only one with everything."""
        nodes = self.chance.sample(list(self.world.nodes.values()), 3)
        for index, node in enumerate(nodes):
            self._end_later(node, index * self.chance.choice([0.01, 0.4, 1.0]))

    def _overtake_leader(self) -> None:
        """Whatever a leader sends comes late, while its followers come and go, until it dies."""
        world = self.world
        active = world.quorum.leader
        partitions = [] if active is None else list(active.image.partitions.values())
        led = [each for each in partitions if each.is_led]
        if not led:
            return
        partition = self.chance.choice(led)
        leader = world.nodes[partition.leader]
        others = [world.nodes[each] for each in partition.replicas if each != leader.node_id]
        delay_s = self.chance.choice([0.3, 0.6, 1.0])
        for server in (*world.controllers, *self.chance.sample(others, self.chance.choice([1, 2]))):
            self._slow(leader, server, delay_s)
        at_s = 0.0
        for node in self.chance.choices(others, k=self.chance.choice([1, 2, 3])):
            at_s += self.chance.random() * 2
            self._end_later(node, at_s, self.chance.choice([0.05, 0.05, 0.5]))
        self._end_later(leader, at_s + self.chance.random() * 2)

    def _end_later(
        self, node: "SimulatedNode", delay_s: float, down_s: float | None = None
    ) -> None:
        def end() -> None:
            if not node.is_up:
                return
            node.die()
            self._start_later(node, down_s)
            if self.world.is_flushed and self.chance.random() < 0.5:
                node.disk.on_power_cut(self.chance)

        self.world.scheduler.after(delay_s, end)

    def _cut_power(self) -> None:
        node = self._some_node()
        if not self.world.is_flushed and not self._may_lose_data():
            return
        self._end_by_power_cut(node)

    def _cut_power_of_all(self) -> None:
        if self.world.is_flushed:
            for node in self.world.nodes.values():
                self._end_by_power_cut(node)

    def _end_by_power_cut(self, node: "SimulatedNode") -> None:
        if node.is_up:
            node.die()
            self._start_later(node)
        node.disk.on_power_cut(self.chance)

    def _lose_data(self) -> None:
        """One disk loses what was synced, or is replaced by an empty one."""
        if not self._may_lose_data():
            return
        node = self._some_node()
        if node.is_up:
            node.die()
        if self.chance.random() < 0.5:
            node.disk.on_rot(self.chance)
        else:
            node.disk = SimulatedDisk(self.world.next_directory())
            node.disk.is_replacement = True
        self._start_later(node)
        if self.chance.random() < 0.5:
            # The others lose nothing, but are away when it returns.
            for other in self.world.nodes.values():
                if other is not node and other.is_up:
                    self.world.scheduler.after(
                        self.chance.random(), partial(self._kill, other, 10.0)
                    )

    def _may_lose_data(self) -> bool:
        active = self.world.quorum.leader
        if active is None or self.world.min_insync == 1:
            return False
        for node in self.world.nodes.values():
            known = active.image.nodes.get(node.node_id)
            if (
                not node.is_up
                or node.disk.has_lost
                or known is None
                or known.incarnation != node.session.incarnation
            ):
                return False
        return all(
            set(partition.isr) == set(partition.replicas)
            for partition in active.image.partitions.values()
        )

    # Everybody

    def _pause(self) -> None:
        world = self.world
        process: Process = self.chance.choice([*world.nodes.values(), *world.controllers])
        if process.is_up:
            process.paused_until_s = process.now_s + self.chance.choice([0.1, 1.0, 5.0, 9.0])

    def _kill_controller(self) -> None:
        controller = self.chance.choice(self.world.controllers)
        if controller.is_up:
            controller.die()

            def start() -> None:
                if not controller.is_up:
                    controller.start()

            self.world.scheduler.after(self.chance.choice([0.1, 1.0, 5.0]), start)

    def _servers(self) -> list[Process]:
        return [*self.world.nodes.values(), *self.world.controllers]

    def _cut_links(self) -> None:
        one, other = self.chance.sample(self._servers(), 2)
        cuts = {(one, other)} if self.chance.random() < 0.5 else {(one, other), (other, one)}
        self._cut_for_a_while(cuts)

    def _isolate(self) -> None:
        one = self.chance.choice(self._servers())
        others = [other for other in self._servers() if other is not one]
        self._cut_for_a_while({pair for other in others for pair in ((one, other), (other, one))})

    def _cut_for_a_while(self, cuts: set[tuple[Process, Process]]) -> None:
        network = self.world.network
        network.cuts |= cuts

        def mend() -> None:
            network.cuts -= cuts

        self.world.scheduler.after(self.chance.choice([0.3, 1.5, 4.0, 9.0]), mend)

    def _slow_down(self) -> None:
        one, other = self.chance.sample(self._servers(), 2)
        self._slow(one, other, self.chance.choice([0.02, 0.3, 1.0]))

    def _slow(self, one: Process, other: Process, delay_s: float) -> None:
        network = self.world.network
        network.slow[one, other] = delay_s

        def end() -> None:
            network.slow.pop((one, other), None)

        self.world.scheduler.after(self.chance.choice([0.5, 2.0, 5.0]), end)

    def _disturb_members(self) -> None:
        member = self.chance.choice(self.world.members)
        if not member.is_up:
            member.start()
        elif self.chance.random() < 0.5:
            member.paused_until_s = member.now_s + self.chance.choice([1.0, 8.0])
        else:
            member.die()
            self.world.scheduler.after(3.0, lambda: None if member.is_up else member.start())

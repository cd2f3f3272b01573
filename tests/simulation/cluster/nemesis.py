"""What goes wrong, and when.

Any fault may come at any time, several at once, with one rule: data that was promised to be on disk
may be lost when another node that may lead has all of it, on one node at a time: the controllers
hear of one loss before the next; and not at all with `min.insync.replicas=1`, since the others may
be down, and out of the ISR, when that one disk goes. That is what replication promises to survive;
everything else may come in any combination: kills, pauses, power cuts of all nodes at once with
`flush=commit`, cut links, a deposed controller. A topic with `flush=os` may be changed at any time.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from odradek.controller.state.decide import AlterTopicConfigs
from odradek.controller.state.topics import ConfigChange, TopicRef
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
        self.has_healed = False
        self._faults: list[Callable[[], None]] = [
            self._kill_node,
            self._kill_node,
            self._pause,
            self._cut_power,
            self._cut_power_of_all,
            self._cut_power_of_all,
            self._kill_one_after_another,
            self._overtake_leader,
            self._leave_behind,
            self._cut_links,
            self._isolate,
            self._slow_down,
            self._kill_controller,
            self._lose_data,
            self._lose_data,
            self._disturb_members,
        ]
        if not world.is_flushed:
            self._faults += [self._change_flush] * 3
        if world.is_restless:
            self._faults += [self._disturb_members] * 2 * len(self._faults)
            self.faults_per_s *= 2

    def pause_s(self) -> float:
        """Return the time until the next fault."""
        return self.chance.expovariate(self.faults_per_s)

    def strike(self) -> None:
        """Cause a fault."""
        self.world.network.is_hostile = self.is_hostile
        self.chance.choice(self._faults)()

    def heal(self) -> None:
        """End every fault."""
        self.has_healed = True
        world = self.world
        world.network.mend()
        for process in (*world.controllers, *world.nodes.values(), *world.members):
            process.resume()
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
        found = self._leader_and_followers()
        if found is None:
            return
        leader, others = found
        delay_s = self.chance.choice([0.3, 0.6, 1.0])
        for server in (*world.controllers, *self.chance.sample(others, self.chance.choice([1, 2]))):
            self._slow(leader, server, delay_s)
        at_s = 0.0
        for node in self.chance.choices(others, k=self.chance.choice([1, 2, 3])):
            at_s += self.chance.random() * 2
            self._end_later(node, at_s, self.chance.choice([0.05, 0.05, 0.5]))
        self._end_later(leader, at_s + self.chance.random() * 2)

    def _leave_behind(self) -> None:
        """A follower joins and is cut off, or loses its data, before all have heard of it.

        Whatever still names it as a member comes late then, and must not count any more.
        """
        found = self._leader_and_followers()
        if found is None:
            return
        leader, followers = found
        follower = self.chance.choice(followers)
        if self.chance.random() < 0.5:
            for controller in self.world.controllers:
                self._slow(leader, controller, 1.0)
        self._kill(follower, 0.05)

        def strike() -> None:
            if self.chance.random() < 0.5:
                self._take_data(follower)
                return
            away_s = self.chance.choice([2.5, 4.0])
            self._cut(_between(follower, *self.world.controllers), away_s)
            self._cut(_between(follower, leader), away_s + self.chance.choice([1.0, 3.0, 6.0]))

        self.world.scheduler.after(0.2 + self.chance.random() * 2, strike)

    def _leader_and_followers(self) -> "tuple[SimulatedNode, list[SimulatedNode]] | None":
        """Choose a partition."""
        nodes = self.world.nodes
        partitions = self.world.image.partitions.values()
        led = [each for each in partitions if each.is_led and len(each.replicas) > 2]
        if not led:
            return None
        partition = self.chance.choice(led)
        followers = [nodes[each] for each in partition.replicas if each != partition.leader]
        return nodes[partition.leader], followers

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
        if not self.world.is_flushed and not self._may_lose_data(node):
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

    def _change_flush(self) -> None:
        """A topic is to be flushed before it is acknowledged, and a machine goes down meanwhile."""
        self._set_flush("os")
        self.world.scheduler.after(self.chance.choice([0.5, 2.0]), partial(self._flush, 50))

    def _flush(self, tries: int) -> None:
        """Change the setting when that matters: while a node has something to sync."""
        nodes = self.world.nodes.values()
        unsynced = [each for each in nodes if each.is_up and each.disk.appended > each.disk.durable]
        victims = [each for each in unsynced if self._may_lose_data(each)]
        if victims:
            self._set_flush("commit")
            self._end_by_power_cut(self.chance.choice(victims))
        elif tries:
            self.world.scheduler.after(0.01, partial(self._flush, tries - 1))

    def _set_flush(self, flush: str) -> None:
        node = self._some_node()
        if node.is_up:
            change = ConfigChange(TopicRef(self.world.topic_name), {"flush": flush})
            node.link.submit(AlterTopicConfigs((change,)), lambda *_: None)

    def _lose_data(self) -> None:
        self._take_data(self._some_node())

    def _take_data(self, node: "SimulatedNode") -> None:
        """One disk loses what was synced, or is replaced by an empty one."""
        if not self._may_lose_data(node):
            return
        is_back_first = self.chance.random() < 0.5
        if is_back_first:  # before the others hear that it had gone
            for other in self.world.nodes.values():
                if other is not node:
                    self._slow(node, other, 1.0)
        if node.is_up:
            node.die()
        if self.chance.random() < 0.5:
            node.disk.on_rot(self.chance)
        else:
            node.disk = self.world.new_disk()
            node.disk.is_replacement = True
        self._start_later(node, 0.05 if is_back_first else None)
        if not is_back_first and self.chance.random() < 0.5:
            # The others lose nothing, but are away when it returns.
            for other in self.world.nodes.values():
                if other is not node and other.is_up:
                    self.world.scheduler.after(
                        self.chance.random(), partial(self._kill, other, 10.0)
                    )

    def _may_lose_data(self, victim: "SimulatedNode") -> bool:
        """Whether somebody else who may lead has everything, and the last loss is known."""
        others = [node for node in self.world.nodes.values() if node is not victim]
        pages_too = not self.world.is_flushed
        return (
            self.world.min_insync > 1
            and all(node.disk.is_intact(pages_too=pages_too) for node in others)
            and all(
                any(node.node_id in (*each.isr, *each.elr) for node in others)
                for each in self.world.image.partitions.values()
            )
        )

    # Everybody

    def _pause(self) -> None:
        world = self.world
        process: Process = self.chance.choice([*world.nodes.values(), *world.controllers])
        if process.is_up:
            process.pause(self.chance.choice([0.1, 1.0, 5.0, 9.0]))

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
        cuts = {(one, other)} if self.chance.random() < 0.5 else _between(one, other)
        self._cut(cuts, self._while_s())

    def _isolate(self) -> None:
        one = self.chance.choice([*self.world.nodes.values(), *self._servers()])
        others = [other for other in self._servers() if other is not one]
        self._cut(_between(one, *others), self._while_s())

    def _while_s(self) -> float:
        return self.chance.choice([0.3, 1.5, 4.0, 9.0])

    def _cut(self, cuts: set[tuple[Process, Process]], duration_s: float) -> None:
        network = self.world.network
        network.cuts |= cuts

        def mend() -> None:
            network.cuts -= cuts

        self.world.scheduler.after(duration_s, mend)

    def _slow_down(self) -> None:
        one, other = self.chance.sample([*self._servers(), *self.world.members], 2)
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
        elif self.world.is_restless and self.chance.random() < 0.3:
            member.leave()
        elif self.chance.random() < 0.5:
            member.pause(self.chance.choice([1.0, 8.0]))
        else:
            member.die()
            self.world.scheduler.after(3.0, lambda: None if member.is_up else member.start())


def _between(one: Process, *others: Process) -> set[tuple[Process, Process]]:
    """Return the links of one with others, in both directions."""
    return {pair for other in others for pair in ((one, other), (other, one))}

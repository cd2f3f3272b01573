"""What goes wrong in the simulated cluster, and when."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.raft.cluster import Cluster, Member


class Nemesis:
    """Causes faults by chance, and some by plan: one scenario at a time."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.plans: list[tuple[float, Callable[[Member], None]]] = []

    def follow_plans(self) -> None:
        """Do what an earlier fault has planned for now."""
        for due in [plan for plan in self.plans if plan[0] <= self.cluster.now_s]:
            self.plans.remove(due)
            due[1](next(iter(self.cluster.members.values())))

    def cause_fault(self) -> None:
        faults = [
            self.kill,
            self.lose_power,
            self.set_fuse,
            self.set_fuse,
            self.pause,
            self.isolate,
            self.split,
            self.cut_one_way,
            self.hold_up,
            self.depose,
            self.mend,
            self.stop_all,
            self.lose_disk,
        ]
        victims = list(self.cluster.members.values())
        leaders = [one for one in victims if one.core is not None and one.core._leads]
        if leaders and self.cluster.chance.random() < 0.4:
            victims = leaders
        self.cluster.chance.choice(faults)(self.cluster.chance.choice(victims))

    def kill(self, member: "Member") -> None:
        if member.core is not None:
            self.cluster.stop(member, power_loss=False)

    def lose_power(self, member: "Member") -> None:
        if member.core is not None:
            self.cluster.stop(member, power_loss=True)

    def set_fuse(self, member: "Member") -> None:
        member.disk.fuse = self.cluster.chance.randint(1, 40)

    def pause(self, member: "Member") -> None:
        member.paused_until_s = self.cluster.now_s + self.cluster.chance.uniform(0.1, 3.0)

    def isolate(self, member: "Member") -> None:
        pairs = [pair for pair in self.cluster.network.links if member.id in pair]
        self.cluster.network.cut(pairs, self.cluster.now_s)

    def split(self, member: "Member") -> None:
        """Cut a member and perhaps some others from the rest."""
        near = {member.id} | {
            one for one in self.cluster.members if self.cluster.chance.random() < 0.3
        }
        pairs = [
            pair for pair in self.cluster.network.links if (pair[0] in near) != (pair[1] in near)
        ]
        self.cluster.network.cut(pairs, self.cluster.now_s)

    def hold_up(self, member: "Member") -> None:
        """Delay what others send to a member, without loss, for seconds."""
        pairs = [pair for pair in self.cluster.network.links if pair[1] == member.id]
        for pair in pairs:
            if self.cluster.chance.random() < 0.5:
                self.cluster.network.hold(
                    pair, self.cluster.now_s + self.cluster.chance.uniform(0.5, 5.0)
                )

    def depose(self, member: "Member") -> None:
        """Let a leader lead a minority, then none, then perhaps all, while old answers travel.

        Its clients stay with it, so that the leader in between commits little.
        """
        others = [one for one in self.cluster.members if one != member.id]
        if len(others) < 2 or member.core is None or not member.core._leads:
            return
        friend = self.cluster.chance.choice(others)
        near = {member.id, friend}
        pairs = [
            pair for pair in self.cluster.network.links if (pair[0] in near) != (pair[1] in near)
        ]
        self.cluster.network.hold((friend, member.id), self.cluster.now_s + 6.0)
        self.cluster.network.cut(pairs, self.cluster.now_s)
        self.plans.append((self.cluster.now_s + self.cluster.chance.uniform(0.8, 2.5), self.mend))
        self.plans.append(
            (self.cluster.now_s + self.cluster.chance.uniform(2.5, 3.5), self.stop_leader)
        )
        self.plans.append((self.cluster.now_s + 6.0, self.free_clients))
        self.cluster.loyal_to = member.id

    def free_clients(self, _member: "Member") -> None:
        self.cluster.loyal_to = None

    def stop_leader(self, _member: "Member") -> None:
        for one in self.cluster.members.values():
            if one.core is not None and one.core._leads:
                self.cluster.stop(one, power_loss=False)

    def cut_one_way(self, member: "Member") -> None:
        if pairs := [pair for pair in self.cluster.network.links if pair[0] == member.id]:
            self.cluster.network.cut([self.cluster.chance.choice(pairs)], self.cluster.now_s)

    def mend(self, _member: "Member") -> None:
        self.cluster.network.mend()

    def stop_all(self, _member: "Member") -> None:
        power_loss = self.cluster.chance.random() < 0.5
        for one in self.cluster.members.values():
            if one.core is not None:
                self.cluster.stop(one, power_loss=power_loss)

    def lose_disk(self, member: "Member") -> None:
        if self.cluster.can_lose():
            self.cluster.replace_disk(member)

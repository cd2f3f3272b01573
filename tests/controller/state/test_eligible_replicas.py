"""That whoever may be elected has everything committed: the state, with logs under it.

The real decisions run above a model of replication: nodes that see the cluster late, append, follow
and commit by what they see, die at any step and lose what they had not synced. The model is no
proof of the node's own code, which the simulation runs; it shows that the rules of ISR and ELR
suffice, whatever the order in which nodes hear of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from odradek.controller.state.decide import AlterTopicConfigs, PreferLeaders, Reassign
from odradek.controller.state.elections import min_insync
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.nodes import UnfenceNode
from odradek.controller.state.partitions import IsrMember, IsrProposal, propose_isr
from odradek.controller.state.records import Partition
from odradek.controller.state.replicas import Reassignment
from odradek.controller.state.topics import ConfigChange, TopicRef
from odradek.protocol.types import NodeId, PartitionIndex
from tests.controller.state.cluster import Cluster, registration

REPLICAS = (1, 2, 3)
EVERYBODY = (1, 2, 3, 4)
NODES = st.sampled_from((*REPLICAS, *EVERYBODY))


@dataclass
class Replica:
    """A node's replica, and the cluster as that node has heard of it."""

    view: ClusterImage
    log: list[int] = field(default_factory=list)
    durable: int = 0
    up: bool = True
    # As a leader: what followers acknowledged under this epoch, and the ISR proposed.
    epoch: int = -1
    epoch_start: int = 0
    acked: dict[int, int] = field(default_factory=dict)
    proposed: tuple[int, ...] = ()

    @property
    def partition(self) -> Partition:
        (partition,) = self.view.partitions.values()
        return partition

    @property
    def maximal_isr(self) -> set[int]:
        return {*self.partition.isr, *self.proposed}


class ReplicatedPartition(RuleBasedStateMachine):
    """One partition on three nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(nodes=4)
        self.uid = self.cluster.assigned("t", *REPLICAS).uid
        self.replicas = {each: Replica(self.cluster.image.copy()) for each in EVERYBODY}
        self.committed: list[int] = []
        self.losses = 0
        self.lost: set[int] = set()
        self.records = 0
        self.processes = 1
        self.reigns: dict[int, int] = {}
        self.written: dict[tuple[int, int], int] = {}
        for each in EVERYBODY:
            self._hear(each)

    @property
    def partition(self) -> Partition:
        return self.cluster.image.partitions[self.uid]

    def _leads(self, node_id: int) -> Replica | None:
        """Return the replica of a node that believes it leads."""
        replica = self.replicas[node_id]
        return replica if replica.up and replica.partition.leader == node_id else None

    def _hear(self, node_id: int) -> None:
        replica = self.replicas[node_id]
        before, known = replica.partition.partition_epoch, replica.view.nodes
        replica.view = self.cluster.image.copy()
        for each, node in replica.view.nodes.items():
            if node.incarnation != known[each].incarnation:
                replica.acked.pop(int(each), None)
        if replica.partition.partition_epoch != before:
            replica.proposed = ()
        if node_id not in replica.partition.replicas:
            replica.log, replica.durable = [], 0
        if replica.partition.leader_epoch != replica.epoch:
            replica.epoch = replica.partition.leader_epoch
            replica.epoch_start = len(replica.log)
            replica.acked = {}

    # What nodes do

    @rule(node_id=NODES)
    def hear(self, node_id: int) -> None:
        if self.replicas[node_id].up:
            self._hear(node_id)

    @rule(node_id=NODES, count=st.integers(1, 3))
    def append(self, node_id: int, count: int) -> None:
        leader = self._leads(node_id)
        if leader is not None:
            for _ in range(count):
                self.records += 1
                place = (leader.epoch, len(leader.log))
                assert self.written.setdefault(place, self.records) == self.records
                leader.log.append(self.records)

    @rule(node_id=NODES)
    def sync(self, node_id: int) -> None:
        replica = self.replicas[node_id]
        replica.durable = len(replica.log)

    @rule(node_id=NODES, count=st.integers(0, 5))
    def follow(self, node_id: int, count: int) -> None:
        follower = self.replicas[node_id]
        leader_id = int(follower.partition.leader)
        leader = self._leads(leader_id) if leader_id in EVERYBODY else None
        if leader is None or not follower.up or leader_id == node_id:
            return
        if leader.epoch != follower.epoch or node_id not in follower.partition.replicas:
            return
        agreed = common_prefix(leader.log, follower.log)
        follower.log[agreed:] = leader.log[agreed : agreed + count]
        follower.durable = leader.acked[node_id] = len(follower.log)

    @rule(node_id=NODES)
    def commit(self, node_id: int) -> None:
        leader = self._leads(node_id)
        if leader is None:
            return
        (topic,) = leader.view.topics.values()
        if len(leader.partition.isr) < min_insync(topic.config, leader.partition):
            return
        acked = leader.acked | {node_id: leader.durable}
        end = min(acked.get(member, 0) for member in leader.maximal_isr)
        # Who has not heard of a loss may still acknowledge what was lost: it is no less lost.
        kept = list(takewhile(lambda record: record not in self.lost, leader.log[:end]))
        if len(kept) > len(self.committed):
            self.committed = kept

    @rule(node_id=NODES, member=NODES)
    def propose(self, node_id: int, member: int) -> None:
        """Add a member that has caught up, or drop one."""
        leader = self._leads(node_id)
        if leader is None or leader.proposed or member == node_id:
            return
        if member not in leader.partition.replicas:
            return
        isr = set(leader.partition.isr)
        if member in isr:
            isr.discard(NodeId(member))
        elif leader.acked.get(member, -1) >= max(len(self.committed), leader.epoch_start):
            isr.add(NodeId(member))
        else:
            return
        leader.proposed = tuple(sorted(isr))
        self._propose(node_id, leader)

    def _propose(self, node_id: int, leader: Replica) -> None:
        place = leader.view.places[self.uid]
        nodes = leader.view.nodes
        proposal = IsrProposal(
            place.topic_id,
            place.index,
            leader.partition.leader_epoch,
            leader.partition.partition_epoch,
            tuple(
                IsrMember(NodeId(each), nodes[NodeId(each)].incarnation) for each in leader.proposed
            ),
        )
        draft = Draft(self.cluster.image)
        (outcome,) = propose_isr(draft, NodeId(node_id), [proposal])
        self.cluster.commit(draft)
        if outcome.error is not None:
            leader.proposed = ()

    @rule(followers=st.sets(NODES), join=st.booleans())
    def work(self, followers: set[int], join: bool) -> None:  # noqa: FBT001
        """What goes on most of the time: produce, follow, commit, and let who kept up join."""
        for each in followers:
            self.hear(each)
        leader_id = next((each for each in EVERYBODY if self._leads(each)), None)
        if leader_id is None:
            return
        self.append(leader_id, 1)
        self.sync(leader_id)
        for each in followers:
            self.follow(each, 5)
            if join and each not in self.replicas[leader_id].partition.isr:
                self.propose(leader_id, each)
        self.commit(leader_id)

    @rule(absent=NODES, join=st.booleans())
    def work_without_one(self, absent: int, join: bool) -> None:  # noqa: FBT001
        """All but one keep up: what matters most is who then dies."""
        self.work(set(EVERYBODY) - {absent}, join)

    @rule(node_id=NODES, kept=st.none() | st.integers(0, 3), heard=st.booleans())
    def restart(self, node_id: int, kept: int | None, heard: bool) -> None:  # noqa: FBT001
        """Die, perhaps be fenced first, come back and be unfenced."""
        self.die(node_id)
        if heard:
            self.fence(node_id)
        self.come_back(node_id, kept)
        self.unfence(node_id)

    @rule(node_id=NODES)
    def die(self, node_id: int) -> None:
        replica = self.replicas[node_id]
        replica.up = False
        del replica.log[replica.durable :]

    @rule(node_id=NODES, kept=st.none() | st.integers(0, 3))
    def come_back(self, node_id: int, kept: int | None) -> None:
        """Register again, perhaps with less than was synced."""
        replica = self.replicas[node_id]
        if replica.up:
            return
        if kept is not None:
            del replica.log[kept:]
            replica.durable = len(replica.log)
        self.processes = self.processes % 250 + 1
        self.cluster.admit(
            registration(node_id, process=self.processes, lost_data=kept is not None)
        )
        self._heed_losses()  # the last eligible replica may have been this one
        replica.up, replica.epoch, replica.acked, replica.proposed = True, -1, {}, ()
        self._hear(node_id)

    # What the controller decides

    @rule(node_id=NODES)
    def fence(self, node_id: int) -> None:
        """Also a node that lives: it may be cut off."""
        self.cluster.fence(node_id)

    @rule(node_id=NODES)
    def unfence(self, node_id: int) -> None:
        replica = self.replicas[node_id]
        if not replica.up:
            return
        incarnation = replica.view.nodes[NodeId(node_id)].incarnation
        self.cluster.decide(UnfenceNode(NodeId(node_id), incarnation, replica.view.version))
        self._heed_losses()

    def _heed_losses(self) -> None:
        """What the controller reports as lost need not be there any more."""
        if len(self.cluster.losses) > self.losses:
            self.losses = len(self.cluster.losses)
            log = self.replicas[int(self.partition.leader)].log
            kept = common_prefix(log, self.committed)
            self.lost.update(self.committed[kept:])
            del self.committed[kept:]

    @rule(node_id=NODES)
    def retire(self, node_id: int) -> None:
        self.cluster.retire(node_id)

    @rule(replicas=st.none() | st.permutations(EVERYBODY), count=st.integers(1, 3))
    def reassign(self, replicas: list[int] | None, count: int) -> None:
        target = None if replicas is None else tuple(map(NodeId, replicas[:count]))
        move = Reassignment(TopicRef("t"), PartitionIndex(0), target)
        self.cluster.submit(Reassign((move,)))

    @rule()
    def prefer(self) -> None:
        self.cluster.decide(PreferLeaders(tuple(map(NodeId, EVERYBODY)), 9))

    @rule(minimum=st.sampled_from(["1", "2", "3", "majority"]))
    def configure(self, minimum: str) -> None:
        change = ConfigChange(TopicRef("t"), {"min.insync.replicas": minimum})
        self.cluster.submit(AlterTopicConfigs((change,)))

    # What must hold

    @invariant()
    def whoever_may_be_elected_has_everything_committed(self) -> None:
        for member in (*self.partition.isr, *self.partition.elr):
            log = self.replicas[int(member)].log
            assert log[: len(self.committed)] == self.committed, member

    @invariant()
    def nobody_is_reported_lost_while_another_is_eligible(self) -> None:
        partition = self.partition
        assert not set(partition.isr) & set(partition.elr)
        if partition.last_known_elr:
            assert not partition.is_led
        assert {loss.leader_epoch for loss in self.cluster.losses} <= set(self.reigns) | {
            partition.leader_epoch
        }

    @invariant()
    def one_leader_an_epoch(self) -> None:
        partition = self.partition
        known = self.reigns.setdefault(partition.leader_epoch, partition.leader)
        assert known == partition.leader


def test_a_leader_that_has_not_heard_acknowledges_what_two_disks_have_lost() -> None:
    state = ReplicatedPartition()
    state.work_without_one(absent=1, join=False)
    state.fence(node_id=1)
    for follower in (2, 3):
        state.restart(heard=False, kept=0, node_id=follower)
    state.commit(node_id=1)
    state.whoever_may_be_elected_has_everything_committed()


def common_prefix(one: Iterable[int], other: Iterable[int]) -> int:
    """Return how many records two logs have in common; no record is appended twice."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


TestReplicatedPartition = ReplicatedPartition.TestCase
TestReplicatedPartition.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)

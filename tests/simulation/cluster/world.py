"""One seed: a cluster, its clients, some forty seconds of faults, and the time to recover.

Three controllers, three nodes, a topic and the offsets topic, each replicated three times;
producers, readers, and a group of consumers. Faults stop in the end: then everything acknowledged
must be there, every replica in sync, every record read, every partition of the group owned.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from odradek.controller.state.decide import Reply
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.records import Command, Partition, Record, Topic, TopicCreated
from odradek.node.coordination.model import TopicIdPartition
from odradek.node.coordination.records import OffsetCommitted
from odradek.protocol.errors import BrokerError
from odradek.protocol.hashing import coordinator_partition
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import (
    FIRST_OFFSET,
    ControllerId,
    GroupId,
    NodeId,
    Offset,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)
from tests.simulation.cluster.administration import Operator
from tests.simulation.cluster.clients import SimulatedProducer, SimulatedReader
from tests.simulation.cluster.clocks import Clocks
from tests.simulation.cluster.controllers import SimulatedController
from tests.simulation.cluster.disk import SimulatedDisk
from tests.simulation.cluster.electorate import Electorate
from tests.simulation.cluster.events import Process, Scheduler
from tests.simulation.cluster.members import SimulatedMember
from tests.simulation.cluster.nemesis import Nemesis
from tests.simulation.cluster.network import Network
from tests.simulation.cluster.node import SimulatedNode
from tests.simulation.cluster.oracle import EVENTS, Oracle, check
from tests.simulation.cluster.quorum import Quorum
from tests.simulation.registry import Report

__all__ = ["EVENTS", "run_seed"]

START_S = 3.0
FAULTY_S = 45.0
HEALING_S = 30.0
END_S = 62.0
_TOPIC_ID = TopicId(b"data".ljust(16, b"."))
_OFFSETS_ID = TopicId(b"offsets".ljust(16, b"."))
_OFFSETS_PARTITIONS = 2
_GROUPS = ("readers",)


class World:
    """Everything there is."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.is_restless = seed % 5 == 1
        """Most of what goes wrong goes wrong with members of the group, and more of it."""
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler, self.chance)
        self.topic_name = TopicName("data")
        self.offset_records: dict[int, OffsetCommitted] = {}
        self.oracle = Oracle(self.offset_records)
        self.clocks = Clocks(self.scheduler, Random(f"clocks-{seed}"), self.oracle.met)
        self.image = ClusterImage()
        self.commits: dict[tuple[GroupId, TopicIdPartition], Offset] = {}
        self._processed: dict[tuple[GroupId, TopicIdPartition], Offset] = {}
        self._contents = 0
        self._directories = self.chance.randrange(5)
        self._coordinators: dict[PartitionUid, NodeId] = {}
        self._leaders: dict[PartitionUid, tuple[NodeId, tuple[NodeId, ...]]] = {}
        self.is_flushed = self.chance.random() < 0.8
        self.batches_per_s = self.chance.choice([1.0, 4.0, 10.0])
        self.lag_time_max_s = self.chance.choice([1.0, 3.0, 30.0])
        self.min_insync = self.chance.choice([1, 1, 2, 2, 3])
        count = self.chance.choice([1, 2, 3])
        self.data_uids = [PartitionUid(1 + index) for index in range(count)]
        first = 1 + count
        self.offsets_uids = [PartitionUid(first + index) for index in range(_OFFSETS_PARTITIONS)]
        self.quorum = Quorum(self.scheduler, self.network, self.chance)
        self.quorum.on_committed.append(self._on_image)
        self.controllers = [
            SimulatedController(ControllerId(number), self.quorum) for number in range(3)
        ]
        self.quorum.controllers = self.controllers
        self.operator = Operator(self, seed) if seed % 5 == 3 else None
        numbers = (1, 2, 3) if self.operator is None else (1, 2, 3, 4)
        self.nodes = {NodeId(number): SimulatedNode(NodeId(number), self) for number in numbers}
        self.producers = [SimulatedProducer(f"producer-{n}", self, 1000 + n) for n in (1, 2)]
        self.readers = [SimulatedReader("reader", self)]
        self.members = [
            SimulatedMember(f"member-{n}", self, self.chance.choice(_GROUPS), instance_id)
            for n, instance_id in ((1, ""), (2, ""), (3, "third" if self.is_restless else ""))
        ]
        pages = () if self.is_flushed else self.data_uids
        self.electorate = Electorate(self.nodes, self.oracle, frozenset(pages))
        self.nemesis = Nemesis(self)

    # Names

    def next_content(self) -> int:
        """Number another batch."""
        self._contents += 1
        return self._contents

    def new_disk(self) -> SimulatedDisk:
        """Return an empty disk."""
        self._directories += 1
        return SimulatedDisk(self._directories, Random(f"disk-{self.seed}-{self._directories}"))

    def topic_of(self, uid: PartitionUid) -> TopicId:
        """Return the topic of a partition."""
        return _TOPIC_ID if uid in self.data_uids else _OFFSETS_ID

    def coordinator_uid(self, group: str) -> PartitionUid:
        """Return the partition of the offsets topic that holds a group."""
        return self.offsets_uids[coordinator_partition(GroupId(group), _OFFSETS_PARTITIONS)]

    def committed_end(self, partition: TopicIdPartition) -> Offset:
        """Return the end of what is committed of a data partition."""
        batches = self.oracle.committed_batches(self.data_uids[partition.partition])
        return batches[-1].next_offset if batches else FIRST_OFFSET

    # Messages that are not streams

    def call(
        self,
        caller: Process,
        callee: Process,
        call: Callable[[Callable[[Reply | BrokerError | None, int], None]], None],
        answered: Callable[[Any, int], None],
    ) -> None:
        """Ask once; the question or the answer may be lost."""
        network = self.network

        def answer(reply: Any, version: int) -> None:
            if not network.is_cut(callee, caller) and callee.is_up:
                delay_s = network.delay_s(callee, caller)
                caller.after(delay_s, lambda: answered(reply, version))

        if network.is_cut(caller, callee) or not callee.is_up:
            return
        life = caller.life

        def arrive() -> None:
            if callee.is_up:
                call(lambda reply, version: answer(reply, version) if caller.life == life else None)

        callee.after(network.delay_s(caller, callee), arrive)
        if network.is_hostile and self.chance.random() < 0.2:
            callee.after(self.chance.choice([1.0, 10.0]) * self.chance.random(), arrive)

    # What is watched

    def on_coordinating(self, uid: PartitionUid, node_id: NodeId) -> None:
        """A node begins to coordinate."""
        if self._coordinators.get(uid, node_id) != node_id:
            self.oracle.met["coordinator moves"] += 1
        self._coordinators[uid] = node_id

    def on_offset_committed(
        self, group: GroupId, partition: TopicIdPartition, offset: Offset
    ) -> None:
        """A member was told that its position is committed."""
        key = (group, partition)
        self.commits[key] = max(offset, self.commits.get(key, FIRST_OFFSET))

    def on_processed(
        self, group: GroupId, partition: TopicIdPartition, start: Offset, end: Offset
    ) -> None:
        """A member has processed some records."""
        key = (group, partition)
        known = self._processed.get(key, FIRST_OFFSET)
        check(start <= known, "a group skips no record", "{}: {} after {}", key, start, known)
        self._processed[key] = max(end, known)

    def on_claimed(self, claimer: SimulatedMember, partition: TopicIdPartition) -> None:
        """A member begins to read a partition: nobody whom the controllers count does as well."""
        for other in self.members:
            check(
                other is claimer
                or other.group != claimer.group
                or partition not in other.owned
                or not (self._counts(claimer) and self._counts(other)),
                "one reader per partition",
                "{} is read by {} and {}",
                partition,
                claimer,
                other,
            )

    def _counts(self, member: SimulatedMember) -> bool:
        group = self.image.groups.get(member.group)
        return member.is_up and group is not None and member.member_id in group.members

    def _on_image(self, image: ClusterImage, records: tuple[Record, ...]) -> None:
        self.image = image
        self.oracle.on_image(image)
        self.electorate.on_image(image, records)
        for partition in image.partitions.values():
            leader, isr = self._leaders.get(partition.uid, (partition.leader, partition.isr))
            if partition.is_led and partition.leader != leader:
                self.oracle.met["elections"] += 1
                if partition.leader not in isr:
                    self.oracle.met["elr elections"] += 1
            if partition.is_led:
                leader = partition.leader
            self._leaders[partition.uid] = leader, partition.isr

    # The run

    def run(self) -> None:
        """Run the seed.

        Raises:
            InvariantBrokenError: It found a bug.
        """
        self._begin()
        end_s = START_S + FAULTY_S
        while self.scheduler.now_s < end_s:
            self.nemesis.strike()
            self.scheduler.run_until(self.scheduler.now_s + self.nemesis.pause_s())
        self.nemesis.heal()
        self.clocks.heal()
        for producer in self.producers:
            producer.is_producing = False
        end_s = self.scheduler.now_s + HEALING_S
        while self.scheduler.now_s < end_s and (
            self.scheduler.now_s < END_S or self._missing() is not None
        ):
            self.scheduler.run_until(self.scheduler.now_s + 0.5)
        missing = self._missing()
        check(missing is None, "a healed cluster recovers", "{}", missing)
        self._check_end()

    def _begin(self) -> None:
        for controller in self.controllers:
            controller.start()
        for node in self.nodes.values():
            node.start()
        while self.scheduler.now_s < START_S:
            self.quorum.check_leader()
            self.scheduler.run_until(self.scheduler.now_s + 0.1)
        self._create_topics()
        self.scheduler.after(0.1, self._check_leader)
        for client in (*self.producers, *self.readers, *self.members):
            client.start()
        self.clocks.start()
        if self.operator is not None:
            self.operator.begin()

    def _check_leader(self) -> None:
        self.quorum.check_leader()
        self.scheduler.after(0.1, self._check_leader)

    def _create_topics(self) -> None:
        active = self.quorum.leader
        assert active is not None
        assert active.epoch is not None
        assert all(not node.fenced for node in active.image.nodes.values())
        config = [("min.insync.replicas", str(self.min_insync)), *self.clocks.topic_config]
        flush = [] if self.is_flushed else [("flush", "os")]
        draft = Draft(active.image)
        for topic_id, name, uids, settings in (
            (_TOPIC_ID, self.topic_name, self.data_uids, (*flush, *config)),
            (_OFFSETS_ID, TopicName(CONSUMER_OFFSETS), self.offsets_uids, ()),
        ):
            nodes = list(self.nodes)[:3]
            partitions = []
            for index, uid in enumerate(uids):
                replicas = tuple(nodes[(index + shift) % len(nodes)] for shift in range(3))
                partitions.append(Partition(uid, replicas[0], replicas, replicas))
            topic = Topic(
                topic_id=topic_id, name=name, config=tuple(settings), partitions=tuple(uids)
            )
            draft.record(TopicCreated(topic, tuple(partitions)))
        command = Command(active.epoch, active.image.command_sequence + 1, draft.take_records())
        self.quorum.propose(active, active.epoch, command, lambda _: active._publish())
        self.scheduler.run_until(self.scheduler.now_s + 1.0)

    def _missing(self) -> str | None:
        """Tell what has not recovered yet."""
        active = self.quorum.leader
        if active is None or active.epoch is None:
            return "nobody is the active controller"
        for partition in active.image.partitions.values():
            if not partition.is_led or set(partition.isr) != set(partition.replicas):
                return f"not everybody is in sync: {partition}"
        if self.operator is not None and (moves := self.operator.missing(active.image)):
            return moves
        waiting = [producer for producer in self.producers if producer.unacknowledged_count]
        if waiting:
            return f"{waiting} still wait"
        for reader in self.readers:
            for uid, position in reader.positions.items():
                batches = self.oracle.committed_batches(uid)
                if batches and position < batches[-1].next_offset:
                    return f"{reader} is at {position} of {uid}, not {batches[-1].next_offset}"
        return self._missing_member(active.image)

    def _missing_member(self, image: ClusterImage) -> str | None:
        """Tell whose membership differs from what the controllers want; or what nobody reads."""
        for group_id in _GROUPS:
            group = image.groups.get(GroupId(group_id))
            living = {each.member_id: each for each in self.members if each.group == group_id}
            if group is None or group.members.keys() != living.keys():
                return f"the members of {group_id} are {living}: {group}"
            unread = {TopicIdPartition(_TOPIC_ID, index) for index in self._data_indexes}
            for member_id, member in group.members.items():
                reader = living[member_id]
                owned: frozenset[object] = reader.owned
                if member.revoking or not owned == member.target == set(member.assigned):
                    return f"{reader} owns {reader.owned}: {member}"
                if any(end < self.committed_end(each) for each, end in reader.committed.items()):
                    return f"{reader} has committed {reader.committed}"
                unread -= reader.owned
            if unread:
                return f"nobody of {group_id} reads {unread}: {group}"
        return None

    @property
    def _data_indexes(self) -> list[PartitionIndex]:
        return [PartitionIndex(index) for index in range(len(self.data_uids))]

    def _check_end(self) -> None:
        """Everything is the same everywhere."""
        for uid in (*self.data_uids, *self.offsets_uids):
            committed = [batch.crc for batch in self.oracle.committed_batches(uid)]
            replicas = self.image.partitions[uid].replicas
            for node in self.nodes.values():
                is_replica = node.node_id in replicas
                theirs = [batch.crc for batch in node.disk.log(uid).batches]
                check(
                    theirs[: len(committed)] == (committed if is_replica else []),
                    "every replica has everything committed, and nobody else anything",
                    "{} has {} of {} batches of {}",
                    node,
                    len(theirs),
                    len(committed),
                    uid,
                )


def run_seed(seed: int) -> Report:
    """Run one seed.

    Raises:
        InvariantBrokenError: It found a bug; the message names the invariant.
    """
    world = World(seed)
    world.run()
    oracle = world.oracle
    met = ", ".join(f"{count} {event}" for event, count in sorted(oracle.met.items()))
    line = f"{oracle.acknowledged} acknowledged, {world.scheduler.now_s:.0f} s, {met}"
    return Report(line, oracle.met)

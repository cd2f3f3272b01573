"""Whatever is asked, in whatever order: what must hold of the state, on every replica alike."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from odradek.controller.state.decide import (
    AllocateProducerIds,
    AlterReplication,
    AlterTopicConfigs,
    ChangeGroups,
    CreateInternalTopic,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    DrainNode,
    FinishElections,
    PreferLeaders,
    Reassign,
    RemoveNode,
)
from odradek.controller.state.groups import (
    GroupChanges,
    MemberJoined,
    MemberLeft,
    MemberProfile,
)
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.rebalance import Rebalance
from odradek.controller.state.records import (
    Command,
    NodeFenced,
    NodeRemoved,
    NodeUnfenced,
    PartitionChanged,
    PartitionsAdded,
    ProducerIdsGranted,
    Record,
    RequestAnswered,
    TopicConfigChanged,
    TopicDeleted,
)
from odradek.controller.state.replicas import NewReplication, Reassignment
from odradek.controller.state.topics import ConfigChange, NewPartitions, NewTopic, TopicRef
from odradek.controller.wire.records import decode_snapshot, encode_snapshot
from odradek.protocol.errors import BrokerError
from odradek.protocol.hashing import coordinator_partition
from odradek.protocol.types import (
    GroupId,
    Incarnation,
    MemberId,
    NodeId,
    PartitionIndex,
    PartitionUid,
    ProducerId,
    TopicId,
    TopicName,
)
from tests.controller.state.cluster import Cluster, registration, replay

NODES = st.integers(1, 4)
NAMES = st.sampled_from(["a", "b", "c", "bad name", "__consumer_offsets"])
COUNTS = st.integers(0, 5)
GROUPS = st.sampled_from(["g", "h"])
MEMBERS = st.sampled_from(["m1", "m2", "m3"])


class ClusterMachine(RuleBasedStateMachine):
    """Nodes come and go, people create and delete; after each step everything must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster()
        self.processes = 0
        self.snapshot = encode_snapshot(self.cluster.image)
        self.snapshot_index = len(self.cluster.log)
        self.reigns: dict[tuple[int, int], int] = {}
        self.homes: dict[int, Any] = {}
        self.incarnations: dict[int, int] = {}
        self.before = self.cluster.image.copy()

    @rule(
        node_id=NODES,
        directory=st.integers(1, 5),
        replaces=st.booleans(),
        loss=st.sampled_from([{}, {"lost_data": True}, {"unclean_boot": True}]),
    )
    def register(self, node_id: int, directory: int, replaces: bool, loss: Any) -> None:  # noqa: FBT001
        self.processes = self.processes % 250 + 1
        asked = registration(
            node_id, process=self.processes, directory=directory, replace=replaces, **loss
        )
        self._attempt(asked)

    @initialize(count=st.integers(0, 4))
    def start(self, count: int) -> None:
        for node_id in range(1, count + 1):
            self.register(node_id, node_id, False, {})
            self.unfence(node_id)

    @rule(node_id=NODES)
    def retire(self, node_id: int) -> None:
        if NodeId(node_id) in self.cluster.image.nodes:
            self.cluster.retire(node_id)

    @rule(node_id=NODES, full=st.booleans())
    def fill(self, node_id: int, full: bool) -> None:  # noqa: FBT001
        if NodeId(node_id) in self.cluster.image.nodes:
            self.cluster.fill(node_id, full=full)

    @rule(nodes=st.sets(NODES), count=st.integers(1, 5))
    def prefer(self, nodes: set[int], count: int) -> None:
        self.cluster.decide(PreferLeaders(tuple(map(NodeId, sorted(nodes))), count))

    @rule(node_id=NODES, name=NAMES, replicas=st.none() | st.lists(NODES, max_size=3))
    def reassign(self, node_id: int, name: str, replicas: list[int] | None) -> None:
        wanted = None if replicas is None else tuple(map(NodeId, replicas))
        move = Reassignment(TopicRef(name), PartitionIndex(0), wanted)
        self._submit(node_id, Reassign((move,)))

    @rule(node_id=NODES, name=NAMES, replication=st.integers(0, 4))
    def resize(self, node_id: int, name: str, replication: int) -> None:
        new = NewReplication(TopicRef(name), replication)
        self._submit(node_id, AlterReplication((new,)))

    @rule(node_id=NODES, other=NODES, wanted=st.booleans())
    def drain(self, node_id: int, other: int, wanted: bool) -> None:  # noqa: FBT001
        self._submit(node_id, DrainNode(NodeId(other), wanted))

    @rule(node_id=NODES, other=NODES)
    def remove(self, node_id: int, other: int) -> None:
        self._submit(node_id, RemoveNode(NodeId(other)))

    @rule(nodes=st.sets(NODES), count=st.integers(1, 5))
    def rebalance(self, nodes: set[int], count: int) -> None:
        self.cluster.decide(Rebalance(tuple(map(NodeId, sorted(nodes))), count))

    @rule(data=st.data())
    def propose(self, data: st.DataObject) -> None:
        led = [each for each in self.cluster.image.partitions.values() if each.is_led]
        if led:
            partition = data.draw(st.sampled_from(led))
            isr = data.draw(st.sets(st.sampled_from(partition.replicas)))
            self.cluster.propose(partition, *sorted(isr | {partition.leader}))

    @rule(node_id=NODES)
    def fence(self, node_id: int) -> None:
        if NodeId(node_id) in self.cluster.image.nodes:
            self.cluster.fence(node_id)

    @rule(node_id=NODES)
    def unfence(self, node_id: int) -> None:
        if NodeId(node_id) in self.cluster.image.nodes:
            self.cluster.unfence(node_id)

    @rule(node_id=NODES, name=NAMES, count=COUNTS, replication=st.none() | st.integers(0, 4))
    def create(self, node_id: int, name: str, count: int, replication: int | None) -> None:
        topic = NewTopic(name, count, replication)
        self._submit(node_id, CreateTopics((topic, NewTopic(name, 1))))

    @rule(node_id=NODES)
    def create_internal(self, node_id: int) -> None:
        self._submit(node_id, CreateInternalTopic("__consumer_offsets"))

    @rule(node_id=NODES, name=NAMES)
    def delete(self, node_id: int, name: str) -> None:
        self._submit(node_id, DeleteTopics((TopicRef(name),)))

    @rule(node_id=NODES, name=NAMES, count=COUNTS)
    def grow(self, node_id: int, name: str, count: int) -> None:
        self._submit(node_id, CreatePartitions((NewPartitions(TopicRef(name), count),)))

    @rule(
        node_id=NODES,
        name=NAMES,
        key=st.sampled_from(["flush", "min.insync.replicas"]),
        value=st.sampled_from(["os", "commit", "?", "1", "2", "majority"]),
    )
    def configure(self, node_id: int, name: str, key: str, value: str) -> None:
        change = ConfigChange(TopicRef(name), {key: value})
        self._submit(node_id, AlterTopicConfigs((change,)))

    @rule(node_id=NODES)
    def allocate(self, node_id: int) -> None:
        self._submit(node_id, AllocateProducerIds())

    @rule(group=GROUPS, member=MEMBERS, name=NAMES)
    def join(self, group: str, member: str, name: str) -> None:
        profile = MemberProfile(member_id=MemberId(member), topics=frozenset({TopicName(name)}))
        self._change_group(MemberJoined(GroupId(group), profile))

    @rule(group=GROUPS, member=MEMBERS)
    def leave(self, group: str, member: str) -> None:
        self._change_group(MemberLeft(group=GroupId(group), member_id=MemberId(member)))

    def _change_group(self, change: MemberJoined | MemberLeft) -> None:
        """Let whoever coordinates the group tell."""
        if self.cluster.image.topic_named("__consumer_offsets") is None:
            return
        index = coordinator_partition(change.group, 16)
        partition = self.cluster.partitions("__consumer_offsets")[index]
        changes = GroupChanges(index, (change,))
        self._submit(partition.leader, ChangeGroups(partition.leader_epoch, changes))

    @rule()
    def change_controllers(self) -> None:
        self.cluster.begin_epoch()
        written = len(self.cluster.log)
        self.cluster.decide(FinishElections())
        assert len(self.cluster.log) == written, "every decision is whole"

    @rule()
    def take_snapshot(self) -> None:
        self.snapshot = encode_snapshot(self.cluster.image)
        self.snapshot_index = len(self.cluster.log)

    def _attempt(self, request: Any) -> None:
        written = len(self.cluster.log)
        try:
            self.cluster.decide(request)
        except BrokerError:
            assert len(self.cluster.log) == written

    def _submit(self, node_id: int, request: Any) -> None:
        if NodeId(node_id) in self.cluster.image.nodes:
            with suppress(BrokerError):
                self.cluster.submit(request, node_id=node_id)

    @invariant()
    def leaders_are_alive_and_in_sync(self) -> None:
        image = self.cluster.image
        for partition in image.partitions.values():
            assert set(partition.isr) <= set(partition.replicas)
            if partition.is_led:
                assert image.is_alive(partition.leader)
                assert partition.leader in partition.isr
            else:
                assert not partition.isr
                assert not any(image.is_alive(member) for member in partition.elr)
            assert all(map(image.is_alive, partition.isr))
            assert not set(partition.isr) & set(partition.elr)
            assert len(set(partition.replicas)) == len(partition.replicas)
            assert {*partition.isr, *partition.elr} <= set(partition.replicas)
            assert {*partition.adding, *partition.removing} <= set(partition.replicas)
            assert not set(partition.adding) & set(partition.removing)
            assert set(partition.replicas) <= image.nodes.keys()

    @invariant()
    def one_leader_for_each_epoch_of_a_uid(self) -> None:
        for partition in self.cluster.image.partitions.values():
            reign = (partition.uid, partition.leader_epoch)
            assert self.reigns.setdefault(reign, partition.leader) == partition.leader

    @invariant()
    def uids_and_incarnations_are_never_reused(self) -> None:
        image = self.cluster.image
        for uid, place in image.places.items():
            assert self.homes.setdefault(uid, place) == place
        for node in image.nodes.values():
            assert self.incarnations.setdefault(node.incarnation, node.node_id) == node.node_id

    @invariant()
    def groups_read_what_exists(self) -> None:
        image = self.cluster.image
        for group in image.groups.values():
            for topic_id, index in group.owners():
                topic = image.topics.get(topic_id)
                assert topic is not None
                assert index < len(topic.partitions)

    @invariant()
    def epochs_grow_with_every_change(self) -> None:
        image, before = self.cluster.image, self.before
        for uid, partition in image.partitions.items():
            old = before.partitions.get(uid)
            if old is None or old == partition:
                continue
            assert partition.partition_epoch > old.partition_epoch
            assert partition.leader_epoch - old.leader_epoch >= (partition.leader != old.leader)
        for node_id, node in image.nodes.items():
            known = before.nodes.get(node_id)
            assert known is None or node.incarnation >= known.incarnation
        assert image.version >= before.version
        self.before = image.copy()

    @invariant()
    def names_places_and_topics_agree(self) -> None:
        image = self.cluster.image
        assert image.topic_ids == {topic.name: key for key, topic in image.topics.items()}
        places = {
            uid: (key, index)
            for key, topic in image.topics.items()
            for index, uid in enumerate(topic.partitions)
        }
        assert places == {uid: (place.topic_id, place.index) for uid, place in image.places.items()}
        assert image.partitions.keys() == places.keys()

    def teardown(self) -> None:
        """Every replica has the same state: from the log alone, and from a snapshot on."""
        live, log = self.cluster.image, self.cluster.log
        assert replay(log) == live
        restored = decode_snapshot(self.snapshot)
        assert replay(log, image=restored, first_index=self.snapshot_index + 1) == live
        assert decode_snapshot(encode_snapshot(live)) == live


TestCluster = ClusterMachine.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def arbitrary_records() -> st.SearchStrategy[Record]:
    """Return records that fit no state in particular."""
    node_ids = NODES.map(NodeId)
    topic_ids = st.sampled_from([TopicId(b"?" * 16), TopicId(b"")])
    return st.one_of(
        st.builds(NodeFenced, node_ids),
        st.builds(NodeUnfenced, node_ids),
        st.builds(NodeRemoved, node_ids),
        st.builds(TopicDeleted, topic_ids),
        st.builds(TopicConfigChanged, topic_ids, st.just((("flush", "os"),))),
        st.builds(PartitionsAdded, topic_ids, st.just(())),
        st.builds(ProducerIdsGranted, st.integers(0, 5000).map(ProducerId)),
        st.builds(
            RequestAnswered,
            node_ids,
            st.integers(0, 5).map(Incarnation),
            st.integers(0, 300),
            st.just(b""),
        ),
    )


@given(st.lists(arbitrary_records(), max_size=20))
def test_applying_is_total(records: list[Record]) -> None:
    cluster = Cluster(nodes=2)
    (partition,) = cluster.topic("t")
    stray = partition._replace(uid=PartitionUid(partition.uid + 100))
    for record in [*records, PartitionChanged(stray)]:
        cluster.image.apply(record)
    assert stray.uid not in cluster.image.partitions
    assert decode_snapshot(encode_snapshot(cluster.image)) == cluster.image


def test_only_the_next_command_of_the_epoch_in_force_is_accepted() -> None:
    image = ClusterImage()
    granted = (ProducerIdsGranted(ProducerId(10)),)
    assert not image.apply_command(1, Command(0, 0, granted))
    assert image.apply_command(2, Command(3, 0, ()))
    assert image.apply_command(3, Command(3, 1, ()))
    for epoch, sequence in ((3, 1), (3, 3), (3, 0), (2, 0), (2, 2), (4, 1)):
        assert not image.apply_command(4, Command(epoch, sequence, granted))
    assert image.next_producer_id == 0
    assert image.apply_command(5, Command(4, 0, granted))
    assert (image.controller_epoch, image.command_sequence) == (4, 0)
    assert image.next_producer_id == 10

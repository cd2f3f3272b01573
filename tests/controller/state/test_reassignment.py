"""Moving replicas: both sets until the new one is in sync, and a way back."""

import pytest

from odradek.controller.state.decide import (
    AlterReplication,
    AlterTopicConfigs,
    Answer,
    CreateInternalTopic,
    DrainNode,
    Reassign,
    RemoveNode,
)
from odradek.controller.state.records import Partition
from odradek.controller.state.replicas import NewReplication, Reassignment
from odradek.controller.state.topics import ConfigChange, TopicRef
from odradek.protocol.errors import (
    BrokerError,
    InvalidConfigError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    NodeIdNotRegisteredError,
    UnknownTopicOrPartitionError,
    error_from_proto,
)
from odradek.protocol.types import NO_NODE, NodeId, PartitionIndex
from odradek.v1 import controller_pb2
from tests.controller.state.cluster import Cluster, registration


def answer(reply: object) -> controller_pb2.SubmitResponse:
    """Return what a node is answered."""
    assert isinstance(reply, Answer)
    return controller_pb2.SubmitResponse.FromString(reply.encoded)


class Moving(Cluster):
    """Five nodes and one partition on some of them."""

    def __init__(self, *replicas: int, **config: str) -> None:
        super().__init__(nodes=5)
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.uid = self.assigned("t", *replicas, config=settings).uid

    @property
    def partition(self) -> Partition:
        return self.image.partitions[self.uid]

    def move(self, *replicas: int, index: int = 0, topic: str = "t") -> BrokerError | None:
        """Ask for other replicas; without any, for those before."""
        wanted = tuple(map(NodeId, replicas)) or None
        moved = Reassignment(TopicRef(topic), PartitionIndex(index), wanted)
        response = answer(self.submit(Reassign((moved,))))
        (result,) = response.alter_partition_reassignments.partitions
        return error_from_proto(result.error) if result.HasField("error") else None

    def resize(self, replication: int, topic: str = "t") -> BrokerError | None:
        """Ask for another replication."""
        new = NewReplication(TopicRef(topic), replication)
        response = answer(self.submit(AlterReplication((new,))))
        (result,) = response.alter_replication.topics
        return error_from_proto(result.error) if result.HasField("error") else None

    def join(self, *nodes: int) -> None:
        """Let the leader find that nodes have caught up."""
        assert self.propose(self.partition, *self.partition.isr, *nodes).error is None

    def expect(
        self,
        replicas: tuple[int, ...],
        isr: tuple[int, ...],
        *,
        adding: tuple[int, ...] = (),
        removing: tuple[int, ...] = (),
    ) -> None:
        """Assert where the partition is."""
        now = self.partition
        assert (now.replicas, now.isr) == (replicas, isr)
        assert (now.adding, now.removing) == (adding, removing)


def test_a_move_ends_when_all_new_replicas_are_in_sync() -> None:
    cluster = Moving(1, 2, 3)
    assert cluster.move(4, 5, 3) is None
    cluster.expect((4, 5, 3, 1, 2), (1, 2, 3), adding=(4, 5), removing=(1, 2))
    before = cluster.partition
    assert before.leader == 1
    cluster.join(4)
    cluster.expect((4, 5, 3, 1, 2), (1, 2, 3, 4), adding=(4, 5), removing=(1, 2))
    cluster.join(5)
    cluster.expect((4, 5, 3), (3, 4, 5))
    after = cluster.partition
    assert after.leader == 4
    assert after.leader_epoch == before.leader_epoch + 1


def test_the_leader_stays_when_its_replica_does() -> None:
    cluster = Moving(1, 2)
    cluster.move(3, 1)
    cluster.join(3)
    cluster.expect((3, 1), (1, 3))
    assert cluster.partition.leader == 1


def test_the_replica_that_ends_a_move_by_joining_leads_without_a_loss() -> None:
    cluster = Moving(1, 2, 3)
    cluster.move(4)
    cluster.join(4)
    cluster.expect((4,), (4,))
    assert cluster.partition.leader == 4
    assert not cluster.losses


def test_an_order_alone_is_changed_at_once() -> None:
    cluster = Moving(1, 2, 3)
    cluster.move(3, 1, 2)
    cluster.expect((3, 1, 2), (1, 2, 3))
    assert cluster.partition.leader == 1


def test_a_move_can_be_taken_back_and_turned_round() -> None:
    cluster = Moving(1, 2)
    cluster.move(3, 4)
    cluster.join(3)
    cluster.move()
    cluster.expect((1, 2), (1, 2))
    cluster.move(3, 4)
    cluster.move(5, 2)
    cluster.expect((5, 2, 1), (1, 2), adding=(5,), removing=(1,))
    for _ in range(2):
        cluster.move()
        cluster.expect((2, 1), (1, 2))


def test_a_move_does_not_change_the_minimum_isr_before_its_end() -> None:
    cluster = Moving(1, 2, 3)
    cluster.move(1, 4, 5)  # five replicas meanwhile, whose majority would be three
    cluster.propose(cluster.partition, 1, 2)
    assert not cluster.partition.elr
    cluster.propose(cluster.partition, 1)
    assert cluster.partition.elr == (2,)


def test_replicas_out_of_sync_are_not_what_remains() -> None:
    cluster = Moving(1, 2, 3)
    cluster.fence(3)
    cluster.move(3)
    cluster.expect((3, 1, 2), (1, 2), removing=(1, 2))
    cluster.start(3, process=2)
    cluster.join(3)
    cluster.expect((3,), (3,))
    assert cluster.partition.leader == 3


@pytest.mark.parametrize("back", [(), (1, 2, 3), (1, 2, 5)])
def test_a_replica_without_which_too_few_were_in_sync_is_not_given_up_at_once(
    back: tuple[int, ...],
) -> None:
    cluster = Moving(1, 2, 3)
    cluster.move(4, 5, 1)
    cluster.join(4)
    cluster.fence(2)
    cluster.fence(3)
    cluster.expect((4, 5, 1, 2, 3), (1, 4), adding=(4, 5), removing=(2, 3))
    refused = cluster.move(*back)
    assert isinstance(refused, InvalidReplicaAssignmentError)
    assert (refused.value, refused.limit) == ("[1]", "2")
    assert cluster.partition.isr == (1, 4)
    cluster.start(2, process=2)
    cluster.join(2)
    assert cluster.move(*back) is None
    assert 4 not in cluster.partition.replicas


def test_a_move_waits_while_what_remains_in_sync_would_be_below_its_minimum() -> None:
    """Else its high watermark stands still, with one who has everything just dropped."""
    cluster = Moving(1, 2, 3)
    cluster.fence(3)
    cluster.move(1, 3)
    cluster.expect((1, 3, 2), (1, 2), removing=(2,))
    cluster.start(3, process=2)
    cluster.join(3)
    cluster.expect((1, 3), (1, 3))


def test_a_move_does_not_drop_who_has_all_while_too_few_are_in_sync() -> None:
    """Else what is acknowledged because two had it would be on one disk alone."""
    cluster = Moving(1, 2, 3, min_insync_replicas="2")
    cluster.fence(1)
    cluster.fence(3)
    cluster.move(1, 3, 4)
    cluster.join(4)
    cluster.fence(2)
    cluster.expect((1, 3, 4, 2), (4,), adding=(4,), removing=(2,))
    assert cluster.partition.elr == (2,)
    cluster.start(1, process=2)
    cluster.join(1)
    cluster.expect((1, 3, 4), (4, 1))


def test_who_has_all_stays_when_replication_shrinks() -> None:
    """Else what is acknowledged because two had it would be on one disk alone."""
    cluster = Moving(1, 2, 3, min_insync_replicas="2")
    cluster.fence(2)
    cluster.fence(3)
    assert cluster.partition.elr == (3,)
    assert cluster.resize(2) is None
    cluster.expect((1, 3), (1,))
    assert cluster.partition.elr == (3,)


def test_who_has_all_stays_eligible_when_a_move_raises_the_minimum() -> None:
    cluster = Moving(1, 2, 3)
    cluster.fence(2)
    cluster.fence(3)
    cluster.move(1, 2, 3, 4)
    cluster.join(4)  # two of three were enough; of four, two are not
    cluster.expect((1, 2, 3, 4), (1, 4))
    assert cluster.partition.elr == (3,)


def test_a_new_replica_that_has_all_is_not_given_up_at_once_when_it_is_away() -> None:
    cluster = Moving(1, 2, 3)
    cluster.move(4, 5, 1)
    cluster.join(4)
    for node_id in (2, 3, 4):
        cluster.fence(node_id)
    assert (cluster.partition.isr, cluster.partition.elr) == ((1,), (4,))
    refused = cluster.move()
    assert isinstance(refused, InvalidReplicaAssignmentError)
    assert (refused.value, refused.limit) == ("[1]", "2")


def test_the_minimum_isr_is_at_most_what_each_partition_is_to_have() -> None:
    """Else a partition could never be written to again, and its move never ended."""
    cluster = Cluster(nodes=4)
    _, second = cluster.topic("t", partitions=2, replication=3)
    fewer = Reassignment(TopicRef("t"), PartitionIndex(1), second.replicas[:2])
    cluster.submit(Reassign((fewer,)))
    change = ConfigChange(TopicRef("t"), {"min.insync.replicas": "3"})
    reply = answer(cluster.submit(AlterTopicConfigs((change,))))
    (result,) = reply.alter_topic_configs.topics
    assert isinstance(error_from_proto(result.error), InvalidConfigError)


def test_a_move_is_not_taken_back_to_fewer_replicas_than_must_be_in_sync() -> None:
    cluster = Moving(1, 2)
    cluster.resize(3)
    cluster.submit(AlterTopicConfigs((ConfigChange(TopicRef("t"), {"min.insync.replicas": "3"}),)))
    assert isinstance(cluster.move(), InvalidConfigError)


def test_who_alone_has_everything_cannot_be_dropped_at_once() -> None:
    cluster = Moving(1, 2)
    cluster.move(3, 4)
    cluster.join(3)
    cluster.fence(1)
    cluster.fence(2)
    cluster.propose(cluster.partition, 3)
    assert isinstance(cluster.move(), InvalidReplicaAssignmentError)
    cluster.fence(3)
    assert cluster.partition.leader == NO_NODE
    cluster.admit(registration(1, process=2, lost_data=True))
    cluster.admit(registration(2, process=2, lost_data=True))
    assert isinstance(cluster.move(1, 2), InvalidReplicaAssignmentError)


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        ((2, 2), InvalidReplicaAssignmentError),
        ((9,), InvalidReplicaAssignmentError),
        ((5,), InvalidReplicaAssignmentError),
    ],
)
def test_impossible_replicas_are_refused(
    replicas: tuple[int, ...], expected: type[BrokerError]
) -> None:
    cluster = Moving(1, 2)
    cluster.fence(5)
    refused = cluster.move(*replicas)
    assert isinstance(refused, expected)
    assert refused.field == "replicas"
    cluster.expect((1, 2), (1, 2))


def test_replicas_of_what_does_not_exist_or_is_internal_are_refused() -> None:
    cluster = Moving(1, 2, min_insync_replicas="2")
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    assert isinstance(cluster.move(1, index=1), UnknownTopicOrPartitionError)
    assert isinstance(cluster.move(1, topic="nope"), UnknownTopicOrPartitionError)
    assert isinstance(cluster.move(1, topic="__consumer_offsets"), InvalidTopicError)
    assert isinstance(cluster.resize(1, topic="__consumer_offsets"), InvalidTopicError)
    assert isinstance(cluster.move(1), InvalidConfigError)
    assert isinstance(cluster.resize(1), InvalidConfigError)


def test_replication_grows_and_shrinks() -> None:
    cluster = Moving(1)
    assert cluster.resize(3) is None
    added = cluster.partition.adding
    assert len(added) == 2
    cluster.expect((1, *added), (1,), adding=added)
    cluster.join(*added)
    cluster.expect((1, *added), (1, *added))
    cluster.propose(cluster.partition, 1, added[1])
    assert cluster.resize(2) is None
    cluster.expect((1, added[1]), (1, added[1]))
    for replication in (0, 6):
        assert isinstance(cluster.resize(replication), InvalidReplicationFactorError)


def test_growth_prefers_other_racks() -> None:
    cluster = Cluster()
    for node_id, rack in enumerate("aabbcc", 1):
        cluster.start(node_id, rack=rack)
    cluster.topic("t", partitions=6)
    cluster.submit(AlterReplication((NewReplication(TopicRef("t"), 3),)))
    for partition in cluster.partitions("t"):
        assert len({"aabbcc"[node_id - 1] for node_id in partition.replicas}) == 3


def test_a_drain_is_refused_when_the_others_are_too_few() -> None:
    cluster = Cluster(nodes=3)
    cluster.topic("t", replication=3)
    with pytest.raises(InvalidReplicationFactorError, match="replica of t:"):
        cluster.submit(DrainNode(NodeId(3), wanted=True))
    with pytest.raises(NodeIdNotRegisteredError):
        cluster.submit(DrainNode(NodeId(9), wanted=True))
    cluster.start(4)
    response = answer(cluster.submit(DrainNode(NodeId(3), wanted=True)))
    assert response.drain_node.replica_count == 1
    with pytest.raises(InvalidReplicationFactorError):
        cluster.submit(DrainNode(NodeId(2), wanted=True))


def test_a_drained_node_gets_nothing_and_stays_drained_over_its_restart() -> None:
    cluster = Cluster(nodes=2)
    cluster.submit(DrainNode(NodeId(2), wanted=True))
    cluster.start(2, process=2)
    assert cluster.image.nodes[NodeId(2)].draining
    assert {each.leader for each in cluster.topic("t", partitions=4)} == {1}
    cluster.submit(DrainNode(NodeId(2), wanted=False))
    assert {each.leader for each in cluster.topic("u", partitions=4)} == {1, 2}


def test_a_node_is_forgotten_once_it_is_empty_and_has_stopped() -> None:
    cluster = Cluster(nodes=2)
    cluster.topic("t", partitions=2)
    with pytest.raises(InvalidRequestError, match="drain it first"):
        cluster.submit(RemoveNode(NodeId(2)))
    for partition in cluster.partitions("t"):
        if partition.leader == 2:
            place = cluster.image.places[partition.uid]
            moved = Reassignment(TopicRef("t"), place.index, (NodeId(1),))
            cluster.submit(Reassign((moved,)))
            cluster.propose(cluster.image.partitions[partition.uid], 1, 2)
    with pytest.raises(InvalidRequestError, match="stop it first"):
        cluster.submit(RemoveNode(NodeId(2)))
    cluster.fence(2)
    cluster.submit(RemoveNode(NodeId(2)))
    assert sorted(cluster.image.nodes) == [1]
    cluster.start(2, process=7)
    assert sorted(cluster.image.nodes) == [1, 2]

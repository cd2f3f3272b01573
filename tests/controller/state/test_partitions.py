"""ISR changes: a compare-and-set that trusts nobody."""

import pytest

from odradek.controller.state.image import Draft
from odradek.controller.state.partitions import (
    IsrMember,
    IsrProposal,
    finish_elections,
    propose_isr,
)
from odradek.controller.state.records import NodeFenced, Partition, PartitionChanged
from odradek.protocol.errors import (
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    NotLeaderOrFollowerError,
    OdradekError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
)
from odradek.protocol.types import (
    NO_NODE,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    TopicId,
)
from tests.controller.state.cluster import Cluster

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)


def replicated() -> tuple[Cluster, Partition]:
    """Return three nodes that replicate one partition, led by node 1, all in sync."""
    cluster = Cluster(nodes=3)
    (partition,) = cluster.topic("t")
    draft = Draft(cluster.image)
    replicas = (N1, N2, N3)
    partition = partition._replace(leader=N1, replicas=replicas, isr=replicas)
    draft.record(PartitionChanged(partition))
    cluster.commit(draft)
    return cluster, partition


def proposal(cluster: Cluster, partition: Partition, *isr: NodeId) -> IsrProposal:
    """Return what the leader would propose now."""
    topic = cluster.image.topic_named("t")
    assert topic is not None
    members = tuple(IsrMember(each, cluster.image.nodes[each].incarnation) for each in isr)
    return IsrProposal(
        topic.topic_id,
        PartitionIndex(0),
        partition.leader_epoch,
        partition.partition_epoch,
        members,
    )


def test_a_leader_shrinks_and_grows_its_isr() -> None:
    cluster, partition = replicated()
    for isr in ((N1, N2), (N1,), (N1, N3, N2)):
        draft = Draft(cluster.image)
        (outcome,) = propose_isr(draft, N1, [proposal(cluster, partition, *isr)])
        cluster.commit(draft)
        assert outcome.error is None
        assert outcome.partition is not None
        assert outcome.partition.isr == isr
        assert outcome.partition.partition_epoch == partition.partition_epoch + 1
        assert outcome.partition.leader_epoch == partition.leader_epoch
        partition = outcome.partition
        assert cluster.partitions("t") == [partition]


@pytest.mark.parametrize(
    ("sender", "change", "expected"),
    [
        (N1, {"leader_epoch": LeaderEpoch(-1)}, FencedLeaderEpochError),
        (N1, {"leader_epoch": LeaderEpoch(9)}, UnknownLeaderEpochError),
        (N2, {}, NotLeaderOrFollowerError),
        (N1, {"partition_epoch": PartitionEpoch(9)}, InvalidUpdateVersionError),
        (N1, {"topic_id": TopicId(b"?" * 16)}, UnknownTopicIdError),
        (N1, {"index": PartitionIndex(1)}, UnknownTopicIdError),
        (N1, {"index": PartitionIndex(-1)}, UnknownTopicIdError),
        (N1, {"isr": ()}, InvalidRequestError),
        (N1, {"isr": (IsrMember(N2, Incarnation(2)),)}, InvalidRequestError),
        (N1, {"isr": (IsrMember(N1, Incarnation(1)),) * 2}, InvalidRequestError),
        (
            N1,
            {"isr": (IsrMember(N1, Incarnation(1)), IsrMember(NodeId(4), Incarnation(4)))},
            InvalidRequestError,
        ),
        (
            N1,
            {"isr": (IsrMember(N1, Incarnation(1)), IsrMember(N2, Incarnation(1)))},
            IneligibleReplicaError,
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    sender: NodeId, change: dict[str, object], expected: type[OdradekError]
) -> None:
    cluster, partition = replicated()
    draft = Draft(cluster.image)
    base = proposal(cluster, partition, N1, N2)
    fields = {name: getattr(base, name) for name in IsrProposal.__dataclass_fields__}
    (outcome,) = propose_isr(draft, sender, [IsrProposal(**(fields | change))])
    assert isinstance(outcome.error, expected)
    assert draft.take_records() == ()


def test_a_fenced_replica_does_not_get_into_the_isr() -> None:
    cluster, _ = replicated()
    cluster.fence(2)
    (partition,) = cluster.partitions("t")
    assert partition.isr == (N1, N3)
    (outcome,) = propose_isr(Draft(cluster.image), N1, [proposal(cluster, partition, N1, N2, N3)])
    assert isinstance(outcome.error, IneligibleReplicaError)


def test_deaths_move_leadership_and_the_last_one_in_sync_is_remembered() -> None:
    cluster, first = replicated()
    cluster.fence(1)
    (second,) = cluster.partitions("t")
    assert (second.leader, second.isr) == (N2, (N2, N3))
    cluster.fence(2)
    (third,) = cluster.partitions("t")
    assert (third.leader, third.isr) == (N3, (N3,))
    cluster.fence(3)
    (none,) = cluster.partitions("t")
    assert (none.leader, none.isr) == (NO_NODE, (N3,))
    # The others have less than was acknowledged: they wait.
    cluster.start(1, process=2)
    cluster.start(2, process=2)
    assert cluster.partitions("t") == [none]
    cluster.start(3, process=2)
    (back,) = cluster.partitions("t")
    assert (back.leader, back.isr) == (N3, (N3,))
    epochs = [each.leader_epoch for each in (first, second, third, none, back)]
    assert epochs == sorted(set(epochs))


def test_a_successor_finishes_what_was_left_half_done() -> None:
    cluster, _ = replicated()
    draft = Draft(cluster.image)
    draft.record(NodeFenced(N1))  # and then the controller died
    cluster.commit(draft)
    draft = Draft(cluster.image)
    finish_elections(draft)
    cluster.commit(draft)
    (partition,) = cluster.partitions("t")
    assert partition.leader == N2
    draft = Draft(cluster.image)
    finish_elections(draft)
    assert draft.take_records() == ()

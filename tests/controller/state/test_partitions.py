"""ISR changes: a compare-and-set that trusts nobody."""

import pytest

from odradek.controller.state.image import Draft
from odradek.controller.state.partitions import IsrMember, IsrProposal, propose_isr
from odradek.controller.state.records import Partition
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
    return cluster, cluster.assigned("t", N1, N2, N3)


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


def test_proposing_the_isr_as_it_is_ends_all_doubt_about_proposals_before() -> None:
    cluster, partition = replicated()
    older = proposal(cluster, partition, N1, N2)
    draft = Draft(cluster.image)
    (outcome,) = propose_isr(draft, N1, [proposal(cluster, partition, *partition.isr)])
    cluster.commit(draft)
    assert outcome.error is None
    assert cluster.partitions("t") == [
        partition._replace(partition_epoch=PartitionEpoch(partition.partition_epoch + 1))
    ]
    (late,) = propose_isr(Draft(cluster.image), N1, [older])
    assert isinstance(late.error, InvalidUpdateVersionError)


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


def test_who_is_about_to_stop_may_stay_but_not_join() -> None:
    cluster, partition = replicated()
    partition = cluster.propose(partition, 1, 2).partition or partition
    cluster.retire(3)
    outcome = cluster.propose(partition, 1, 2, 3)
    assert isinstance(outcome.error, IneligibleReplicaError)
    cluster.retire(2)  # cannot be spared
    assert cluster.partitions("t") == [partition]
    assert cluster.propose(partition, 1, 2).error is None

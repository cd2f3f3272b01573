"""Registration, fencing, and what they do to leadership."""

from dataclasses import replace

import pytest

from odradek.controller.state.image import Draft
from odradek.controller.state.nodes import (
    FenceNode,
    Registration,
    UnfenceNode,
    check_incarnation,
    register,
)
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    InvalidRequestError,
    NodeIdNotRegisteredError,
    StaleBrokerEpochError,
)
from odradek.protocol.types import NO_NODE, Incarnation, NodeId
from tests.controller.state.cluster import CLUSTER, Cluster, registration


def test_a_node_is_fenced_until_it_has_seen_its_registration() -> None:
    cluster = Cluster()
    incarnation = cluster.register(1)
    node = cluster.image.nodes[NodeId(1)]
    assert node.fenced
    cluster.decide(UnfenceNode(NodeId(1), incarnation, node.fenced_version - 1))
    assert cluster.image.nodes[NodeId(1)].fenced
    cluster.decide(UnfenceNode(NodeId(1), incarnation, node.fenced_version))
    assert not cluster.image.nodes[NodeId(1)].fenced


def test_a_repeated_registration_gets_the_same_incarnation() -> None:
    cluster = Cluster(nodes=1)
    node = cluster.image.nodes[NodeId(1)]
    again = cluster.admit(registration(1))
    assert again == Registration(node.incarnation)
    assert not cluster.image.nodes[NodeId(1)].fenced


def test_a_new_process_of_the_same_directory_registers_at_once() -> None:
    cluster = Cluster(nodes=1)
    before = cluster.image.nodes[NodeId(1)].incarnation
    after = cluster.register(1, process=2)
    assert after > before
    assert cluster.image.nodes[NodeId(1)].fenced


def test_a_registration_that_others_have_overtaken_changes_nothing() -> None:
    cluster = Cluster(nodes=3)
    lost = replace(
        registration(1, process=2, directory=9, replace=True),
        previous_incarnation=cluster.image.nodes[NodeId(1)].incarnation,
    )
    cluster.fence(1)
    cluster.decide(lost)  # and again, late, when another disk has taken its place
    cluster.admit(registration(1, process=3, directory=10, replace=True))
    in_force = cluster.image.nodes[NodeId(1)]
    with pytest.raises(StaleBrokerEpochError, match=f"in force is {in_force.incarnation}") as stale:
        cluster.decide(lost)
    assert stale.value.limit == str(in_force.incarnation)
    assert cluster.image.nodes[NodeId(1)] == in_force


def test_a_loss_that_was_made_good_is_not_told_twice() -> None:
    cluster = Cluster(nodes=3)
    partition = cluster.assigned("t", 1, 2, 3)
    late = replace(
        registration(1, process=2, lost_data=True),
        previous_incarnation=cluster.image.nodes[NodeId(1)].incarnation,
    )
    cluster.decide(late)
    cluster.start(1, process=3)
    cluster.propose(cluster.image.partitions[partition.uid], 1, 2, 3)
    for node_id in (2, 3, 1):
        cluster.fence(node_id)
    assert 1 in cluster.image.partitions[partition.uid].elr
    with pytest.raises(StaleBrokerEpochError):
        cluster.decide(late)
    assert 1 in cluster.image.partitions[partition.uid].elr


def test_nobody_takes_the_place_of_a_registration_that_is_not_there() -> None:
    cluster = Cluster()
    with pytest.raises(StaleBrokerEpochError, match="in force is 0"):
        cluster.decide(replace(registration(1), previous_incarnation=Incarnation(7)))
    assert not cluster.image.nodes


def test_another_directory_under_a_taken_id_is_refused() -> None:
    cluster = Cluster(nodes=1)
    with pytest.raises(DuplicateNodeRegistrationError, match="--replace"):
        cluster.admit(registration(1, process=9, directory=9))
    with pytest.raises(DuplicateNodeRegistrationError, match="still alive"):
        cluster.admit(registration(1, process=9, directory=9, replace=True))
    cluster.fence(1)
    cluster.admit(registration(1, process=9, directory=9, replace=True))
    assert cluster.image.nodes[NodeId(1)].directory_id == b"\x09" * 16


def test_a_directory_belongs_to_one_node_id() -> None:
    cluster = Cluster(nodes=1)
    with pytest.raises(DuplicateNodeRegistrationError, match="belongs to node 1"):
        cluster.admit(registration(2, directory=1))


def test_data_of_another_cluster_is_refused() -> None:
    cluster = Cluster()
    with pytest.raises(InconsistentClusterIdError, match="elsewhere"):
        cluster.admit(registration(1, cluster_id="elsewhere"))
    cluster.admit(registration(1, cluster_id=CLUSTER))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node_id", -1),
        ("directory_id", b"short"),
        ("process_id", b""),
        ("host", ""),
        ("port", 0),
        ("port", 65536),
        ("rack", "r" * 300),
    ],
)
def test_a_field_out_of_bounds_is_named(field: str, value: object) -> None:
    asked = registration(1)
    fields = {name: getattr(asked, name) for name in asked.__dataclass_fields__} | {field: value}
    with pytest.raises(InvalidRequestError) as caught:
        register(Draft(Cluster().image), type(asked)(**fields))
    assert caught.value.field == field


def test_a_dead_node_leads_nothing_and_leads_again_under_a_new_epoch() -> None:
    cluster = Cluster(nodes=1)
    (before,) = cluster.topic("t")
    assert before.leader == 1
    cluster.fence(1)
    (dead,) = cluster.partitions("t")
    assert (dead.leader, dead.isr, dead.elr) == (NO_NODE, (), (1,))
    assert dead.leader_epoch > before.leader_epoch
    cluster.start(1, process=2)
    (after,) = cluster.partitions("t")
    assert (after.leader, after.isr, after.elr) == (1, (1,), ())
    assert after.leader_epoch > dead.leader_epoch


def test_registration_takes_a_node_out_of_leadership_even_when_it_was_not_fenced() -> None:
    cluster = Cluster(nodes=1)
    (before,) = cluster.topic("t")
    cluster.register(1, process=2)
    (registered,) = cluster.partitions("t")
    assert registered.leader == NO_NODE
    cluster.unfence(1)
    (after,) = cluster.partitions("t")
    assert after.leader == 1
    assert before.leader_epoch < registered.leader_epoch < after.leader_epoch


def test_what_an_older_incarnation_did_fences_nobody() -> None:
    cluster = Cluster(nodes=1)
    old = cluster.image.nodes[NodeId(1)].incarnation
    cluster.start(1, process=2)
    cluster.decide(FenceNode(NodeId(1), old))
    assert not cluster.image.nodes[NodeId(1)].fenced


def test_a_node_that_was_fenced_must_see_its_fencing_before_it_leads_again() -> None:
    cluster = Cluster(nodes=1)
    node = cluster.image.nodes[NodeId(1)]
    cluster.fence(1)
    cluster.decide(UnfenceNode(NodeId(1), node.incarnation, node.fenced_version))
    assert cluster.image.nodes[NodeId(1)].fenced
    cluster.unfence(1)
    assert not cluster.image.nodes[NodeId(1)].fenced


def test_only_the_present_incarnation_may_speak() -> None:
    cluster = Cluster(nodes=1)
    incarnation = cluster.image.nodes[NodeId(1)].incarnation
    check_incarnation(cluster.image, NodeId(1), incarnation)
    with pytest.raises(StaleBrokerEpochError):
        check_incarnation(cluster.image, NodeId(1), Incarnation(incarnation + 1))
    with pytest.raises(NodeIdNotRegisteredError):
        check_incarnation(cluster.image, NodeId(2), incarnation)

"""Registration, fencing, and what they do to leadership."""

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
    cluster.decide(UnfenceNode(NodeId(1), incarnation, node.registered_version - 1))
    assert cluster.image.nodes[NodeId(1)].fenced
    cluster.decide(UnfenceNode(NodeId(1), incarnation, node.registered_version))
    assert not cluster.image.nodes[NodeId(1)].fenced


def test_a_repeated_registration_gets_the_same_incarnation_and_version() -> None:
    cluster = Cluster(nodes=1)
    node = cluster.image.nodes[NodeId(1)]
    again = cluster.decide(registration(1))
    assert again == Registration(node.incarnation, node.registered_version)
    assert not cluster.image.nodes[NodeId(1)].fenced


def test_a_new_process_of_the_same_directory_registers_at_once() -> None:
    cluster = Cluster(nodes=1)
    before = cluster.image.nodes[NodeId(1)].incarnation
    after = cluster.register(1, process=2)
    assert after > before
    assert cluster.image.nodes[NodeId(1)].fenced


def test_another_directory_under_a_taken_id_is_refused() -> None:
    cluster = Cluster(nodes=1)
    with pytest.raises(DuplicateNodeRegistrationError, match="--replace"):
        cluster.decide(registration(1, process=9, directory=9))
    with pytest.raises(DuplicateNodeRegistrationError, match="still alive"):
        cluster.decide(registration(1, process=9, directory=9, replace=True))
    cluster.fence(1)
    cluster.decide(registration(1, process=9, directory=9, replace=True))
    assert cluster.image.nodes[NodeId(1)].directory_id == b"\x09" * 16


def test_a_directory_belongs_to_one_node_id() -> None:
    cluster = Cluster(nodes=1)
    with pytest.raises(DuplicateNodeRegistrationError, match="belongs to node 1"):
        cluster.decide(registration(2, directory=1))


def test_data_of_another_cluster_is_refused() -> None:
    cluster = Cluster()
    with pytest.raises(InconsistentClusterIdError, match="elsewhere"):
        cluster.decide(registration(1, cluster_id="elsewhere"))
    cluster.decide(registration(1, cluster_id=CLUSTER))


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
    cluster.decide(UnfenceNode(NodeId(1), node.incarnation, node.registered_version))
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

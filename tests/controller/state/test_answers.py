"""A request is decided once, however often it is asked."""

import pytest

from odradek.controller.state.answers import ANSWERS_MAX
from odradek.controller.state.decide import (
    AllocateProducerIds,
    Answer,
    CreateTopics,
    DeleteTopics,
    Submission,
)
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.topics import NewTopic, TopicRef
from odradek.controller.wire.records import decode_snapshot, encode_snapshot
from odradek.protocol.errors import InvalidRequestError, StaleBrokerEpochError
from odradek.protocol.types import Incarnation, NodeId
from odradek.v1 import controller_pb2
from tests.controller.state.cluster import Cluster

N1 = NodeId(1)


def allocate(sequence: int, incarnation: int = 1) -> Submission:
    """Ask for producer ids."""
    return Submission(N1, Incarnation(incarnation), sequence, AllocateProducerIds())


def test_a_repeat_gets_the_first_answer() -> None:
    cluster = Cluster(nodes=1)
    first = cluster.decide(allocate(1))
    second = cluster.decide(allocate(2))
    assert cluster.decide(allocate(1)) == first != second


def test_blocks_of_producer_ids_do_not_overlap() -> None:
    cluster = Cluster(nodes=1)
    granted: set[int] = set()
    for sequence in range(1, 20):
        answer = cluster.decide(allocate(sequence))
        assert isinstance(answer, Answer)
        block = controller_pb2.SubmitResponse.FromString(answer.encoded).allocate_producer_ids
        ids = range(block.first_producer_id, block.first_producer_id + block.count)
        assert granted.isdisjoint(ids)
        granted.update(ids)


def test_answers_survive_a_snapshot_and_another_controller() -> None:
    cluster = Cluster(nodes=1)
    first = cluster.decide(allocate(1))
    cluster.image = decode_snapshot(encode_snapshot(cluster.image))
    cluster.begin_epoch()
    assert cluster.decide(allocate(1)) == first


def test_what_changed_nothing_is_decided_again() -> None:
    cluster = Cluster(nodes=1)
    delete = Submission(N1, Incarnation(1), 1, DeleteTopics((TopicRef("t"),)))
    refused = cluster.decide(delete)
    cluster.topic("t")
    assert cluster.decide(delete) != refused
    assert not cluster.image.topics


def test_an_answer_too_old_to_be_known_is_refused() -> None:
    cluster = Cluster(nodes=1)
    for sequence in range(1, ANSWERS_MAX + 2):
        cluster.decide(allocate(sequence))
    assert len(cluster.image.answers.all()) == ANSWERS_MAX
    with pytest.raises(InvalidRequestError, match="no longer known"):
        cluster.decide(allocate(1))


def test_a_new_incarnation_begins_anew_and_the_old_one_is_refused() -> None:
    cluster = Cluster(nodes=1)
    old = cluster.decide(allocate(1))
    cluster.start(1, process=2)
    with pytest.raises(StaleBrokerEpochError):
        cluster.decide(allocate(2))
    incarnation = cluster.image.nodes[N1].incarnation
    assert cluster.decide(allocate(1, incarnation)) != old


def test_an_answer_is_encoded_beside_its_effect() -> None:
    cluster = Cluster(nodes=1)
    cluster.decide(Submission(N1, Incarnation(1), 1, CreateTopics((NewTopic("t", 1),))))
    assert isinstance(cluster.image, ClusterImage)
    (answer,) = cluster.image.answers.all()
    assert b"t" in answer.answer

"""Topics: what people may ask for, and what they are told when they may not."""

import pytest

from odradek.controller.raft import COMMAND_BYTES_MAX
from odradek.controller.state.decide import (
    TOPICS_MAX,
    AlterTopicConfigs,
    Answer,
    CreateInternalTopic,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
)
from odradek.controller.state.topics import (
    INTERNAL_PARTITIONS,
    ConfigChange,
    NewPartitions,
    NewTopic,
    TopicRef,
)
from odradek.protocol.errors import (
    BrokerError,
    EligibleLeadersNotAvailableError,
    InconsistentTopicIdError,
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
    error_from_proto,
)
from odradek.v1 import admin_pb2, controller_pb2
from tests.controller.state.cluster import Cluster


def results(reply: object) -> list[admin_pb2.TopicResult]:
    """Return what an answer says of each topic."""
    assert isinstance(reply, Answer)
    response = controller_pb2.SubmitResponse.FromString(reply.encoded)
    which = response.WhichOneof("result")
    assert which is not None
    return list(getattr(response, which).topics)


def error(reply: object) -> BrokerError:
    """Return why the only topic was refused."""
    (result,) = results(reply)
    return error_from_proto(result.error)


def test_a_topic_exists_with_all_its_partitions_and_leaders() -> None:
    cluster = Cluster(nodes=3)
    (result,) = results(cluster.submit(CreateTopics((NewTopic("positions", 6),))))
    assert (result.name, result.partitions, result.replication_factor) == ("positions", 6, 3)
    assert len(result.topic_id) == 16
    partitions = cluster.partitions("positions")
    assert len({partition.uid for partition in partitions}) == 6
    assert all(partition.isr == partition.replicas for partition in partitions)
    assert sorted(partition.leader for partition in partitions) == [1, 1, 2, 2, 3, 3]


def test_defaults() -> None:
    cluster = Cluster(nodes=1)
    (result,) = results(cluster.submit(CreateTopics((NewTopic("t"),))))
    assert (result.partitions, result.replication_factor) == (6, 1)


@pytest.mark.parametrize(
    ("topic", "expected", "field"),
    [
        (NewTopic(""), InvalidTopicError, "name"),
        (NewTopic("a b"), InvalidTopicError, "name"),
        (NewTopic("."), InvalidTopicError, "name"),
        (NewTopic("x" * 250), InvalidTopicError, "name"),
        (NewTopic("__consumer_offsets"), InvalidTopicError, "topic"),
        (NewTopic("taken"), TopicAlreadyExistsError, "name"),
        (NewTopic("t", 0), InvalidPartitionsError, "partitions"),
        (NewTopic("t", -1), InvalidPartitionsError, "partitions"),
        (NewTopic("t", 100_000), InvalidPartitionsError, "partitions"),
        (NewTopic("t", 1, 0), InvalidReplicationFactorError, "replication_factor"),
        (NewTopic("t", 1, 3), InvalidReplicationFactorError, "replication_factor"),
        (NewTopic("t", 1, 1, {"retention": "1"}), InvalidConfigError, "config"),
        (NewTopic("t", 1, 1, {"flush": "no"}), InvalidConfigError, "config.flush"),
    ],
)
def test_a_bad_topic_is_refused_and_the_others_are_made(
    topic: NewTopic, expected: type[BrokerError], field: str
) -> None:
    cluster = Cluster(nodes=1)
    cluster.topic("taken")
    good, bad = results(cluster.submit(CreateTopics((NewTopic("good", 1), topic))))
    assert not good.HasField("error")
    refused = error_from_proto(bad.error)
    assert isinstance(refused, expected)
    assert refused.field == field
    assert sorted(cluster.image.topic_ids) == ["good", "taken"]


def test_too_many_partitions_names_the_limit() -> None:
    refused = error(Cluster(nodes=1).submit(CreateTopics((NewTopic("t", 100_000),))))
    assert "100000" in refused.message
    assert "10000" in refused.limit


def test_replication_goes_as_far_as_there_are_live_nodes() -> None:
    cluster = Cluster(nodes=4)
    cluster.fence(4)
    (made,) = results(cluster.submit(CreateTopics((NewTopic("t", 6, 3),))))
    assert made.replication_factor == 3
    for partition in cluster.partitions("t"):
        assert sorted(partition.replicas) == [1, 2, 3]
        assert partition.isr == partition.replicas
        assert partition.leader == partition.replicas[0]
    refused = error(cluster.submit(CreateTopics((NewTopic("u", 1, 4),))))
    assert isinstance(refused, InvalidReplicationFactorError)
    assert (refused.field, refused.value, refused.limit) == ("replication_factor", "4", "3")


def test_by_default_there_are_three_replicas_where_there_are_three_nodes() -> None:
    cluster = Cluster()
    for nodes in (1, 2, 3, 4):
        cluster.start(nodes)
        (made,) = results(cluster.submit(CreateTopics((NewTopic(f"t{nodes}", 1),))))
        assert made.replication_factor == min(nodes, 3)
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    assert {len(each.replicas) for each in cluster.partitions("__consumer_offsets")} == {3}


def test_more_partitions_have_as_many_replicas_as_the_first() -> None:
    cluster = Cluster(nodes=3)
    cluster.topic("t", partitions=2, replication=2)
    (grown,) = results(cluster.submit(CreatePartitions((NewPartitions(TopicRef("t"), 5),))))
    assert (grown.partitions, grown.replication_factor) == (5, 2)
    assert {len(each.replicas) for each in cluster.partitions("t")} == {2}


def test_a_minimum_isr_that_could_never_be_is_refused() -> None:
    cluster = Cluster(nodes=3)
    config = {"min.insync.replicas": "3"}
    refused = error(cluster.submit(CreateTopics((NewTopic("t", 1, 2, config),))))
    assert (refused.field, refused.limit) == ("config.min.insync.replicas", "2")
    cluster.topic("t", replication=2)
    change = ConfigChange(TopicRef("t"), config)
    refused = error(cluster.submit(AlterTopicConfigs((change,))))
    assert refused.field == "config.min.insync.replicas"


def test_the_partitions_of_one_request_are_bounded() -> None:
    cluster = Cluster(nodes=1)
    reply = cluster.submit(CreateTopics((NewTopic("a", 9_999), NewTopic("b", 2))))
    first, second = results(reply)
    assert not first.HasField("error")
    assert isinstance(error_from_proto(second.error), InvalidRequestError)


def test_the_topics_of_one_request_are_bounded() -> None:
    cluster = Cluster(nodes=1)
    with pytest.raises(InvalidRequestError, match="at most 250"):
        cluster.submit(DeleteTopics((TopicRef("t"),) * 251))


def test_the_answer_to_the_largest_request_fits_into_a_command() -> None:
    cluster = Cluster(nodes=1)
    for number in range(3):
        cluster.topic("near-" + "x" * 200 + str(number))
    many = tuple(TopicRef("near-" + "x" * 198 + str(number)) for number in range(TOPICS_MAX))
    answer = cluster.submit(DeleteTopics(many))
    assert isinstance(answer, Answer)
    assert len(answer.encoded) < COMMAND_BYTES_MAX


def test_without_a_live_node_the_caller_may_try_again() -> None:
    cluster = Cluster(nodes=1)
    cluster.fence(1)
    refused = error(cluster.submit(CreateTopics((NewTopic("t"),))))
    assert isinstance(refused, EligibleLeadersNotAvailableError)
    assert refused.retriable


def test_a_name_repeated_within_a_request_is_made_once() -> None:
    cluster = Cluster(nodes=1)
    first, second = results(cluster.submit(CreateTopics((NewTopic("t", 1), NewTopic("t", 1)))))
    assert not first.HasField("error")
    assert isinstance(error_from_proto(second.error), TopicAlreadyExistsError)


def test_a_check_changes_nothing() -> None:
    cluster = Cluster(nodes=1)
    written = len(cluster.log)
    (result,) = results(cluster.submit(CreateTopics((NewTopic("t", 3),), validate_only=True)))
    assert result.partitions == 3
    cluster.topic("u")
    written += 1
    grow = NewPartitions(TopicRef("u"), 5)
    (result,) = results(cluster.submit(CreatePartitions((grow,), validate_only=True)))
    assert result.partitions == 5
    change = ConfigChange(TopicRef("u"), {"flush": "os"})
    assert not results(cluster.submit(AlterTopicConfigs((change,), validate_only=True)))[
        0
    ].HasField("error")
    assert len(cluster.log) == written
    assert list(cluster.image.topic_ids) == ["u"]


def test_deleting_by_name_and_by_id() -> None:
    cluster = Cluster(nodes=1)
    first = cluster.topic("t", partitions=2)
    topic = cluster.image.topic_named("t")
    assert topic is not None
    assert not results(cluster.submit(DeleteTopics((TopicRef("t", topic.topic_id),))))[0].HasField(
        "error"
    )
    assert not cluster.image.partitions
    second = cluster.topic("t", partitions=2)
    assert {each.uid for each in first}.isdisjoint(each.uid for each in second)
    again = cluster.image.topic_named("t")
    assert again is not None
    assert again.topic_id != topic.topic_id
    # The old id now names nothing, although the name is taken again.
    refused = error(cluster.submit(DeleteTopics((TopicRef("t", topic.topic_id),))))
    assert isinstance(refused, UnknownTopicIdError)


def test_name_and_id_must_belong_together() -> None:
    cluster = Cluster(nodes=1)
    cluster.topic("a")
    cluster.topic("b")
    topic = cluster.image.topic_named("a")
    assert topic is not None
    refused = error(cluster.submit(DeleteTopics((TopicRef("b", topic.topic_id),))))
    assert isinstance(refused, InconsistentTopicIdError)
    assert len(cluster.image.topics) == 2


def test_an_unknown_topic_names_near_ones() -> None:
    cluster = Cluster(nodes=1)
    cluster.topic("vehicle-positions")
    refused = error(cluster.submit(DeleteTopics((TopicRef("vehicle-position"),))))
    assert isinstance(refused, UnknownTopicOrPartitionError)
    assert refused.suggestions == ("vehicle-positions",)


def test_partitions_can_be_added_and_never_taken() -> None:
    cluster = Cluster(nodes=3)
    before = cluster.topic("t", partitions=3)
    (result,) = results(cluster.submit(CreatePartitions((NewPartitions(TopicRef("t"), 6),))))
    assert result.partitions == 6
    after = cluster.partitions("t")
    assert after[:3] == before
    assert sorted(partition.leader for partition in after) == [1, 1, 2, 2, 3, 3]
    for count in (6, 5, 0, 10_001):
        refused = error(cluster.submit(CreatePartitions((NewPartitions(TopicRef("t"), count),))))
        assert isinstance(refused, InvalidPartitionsError), count


def test_settings_are_changed_one_by_one() -> None:
    cluster = Cluster(nodes=1)
    cluster.create(NewTopic("t", 1, 1, {"flush": "os", "retention.ms": "60000"}))
    change = ConfigChange(TopicRef("t"), {"retention.bytes": "007"}, ("flush",))
    cluster.submit(AlterTopicConfigs((change,)))
    topic = cluster.image.topic_named("t")
    assert topic is not None
    assert topic.config == (("retention.bytes", "7"), ("retention.ms", "60000"))
    for bad in (
        ConfigChange(TopicRef("t"), {"retention.ms": "x"}),
        ConfigChange(TopicRef("t"), {}, ("retention",)),
        ConfigChange(TopicRef("t"), {"flush": "os"}, ("flush",)),
    ):
        assert isinstance(
            error(cluster.submit(AlterTopicConfigs((bad,)))),
            InvalidConfigError | InvalidRequestError,
        )
    assert cluster.image.topic_named("t") == topic


def test_all_mistakes_of_an_alteration_are_told() -> None:
    cluster = Cluster(nodes=1)
    cluster.submit(CreateTopics((NewTopic("t", 1, 1),)))
    bad = ConfigChange(TopicRef("t"), {"flush": "no", "flsh": "os"}, ("retention",))
    refused = error(cluster.submit(AlterTopicConfigs((bad,))))
    assert isinstance(refused, InvalidConfigError)
    for told in ("'retention'", "flush = 'no'", "'flsh'"):
        assert told in refused.message


def test_internal_topics_are_made_on_demand_and_once() -> None:
    cluster = Cluster(nodes=3)
    (first,) = results(cluster.submit(CreateInternalTopic("__consumer_offsets")))
    (second,) = results(cluster.submit(CreateInternalTopic("__consumer_offsets")))
    assert first == second
    assert first.partitions == INTERNAL_PARTITIONS
    topic = cluster.image.topic_named("__consumer_offsets")
    assert topic is not None
    assert topic.config == (("cleanup.policy", "compact"),)
    with pytest.raises(InvalidTopicError):
        cluster.submit(CreateInternalTopic("mine"))


@pytest.mark.parametrize(
    "request_",
    [
        DeleteTopics((TopicRef("__consumer_offsets"),)),
        CreatePartitions((NewPartitions(TopicRef("__consumer_offsets"), 32),)),
        AlterTopicConfigs((ConfigChange(TopicRef("__consumer_offsets"), {"flush": "os"}),)),
    ],
)
def test_people_do_not_change_internal_topics(
    request_: DeleteTopics | CreatePartitions | AlterTopicConfigs,
) -> None:
    cluster = Cluster(nodes=1)
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    assert isinstance(error(cluster.submit(request_)), InvalidTopicError)

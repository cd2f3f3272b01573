"""What an older controller wrote means the same to this one."""

from odradek.controller.state.decide import AlterTopicConfigs
from odradek.controller.state.topics import ConfigChange, TopicRef
from odradek.controller.wire.records import (
    decode_command,
    decode_snapshot,
    encode_command,
    encode_record,
    encode_snapshot,
)
from odradek.v1 import cluster_record_pb2 as pb
from tests.controller.state.cluster import Cluster

FORMER_NODE_FIELD = bytes([10 << 3, 7])  # the version of its registration
FORMER_ANSWER_FIELD = bytes([5 << 3, 7])  # the version of the answer


def test_fields_that_fell_away_are_passed_over() -> None:
    cluster = Cluster(nodes=3)
    cluster.topic("t", partitions=2, replication=3)
    cluster.submit(AlterTopicConfigs((ConfigChange(TopicRef("t"), {"flush": "os"}),)))
    snapshot = pb.ClusterSnapshot.FromString(encode_snapshot(cluster.image))
    assert snapshot.nodes
    assert snapshot.answers
    for node in snapshot.nodes:
        node.MergeFromString(FORMER_NODE_FIELD)
    for answer in snapshot.answers:
        answer.MergeFromString(FORMER_ANSWER_FIELD)
    older = snapshot.SerializeToString()
    assert len(older) > len(encode_snapshot(cluster.image))
    restored = decode_snapshot(older)
    assert restored == cluster.image
    assert encode_snapshot(restored) == encode_snapshot(cluster.image)


def test_commands_with_fields_that_fell_away_are_replayed() -> None:
    log = Cluster(nodes=1).log
    decided = tuple(record for encoded in log for record in decode_command(encoded).records)
    records = [encode_record(record) for record in decided]
    (registered,) = (each for each in records if each.HasField("node_registered"))
    registered.node_registered.MergeFromString(FORMER_NODE_FIELD)
    assert decode_command(encode_command(1, 0, records)).records == decided

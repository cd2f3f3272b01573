"""The identifiers and small values all three programs speak of.

End offsets are exclusive (`log_end_offset` is the next to write), `last_offset` is inclusive. Times
are float seconds with the suffix `_s`; the wire and the record batches carry integer milliseconds.
"""

from typing import NamedTuple, NewType

NodeId = NewType("NodeId", int)
"""A broker node's number, stable over restarts; non-negative int32."""

ControllerId = NewType("ControllerId", int)
"""A controller's number, stable over restarts; non-negative int32."""

TopicName = NewType("TopicName", str)
GroupId = NewType("GroupId", str)
MemberId = NewType("MemberId", str)

TopicId = NewType("TopicId", bytes)
"""16 random bytes, never reused: a re-created topic has another."""

PartitionUid = NewType("PartitionUid", int)
"""uint64 from the controller, never reused: names one partition of one incarnation of a topic."""

PartitionIndex = NewType("PartitionIndex", int)
Offset = NewType("Offset", int)
LeaderEpoch = NewType("LeaderEpoch", int)
PartitionEpoch = NewType("PartitionEpoch", int)
Incarnation = NewType("Incarnation", int)
"""Grows with each registration of a node (Kafka's broker epoch)."""

ProducerId = NewType("ProducerId", int)
ProducerEpoch = NewType("ProducerEpoch", int)

FIRST_OFFSET = Offset(0)
NO_NODE = NodeId(-1)
NO_PRODUCER_ID = ProducerId(-1)
NO_LEADER_EPOCH = LeaderEpoch(-1)


class TopicPartition(NamedTuple):
    """One partition of a topic, by name: a tuple, because it is the key of many a dictionary."""

    topic: TopicName
    partition: PartitionIndex

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"

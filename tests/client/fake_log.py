"""Logs in memory that follow the rules of a leader: sequences, epochs, sizes."""

import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from odradek.protocol.errors import InvalidProducerEpochError, OutOfOrderSequenceNumberError
from odradek.protocol.record_batch import BatchHeader, RawRecord, decode, split, stamp, validate
from odradek.protocol.types import LeaderEpoch, Offset
from odradek.v1 import metadata_pb2

BATCH_BYTES_MAX = 1048588


@dataclass(eq=False)
class FakePartition:
    """One log, with the idempotence window of each producer."""

    index: int
    uid: int
    leader_id: int
    leader_epoch: int = 0
    batches: list[bytearray] = field(default_factory=list)
    end: int = 0
    producers: dict[int, tuple[int, deque[tuple[int, int, int]]]] = field(default_factory=dict)

    def append(self, records: bytes, batch_bytes_max: int) -> int:
        """Append as a leader does; return the base offset."""
        base = -1
        for view in split(records):
            batch = bytearray(view)
            header = validate(batch, batch_bytes_max)
            offset = self._check_sequence(header)
            if offset is None:
                offset = self.end
                stamp(batch, Offset(offset), LeaderEpoch(self.leader_epoch))
                self.batches.append(batch)
                self.end += header.record_count
                if header.has_producer_id:
                    self.producers[header.producer_id][1].append(
                        (header.base_sequence, header.last_sequence, offset)
                    )
            base = offset if base < 0 else base
        return base

    def _check_sequence(self, header: BatchHeader) -> int | None:
        if not header.has_producer_id:
            return None
        epoch, window = self.producers.setdefault(
            header.producer_id, (header.producer_epoch, deque(maxlen=5))
        )
        if header.producer_epoch < epoch:
            raise InvalidProducerEpochError("fenced")
        if header.producer_epoch > epoch:
            if header.base_sequence != 0:
                raise OutOfOrderSequenceNumberError("a new epoch starts at 0")
            self.producers[header.producer_id] = (header.producer_epoch, deque(maxlen=5))
            return None
        for first, last, offset in window:
            if (first, last) == (header.base_sequence, header.last_sequence):
                return offset
        if window and header.base_sequence != window[-1][1] + 1:
            raise OutOfOrderSequenceNumberError(
                f"after {window[-1][1]} came {header.base_sequence}"
            )
        return None

    def records(self) -> list[RawRecord]:
        """Everything in the log, in order."""
        return [record for batch in self.batches for record in decode(bytes(batch))]

    def values(self) -> list[Any]:
        return [record.value for record in self.records()]


@dataclass(eq=False)
class FakeTopic:
    """One topic."""

    name: str
    partitions: list[FakePartition]
    config: dict[str, str] = field(default_factory=dict)
    topic_id: bytes = field(default_factory=lambda: uuid.uuid4().bytes)

    def metadata(self) -> metadata_pb2.TopicMetadata:
        return metadata_pb2.TopicMetadata(
            name=self.name,
            topic_id=self.topic_id,
            config=self.config,
            partitions=[
                metadata_pb2.PartitionMetadata(
                    partition=each.index,
                    uid=each.uid,
                    leader_id=each.leader_id,
                    leader_epoch=each.leader_epoch,
                    replicas=[1],
                    isr=[1],
                )
                for each in self.partitions
            ],
        )

    def values(self) -> list[Any]:
        return [value for partition in self.partitions for value in partition.values()]

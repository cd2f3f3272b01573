"""Where records wait for company: per topic the partitions' queues, and which one is filled. Pure.

Batches are sealed when they are full or when the sender takes them, whichever comes first: records
gather exactly as long as the network is busy, and many partitions still give big requests.

Records without key go to one partition until its batch is sealed, then to the next: sent one by one
they go 0, 1, 2, ...; in bulk every batch is a full one. In between, when a batch left early but is
not answered yet, the partition keeps its turn for some kilobytes: else a trickle of records would
make requests to every node at once, instead of gathering behind one.

Source: KIP-480, KIP-794 (sticky partitioning).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from odradek.client.cluster.image import TopicInfo
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.partition_queue import PartitionQueue, QueueLimits
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.client.record import Header
from odradek.protocol.errors import RecordTooLargeError, UnknownTopicOrPartitionError
from odradek.protocol.record_batch import HEADER_BYTES
from odradek.protocol.topic_config import parse_topic_config
from odradek.protocol.types import PartitionIndex

_MAX_MESSAGE_BYTES: Final = "max.message.bytes"
# Of batches that left early: Kafka's default batch.size, after which KIP-794 moves on.
_TURN_BYTES: Final = 16 * 1024


@dataclass(slots=True, eq=False)
class TopicQueues:
    """A topic's partitions as a producer fills them.

    Attributes:
        info: The topic.
        limits: The producer's; the queues' own take no larger batches than the topic does.
        ledger: The producer's.
        compresses: Whether batches shrink before they travel.
        batch_bytes_max: What the topic takes.
        queues: By partition.
        current: Takes the records without key.
        turn_bytes: How much of its turn `current` has used up.
    """

    info: TopicInfo
    limits: QueueLimits
    ledger: Ledger
    compresses: bool
    batch_bytes_max: int = 0
    queues: list[PartitionQueue] = field(default_factory=list)
    current: PartitionQueue = field(init=False)
    turn_bytes: int = 0

    @classmethod
    def of(
        cls, info: TopicInfo, limits: QueueLimits, ledger: Ledger, *, compresses: bool
    ) -> "TopicQueues":
        """Make the queues of a topic."""
        topic = cls(info, limits, ledger, compresses)
        topic.on_info(info, 0.0)
        topic.current = topic.queues[-1]  # so that the first turn goes to partition 0
        return topic

    @property
    def record_bytes_max(self) -> int | None:
        """A batch of one record may not exceed this; None when compression may shrink it."""
        return None if self.compresses else self.batch_bytes_max

    def on_info(self, info: TopicInfo, now_s: float) -> list[PartitionQueue]:
        """Take over limits, new partitions and leaders; return the queues whose leader changed."""
        assert info.partitions, "a topic has partitions"
        self.info = info
        self.batch_bytes_max = _batch_bytes_max(info)
        limits = replace(
            self.limits, batch_bytes=min(self.limits.batch_bytes, self.batch_bytes_max)
        )
        self.queues += (
            PartitionQueue(info.name, info.topic_id, PartitionIndex(index), limits, self.ledger)
            for index in range(len(self.queues), len(info.partitions))
        )
        changed = []
        for queue, partition in zip(self.queues, info.partitions, strict=False):
            queue.limits = limits
            leader = (info.topic_id, partition.leader_id, partition.leader_epoch)
            if leader != (queue.topic_id, queue.leader_id, queue.leader_epoch):
                queue.on_leader(*leader, now_s)
                changed.append(queue)
        return changed

    def queue_of(self, partition: int) -> PartitionQueue:
        """Return the queue of an explicitly chosen partition.

        Raises:
            UnknownTopicOrPartitionError: The topic has no such partition.
        """
        if not (isinstance(partition, int) and 0 <= partition < len(self.queues)):
            raise UnknownTopicOrPartitionError(
                f"topic {self.info.name!r} has partitions 0 to {len(self.queues) - 1},"
                f" not {partition!r}",
                field="partition",
                value=partition,
                limit=len(self.queues) - 1,
            )
        return self.queues[partition]

    def turn(self) -> PartitionQueue:
        """Let the next partition take the records without key; those without leader only if all."""
        self.turn_bytes = 0
        count = len(self.queues)
        first = (self.current.partition + 1) % count
        for step in range(count):
            self.current = self.queues[(first + step) % count]
            if self.current.leader_id >= 0:
                return self.current
        self.current = self.queues[first]
        return self.current

    def append(
        self,
        queue: PartitionQueue | None,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[Header],
    ) -> ProducerBatch | None:
        """Add a record to an open batch.

        Args:
            queue: None: the current one.

        Returns:
            The batch, whose last record it is; None when there is no open batch with room: then
            `append_new` is next.
        """
        batch = (queue or self.current).open
        if batch is None or not self._put(batch, key, value, timestamp_ms, headers):
            return None
        return batch

    def append_new(  # noqa: PLR0917 the hottest call of all: keywords cost
        self,
        queue: PartitionQueue | None,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[Header],
        now_s: float,
    ) -> ProducerBatch:
        """Add a record to a new batch; the full one before, if any, is sealed.

        Raises:
            RecordTooLargeError: The record alone exceeds the topic's limit; nothing was added.
        """
        batch, _ = self._begin(
            queue, lambda batch: self._put(batch, key, value, timestamp_ms, headers), now_s
        )
        return batch

    def append_many(
        self,
        queue: PartitionQueue | None,
        values: Sequence[bytes | None],
        timestamp_ms: int,
        now_s: float,
        keys: Sequence[bytes | None] | None = None,
    ) -> tuple[ProducerBatch, int]:
        """Add records without headers until a batch is full; keys: one for each value, or None.

        Returns:
            The batch and how many of the values, at least one, are its last records.

        Raises:
            RecordTooLargeError: The first of them alone exceeds the topic's limit.
        """
        batch = (queue or self.current).open
        if batch is not None:
            count = self._fill(batch, values, timestamp_ms, keys)
            if count:
                return batch, count
        return self._begin(
            queue, lambda batch: self._fill(batch, values, timestamp_ms, keys), now_s
        )

    def _begin(
        self, queue: PartitionQueue | None, add: Callable[[ProducerBatch], int], now_s: float
    ) -> tuple[ProducerBatch, int]:
        """Seal the full batch, if any, and add to the next; return it and what `add` returned."""
        full = queue or self.current
        left_early = full.open is None
        if full.open is not None:
            full.seal()
        if queue is None and not (left_early and self._keeps_turn()):
            full = self.turn()
            if full.open is not None:  # the next partition has a batch of keyed records
                count = add(full.open)
                if count:
                    return full.open, count
                full.seal()
        batch = full.open_batch(now_s)
        try:
            count = add(batch)
            self._check_size(batch.size_bytes)
        except BaseException:
            self.ledger.used_bytes -= batch.size_bytes - HEADER_BYTES
            full.open = None
            raise
        assert count, "the first record always fits"
        return batch, count

    def _keeps_turn(self) -> bool:
        """Whether the next batch is `current`'s too, now that its last one left early."""
        queue = self.current
        if not queue.in_flight or queue.sealed or queue.leader_id < 0:
            return False  # all is answered, or something was refused
        self.turn_bytes += queue.in_flight[-1].size_bytes
        return self.turn_bytes < _TURN_BYTES

    def _put(
        self,
        batch: ProducerBatch,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[Header],
    ) -> int:
        """Add one record; 0 when the batch is full."""
        size_bytes = batch.settle().append(key, value, timestamp_ms, headers)
        if size_bytes is None:
            return 0
        self.ledger.used_bytes += size_bytes
        return 1

    def _fill(
        self,
        batch: ProducerBatch,
        values: Sequence[bytes | None],
        timestamp_ms: int,
        keys: Sequence[bytes | None] | None,
    ) -> int:
        builder = batch.settle()
        before_bytes = builder.size_bytes
        try:
            return builder.append_many(values, timestamp_ms, keys)
        finally:
            self.ledger.used_bytes += builder.size_bytes - before_bytes

    def may_refuse(self, size_bytes: int) -> bool:
        """Whether a batch of one record, so large, exceeds the topic's limit."""
        return self.record_bytes_max is not None and size_bytes > self.record_bytes_max

    def _check_size(self, size_bytes: int) -> None:
        if not self.may_refuse(size_bytes):
            return
        raise RecordTooLargeError(
            f"the record makes a batch of {size_bytes} bytes, topic {self.info.name!r} allows"
            f" {self.record_bytes_max} (max.message.bytes); it was not sent",
            field="max.message.bytes",
            value=size_bytes,
            limit=self.record_bytes_max,
        )


def _batch_bytes_max(info: TopicInfo) -> int:
    """Return what the topic takes; settings that only a newer cluster knows are none of ours."""
    known = {key: text for key, text in info.config.items() if key == _MAX_MESSAGE_BYTES}
    return parse_topic_config(known).max_message_bytes

"""One replica hosted here: performs what its core decides, and lets producers and readers wait.

The append path, one step without an await: size, header and CRC of each batch -> producer window ->
stamped and written by the log -> the core. Then the group commit calls `on_synced`, the core moves
the high watermark, and everything that waited below it is told.

Invariants: nothing is acknowledged above the high watermark (`Acks.LEADER`: above what is on this
node's disk), or by a node whose session has lapsed; whoever waits is answered once, at the latest
by `resign`; readers are woken in the same step in which the high watermark moves.

Source: Kafka's Partition and DelayedProduce; SEMANTICS.md.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from odradek.node import metrics
from odradek.node.cluster.image import PartitionState, TopicState, not_leader
from odradek.node.replication.leader import Effect, Incarnations, LeaderReplica
from odradek.node.replication.session import HighWatermarkAdvanced
from odradek.node.replication.waiting import AckQueue, FutureWaiter, Pending, Reader, Waiter
from odradek.node.storage.log import Appended, PartitionLog
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    InvalidTimestampError,
    InvalidTxnStateError,
    NotEnoughReplicasError,
    StorageError,
    StorageFullError,
    ThrottledError,
)
from odradek.protocol.hot import Acks, Buffer
from odradek.protocol.record_batch import BatchHeader, split, validate
from odradek.protocol.topic_config import Flush, TimestampType, TopicConfig, parse_topic_config
from odradek.protocol.types import FIRST_OFFSET, LeaderEpoch, NodeId, Offset

UNCOMMITTED_BYTES_MAX: Final = 16 << 20
CheckedBatch: TypeAlias = tuple[memoryview, BatchHeader]

_NO_TIME: Final = -1
_UNKNOWN_OFFSET: Final = Offset(-1)


@dataclass(frozen=True, slots=True)
class ReplicaSurroundings:
    """What every replica of a node shares.

    Attributes:
        node_id: This node.
        lapsed: Why nothing may be acknowledged at the moment, or None.
        unsynced: Called when a replica has appended something that awaits a group commit.
        incarnations: The nodes that are not fenced, as of the image in force.
    """

    node_id: NodeId
    lapsed: Callable[[], BrokerError | None]
    unsynced: Callable[["PartitionReplica"], None]
    incarnations: Callable[[], Incarnations] = dict


class PartitionReplica:
    """A replica of one partition on this node."""

    def __init__(
        self,
        log: PartitionLog,
        topic: TopicState,
        partition: PartitionState,
        surroundings: ReplicaSurroundings,
    ) -> None:
        self.log = log
        self.topic = topic
        self.partition = partition
        self.config: TopicConfig = parse_topic_config(topic.config)
        self.readers: set[Reader] = set()
        """Subscribers of this replica that have read everything they may."""
        self.subscribers: set[Reader] = set()
        self._surroundings = surroundings
        self._core: LeaderReplica | None = None
        self._synced_end = log.log_end_offset
        self._failure: BrokerError | None = None
        """Why nothing can be appended until a new leader epoch begins."""
        self._unsynced: deque[tuple[int, Offset]] = deque()
        self._uncommitted = AckQueue()
        self._waiting_for_disk = AckQueue()

    def __str__(self) -> str:
        return f"{self.topic.name}-{self.partition.index}"

    # What others ask

    @property
    def is_leader(self) -> bool:
        """Whether this node leads the partition."""
        return self._core is not None

    @property
    def leader_epoch(self) -> LeaderEpoch:
        """The partition's leader epoch as this node knows it."""
        return self.partition.leader_epoch

    @property
    def log_start_offset(self) -> Offset:
        """The first offset still kept."""
        return self.log.log_start_offset

    @property
    def log_end_offset(self) -> Offset:
        """The offset after the last appended record (exclusive end)."""
        return self.log.log_end_offset

    @property
    def high_watermark(self) -> Offset:
        """The end of what is committed; only a leader knows it."""
        return self._core.high_watermark if self._core is not None else FIRST_OFFSET

    @property
    def last_stable_offset(self) -> Offset:
        """The end of what is decided: equals the high watermark while no transaction is open."""
        return self.high_watermark

    @property
    def reached_epoch_start(self) -> bool:
        """Whether everything earlier leaders committed is known to be committed."""
        return self._core is not None and self._core.reached_epoch_start

    def not_leader(self) -> BrokerError:
        """Make the error for a request that needs the leader."""
        return not_leader(self.topic, self.partition)

    # Roles

    def become_leader(self) -> None:
        """Lead, as `partition` says; resign first when leading already."""
        assert self._core is None, "resign first"
        if not self._unsynced:
            self._synced_end = self.log.log_end_offset
        self._failure = None
        self._core = LeaderReplica(
            self._surroundings.node_id,
            self.partition,
            self._surroundings.incarnations(),
            min_insync=self._min_insync(),
            log_end=self.log.log_end_offset,
            durable_end=self._synced_end,
            high_watermark=min(self.log.high_watermark_checkpoint, self._synced_end),
            now_s=time.monotonic(),
        )
        self._perform(self._core.start())

    def resign(self, error: BrokerError) -> None:
        """Lead no longer: tell everybody who waits that the outcome is unknown, and why."""
        self._core = None
        self._fail_waiters(error)
        subscribers, self.subscribers, self.readers = self.subscribers, set(), set()
        for subscriber in subscribers:
            subscriber.end(error)

    def _fail_waiters(self, error: BrokerError) -> None:
        for each in (*self._uncommitted.take_all(), *self._waiting_for_disk.take_all()):
            assert each.waiter is not None
            each.waiter.failed(each.index, error)

    def update(self, topic: TopicState, partition: PartitionState) -> None:
        """Take over settings and ISR that changed within one leader epoch."""
        if topic.config != self.topic.config:
            self.config = parse_topic_config(topic.config)
        self.topic, self.partition = topic, partition
        if self._core is not None:
            incarnations = self._surroundings.incarnations()
            self._perform(
                self._core.on_image(partition, incarnations, self._min_insync(), time.monotonic())
            )

    def _min_insync(self) -> int:
        return self.config.min_insync(len(self.partition.replicas))

    # Appending

    def produce(self, records: Buffer, acks: Acks, waiter: Waiter, index: int) -> None:
        """Append a producer's batches; `waiter` is told about `index` once they are acknowledged.

        Raises:
            BrokerError: Nothing was appended, or, of several batches, only those before the bad one
                (which a repeat would find to be duplicates).
        """
        core = self._core
        if core is None:
            raise self.not_leader()
        if self.lost_track:
            raise self._failure or StorageFullError("the node is recovering from a full disk")
        self._admit(core, acks)
        now_ms = time.time_ns() // 1_000_000
        batches = self._checked(records, now_ms)
        by_broker = self.config.timestamp_type is TimestampType.LOG_APPEND_TIME
        base_offset, end = self._append(core, batches, now_ms, by_broker=by_broker)
        metrics.PRODUCED_BYTES.inc(len(records))
        if self.config.flush is Flush.OS:
            self._synced(self.log.log_end_offset)
        time_ms = now_ms if by_broker else _NO_TIME
        self._wait(Pending(end, 0, waiter, index, base_offset, time_ms), acks)

    def _append(
        self, core: LeaderReplica, batches: list[CheckedBatch], now_ms: int, *, by_broker: bool
    ) -> tuple[Offset, Offset]:
        """Append checked batches; return the first one's offset and where the wait for all ends."""
        base_offset: Offset | None = None
        end = FIRST_OFFSET
        for batch, header in batches:
            try:
                appended = self.log.append(
                    batch, header, self.leader_epoch, now_ms, log_append_time=by_broker
                )
            except ThrottledError as error:
                if base_offset is None:
                    raise
                # The caller would try all of them again, and append the first ones twice.
                raise StorageError("the disk fell behind between two batches") from error
            if not appended.is_duplicate:
                self._appended(core, appended, header)
            if appended.base_offset is None or appended.last_offset is None:
                # A duplicate too old to know where it lies: wait for all that is there.
                first, end = _UNKNOWN_OFFSET, self.log.log_end_offset
            else:
                first, end = appended.base_offset, max(end, Offset(appended.last_offset + 1))
            base_offset = first if base_offset is None else base_offset
        assert base_offset is not None, "there is at least one batch"
        return base_offset, end

    def _admit(self, core: LeaderReplica, acks: Acks) -> None:
        if acks is Acks.ALL and not core.has_enough_replicas:
            raise NotEnoughReplicasError(
                f"partition {self} has {len(core.isr)} in-sync replicas,"
                f" {core.min_insync} are needed",
                field="min.insync.replicas",
                value=len(core.isr),
                limit=core.min_insync,
            )
        if self._uncommitted.size_bytes >= UNCOMMITTED_BYTES_MAX:
            raise ThrottledError(
                f"partition {self} has {self._uncommitted.size_bytes} bytes not committed yet",
                field="partition",
                value=self._uncommitted.size_bytes,
                limit=UNCOMMITTED_BYTES_MAX,
            )

    def _checked(self, records: Buffer, now_ms: int) -> list[CheckedBatch]:
        bytes_max = self.config.max_message_bytes
        batches = [(batch, validate(batch, bytes_max)) for batch in split(records)]
        if not batches:
            raise InvalidRequestError("no record batch was sent", field="records")
        for _, header in batches:
            self._check(header, now_ms)
        return batches

    def _check(self, header: BatchHeader, now_ms: int) -> None:
        if header.is_transactional:
            raise InvalidTxnStateError(
                "transactions come later; send without a transactional id",
                field="attributes.transactional",
                value=True,
            )
        ahead_max_ms = int(self.config.timestamp_ahead_max_s * 1000)
        if header.max_timestamp - now_ms > ahead_max_ms and (
            self.config.timestamp_type is TimestampType.CREATE_TIME
        ):
            raise InvalidTimestampError(
                f"the batch's latest timestamp is {header.max_timestamp - now_ms} ms ahead of the"
                f" node's clock, topic {self.topic.name!r} allows {ahead_max_ms}",
                field="max_timestamp",
                value=header.max_timestamp,
                limit=now_ms + ahead_max_ms,
            )

    def _appended(self, core: LeaderReplica, appended: Appended, header: BatchHeader) -> None:
        end = self.log.log_end_offset
        self._perform(core.on_appended(end))
        if self.config.flush is Flush.COMMIT:
            self._unsynced.append((appended.position, end))
            self._surroundings.unsynced(self)
        self._uncommitted.add(Pending(end, header.size_bytes, None, 0, end, _NO_TIME))

    def _wait(self, pending: Pending, acks: Acks) -> None:
        """Let the waiter stand where its end belongs; a duplicate joins the original's wait."""
        if acks is Acks.ALL:
            done, queue = self.high_watermark, self._uncommitted
        else:
            done, queue = self._synced_end, self._waiting_for_disk
        if pending.end <= done:
            self._answer([pending])
            return
        queue.add(pending)

    # Committing

    def on_synced(self, durable_position: int) -> bool:
        """The group commit reached a position; return whether nothing of this replica is left."""
        unsynced = self._unsynced
        end = None
        while unsynced and unsynced[0][0] <= durable_position:
            _, end = unsynced.popleft()
        if end is not None:
            self._synced(end)
        return not unsynced

    def on_storage_failed(self, error: BrokerError) -> None:
        """What was appended may be gone: refuse writes until a new epoch begins; reads go on."""
        self._unsynced.clear()
        if self._core is not None:
            self._failure = error
            self._fail_waiters(error)

    @property
    def lost_track(self) -> bool:
        """Whether the log may not be where this leader left it, after its disk was full."""
        core = self._core
        return core is not None and (
            self._failure is not None or core.log_end_offset != self.log.log_end_offset
        )

    def _synced(self, end: Offset) -> None:
        self._synced_end = max(self._synced_end, end)
        if self._core is None:
            return
        self._answer(self._waiting_for_disk.take_through(self._synced_end))
        self._perform(self._core.on_durable(self._synced_end))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, HighWatermarkAdvanced):
                self._answer(self._uncommitted.take_through(effect.offset))
                readers, self.readers = self.readers, set()
                for reader in readers:
                    reader.wake()

    def _answer(self, answered: list[Pending]) -> None:
        if not answered:
            return
        lapsed = self._surroundings.lapsed()
        for each in answered:
            assert each.waiter is not None
            if lapsed is not None:
                each.waiter.failed(each.index, lapsed)
            else:
                each.waiter.committed(
                    each.index, each.base_offset, each.log_append_time_ms, self.log_start_offset
                )

    # For the coordinators on this node

    def append(self, batch: bytes) -> Awaitable[Offset]:
        """Append one batch as the leader; the result is its base offset, once it is committed.

        Raises:
            BrokerError: Not the leader, or storage full; when awaited: resigned meanwhile, outcome
                unknown.
        """
        waiter = FutureWaiter()
        self.produce(batch, Acks.ALL, waiter, 0)
        return waiter.future

    async def confirm_leadership(self) -> None:
        """Return once the ISR agrees that this node leads, and the past is known to be committed.

        Raises:
            NotLeaderOrFollowerError: It does not lead, or may have been replaced.
        """
        if self._core is None:
            raise self.not_leader()
        if not self.reached_epoch_start:
            waiter = FutureWaiter()
            start = self._core.epoch_start
            self._uncommitted.add(Pending(start, 0, waiter, 0, start, _NO_TIME))
            await waiter.future
        # Alone in the ISR the session is proof: whoever replaces this node waits for its end.
        lapsed = self._surroundings.lapsed()
        if lapsed is not None:
            raise lapsed

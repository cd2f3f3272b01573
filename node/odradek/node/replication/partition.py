"""One replica hosted here: performs what its cores decide, and lets producers and readers wait.

The append path, one step without an await: size, header and CRC of each batch -> producer window ->
stamped and written by the log -> the core -> pushed to followers. Then the group commit calls
`on_synced`, followers acknowledge, the core moves the high watermark, and everything that waited
below it is told.

Invariants: nothing is acknowledged above the high watermark (`Acks.LEADER`: above what is on this
node's disk), or by a node whose session has lapsed; whoever waits is answered once, at the latest
by `resign`; readers are woken in the same step in which the high watermark moves.

Source: Kafka's Partition and DelayedProduce; SEMANTICS.md.
"""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from odradek.node import metrics
from odradek.node.cluster.image import PartitionState, TopicState, not_leader
from odradek.node.replication.checks import checked, timestamp_refusal
from odradek.node.replication.durable_end import DurableEnd
from odradek.node.replication.following import Following
from odradek.node.replication.leader import LeaderReplica
from odradek.node.replication.leading import Leading
from odradek.node.replication.surroundings import ReplicaSurroundings
from odradek.node.replication.waiting import AckQueue, FutureWaiter, Pending, Reader, Waiter
from odradek.node.storage.log import Appended, PartitionLog
from odradek.node.storage.log_reader import DamagedBatchError, TimestampOffset
from odradek.node.storage.store import DamagedTableError
from odradek.protocol.errors import (
    BrokerError,
    NotEnoughReplicasError,
    StorageFullError,
    ThrottledError,
)
from odradek.protocol.hot import Acks, Buffer
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.topic_config import Flush, TimestampType, TopicConfig, parse_topic_config
from odradek.protocol.types import FIRST_OFFSET, NO_NODE, LeaderEpoch, Offset

T = TypeVar("T")

UNCOMMITTED_BYTES_MAX: Final = 16 << 20
_REPEAT_BYTES: Final = 1024  # what a waiting repeat, of which nothing is appended, costs at most
_NO_TIME: Final = -1
_UNKNOWN_OFFSET: Final = Offset(-1)


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
        self.uid = partition.uid
        self.topic = topic
        self.partition = partition
        self.config: TopicConfig = parse_topic_config(topic.config)
        self.readers: set[Reader] = set()
        """Subscribers of this replica that have read everything they may."""
        self.subscribers: set[Reader] = set()
        self.leading: Leading | None = None
        """Set while this node leads."""
        self.following: Following | None = None
        """Set while another node leads."""
        self._surroundings = surroundings
        self._links = surroundings.links
        self._durable = DurableEnd(log.log_end_offset)
        self._known_high_watermark = log.high_watermark_checkpoint
        self._failure: BrokerError | None = None
        """Why nothing can be appended until a new leader epoch begins."""
        self._uncommitted = AckQueue()
        self._waiting_for_disk = AckQueue()

    def __str__(self) -> str:
        return f"{self.topic.name}-{self.partition.index}"

    # What others ask

    @property
    def is_leader(self) -> bool:
        """Whether this node leads the partition."""
        return self.leading is not None

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
        """The end of what is known to be committed; 0 while there is no leader."""
        if self.leading is not None:
            return self.leading.core.high_watermark
        return FIRST_OFFSET if self.following is None else self.following.core.high_watermark

    @property
    def last_stable_offset(self) -> Offset:
        """The end of what is decided; the high watermark while there are no transactions."""
        return self.high_watermark

    @property
    def reached_epoch_start(self) -> bool:
        """Whether everything earlier leaders committed is known to be committed."""
        return self.leading is not None and self.leading.core.reached_epoch_start

    def not_leader(self) -> BrokerError:
        """Make the error for a request that needs the leader."""
        return not_leader(self.topic, self.partition)

    # Roles

    def take_role(self) -> None:
        """Lead or follow, as `partition` says; resign first when there is a role already."""
        assert self.leading is None, "resign first"
        assert self.following is None, "resign first"
        if self._durable.begin_role(self.log.last_position, self.log.log_end_offset):
            self._surroundings.unsynced(self)
        self._failure = None
        if self.partition.leader_id == self._surroundings.node_id:
            self._become_leader()
        elif self.partition.leader_id != NO_NODE:
            self._follow()

    def _become_leader(self) -> None:
        core = LeaderReplica(
            self._surroundings.node_id,
            self.partition,
            self._surroundings.incarnations(),
            min_insync=self._min_insync(),
            log_end=self.log.log_end_offset,
            durable_end=self._durable.end,
            high_watermark=min(self._known_high_watermark, self._durable.end),
            now_s=time.monotonic(),
        )
        self.leading = Leading(core, self.log, self, self._links, self._on_advanced)
        self.leading.perform(core.start())
        self._links.lead(self)

    def _follow(self) -> None:
        self.following = Following(
            self.log,
            self.partition,
            self._durable,
            high_watermark=min(self._known_high_watermark, self.log.log_end_offset),
            new_session=self._surroundings.new_session,
            counts_page_cache=lambda: self.config.flush is Flush.OS,
            announce=lambda announcement: self._links.announce(self, announcement),
            ack=lambda ack: self._links.ack(self, ack),
            unsynced=lambda: self._surroundings.unsynced(self),
            storage_refused=self._surroundings.storage_refused,
        )
        self._links.follow(self)

    def resign(self, error: BrokerError) -> None:
        """Lead or follow no longer: tell everybody who waits that the outcome is unknown."""
        if self.following is not None or self.leading is not None:
            self._known_high_watermark = self.high_watermark
        if self.following is not None:
            self._links.unfollow(self)
            self.following = None
        self.leading = None
        self._fail_waiters(error)
        subscribers, self.subscribers, self.readers = self.subscribers, set(), set()
        for subscriber in subscribers:
            subscriber.end(error)

    def _fail_waiters(self, error: BrokerError) -> None:
        for each in (*self._uncommitted.take_all(), *self._waiting_for_disk.take_all()):
            assert each.waiter is not None
            each.waiter.failed(each.index, error)

    def update(self, topic: TopicState, partition: PartitionState) -> None:
        """Take over settings, ISR and live nodes that changed within one leader epoch."""
        if topic.config != self.topic.config:
            self.config = parse_topic_config(topic.config)
        self.topic, self.partition = topic, partition
        if self.leading is not None:
            incarnations, now_s = self._surroundings.incarnations(), time.monotonic()
            core = self.leading.core
            self.leading.perform(core.on_image(partition, incarnations, self._min_insync(), now_s))

    def on_tick(self, now_s: float) -> None:
        """Time has passed: about once a second."""
        if self.leading is not None:
            self.leading.on_tick(now_s)
        elif self.following is not None:
            self.following.on_tick(now_s)

    def _min_insync(self) -> int:
        # Replicas being added do not count before they are all there; as the controller has it.
        partition = self.partition
        return self.config.min_insync(len(partition.replicas) - len(partition.adding_replicas))

    # Appending

    def produce(self, records: Buffer, acks: Acks, waiter: Waiter, index: int) -> None:
        """Append a producer's batch; `waiter` is told about `index` once it is acknowledged.

        Raises:
            BrokerError: Nothing was appended.
        """
        leading = self.leading
        if leading is None:
            raise self.not_leader()
        if self.lost_track:
            raise self._failure or StorageFullError("the node is recovering from a full disk")
        self._admit(leading, acks)
        wall_ms = time.time_ns() // 1_000_000
        header = checked(records, self.config)
        refusal = timestamp_refusal(header, self.config, self.topic.name, wall_ms)
        if refusal is not None and not self.log.holds(header):
            raise refusal
        by_broker = self.config.timestamp_type is TimestampType.LOG_APPEND_TIME
        appended = self.log.append(
            records,
            header,
            self.leader_epoch,
            time.monotonic_ns() // 1_000_000,
            append_time_ms=wall_ms if by_broker else _NO_TIME,
        )
        waiting_bytes = _REPEAT_BYTES
        if not appended.is_duplicate:
            waiting_bytes = 0
            self._appended(leading, appended, header)
        metrics.PRODUCED_BYTES.total += len(records)
        if appended.base_offset is None or appended.last_offset is None:
            # A duplicate too old to know where it lies: wait for all that is there.
            base_offset, end = _UNKNOWN_OFFSET, self.log.log_end_offset
        else:
            base_offset, end = appended.base_offset, Offset(appended.last_offset + 1)
        time_ms = appended.append_time_ms
        self._wait(Pending(end, waiting_bytes, waiter, index, base_offset, time_ms), acks)

    def _admit(self, leading: Leading, acks: Acks) -> None:
        if acks is Acks.ALL and not leading.core.has_enough_replicas:
            raise leading.not_enough(NotEnoughReplicasError)
        if self._uncommitted.size_bytes >= UNCOMMITTED_BYTES_MAX:
            raise ThrottledError(
                f"partition {self} has {self._uncommitted.size_bytes} bytes not committed yet",
                field="partition",
                value=self._uncommitted.size_bytes,
                limit=UNCOMMITTED_BYTES_MAX,
            )

    def _appended(self, leading: Leading, appended: Appended, header: BatchHeader) -> None:
        end = self.log.log_end_offset
        leading.perform(leading.core.on_appended(end))
        self._uncommitted.add(Pending(end, header.size_bytes, None, 0, end, _NO_TIME))
        if self.config.flush is Flush.COMMIT:
            self._durable.on_appended(appended.position, end)
            self._surroundings.unsynced(self)
        else:
            self._durable.take(end)
            self._on_durable()

    def _wait(self, pending: Pending, acks: Acks) -> None:
        """Let the waiter stand where its end belongs; a duplicate joins the original's wait."""
        if acks is Acks.ALL:
            done, queue = self.high_watermark, self._uncommitted
        else:
            done, queue = self._durable.end, self._waiting_for_disk
        if pending.end <= done:
            self._answer([pending])
            return
        queue.add(pending)

    # Committing

    def on_synced(self, durable_position: int) -> bool:
        """The group commit reached a position; return whether nothing of this replica is left."""
        if self.following is not None:
            self.following.find_track()
        if self._durable.on_synced(durable_position):
            self._on_durable()
        return not self._durable.awaits_sync

    def on_storage_failed(self, error: BrokerError) -> None:
        """What was appended may be gone: refuse writes until a new epoch begins; reads go on."""
        self._durable.on_storage_failed()
        if self.leading is not None:
            self._failure = error
            self._fail_waiters(error)
        elif self.following is not None:
            self.following.on_append_failed()

    def on_storage_recovered(self, position: int) -> None:
        """The store is back; what the log has now is on disk once a sync reaches the position."""
        if self._durable.on_storage_recovered(position, self.log.log_end_offset):
            self._surroundings.unsynced(self)

    @property
    def lost_track(self) -> bool:
        """Whether the log may not be where this leader left it, after its disk was full."""
        leading = self.leading
        return leading is not None and (self._failure is not None or leading.has_lost_track)

    def _on_durable(self) -> None:
        if self.following is not None:
            self.following.on_durable()
        elif self.leading is not None and not self.leading.has_lost_track:
            self._answer(self._waiting_for_disk.take_through(self._durable.end))
            self.leading.perform(self.leading.core.on_durable(self._durable.end))

    def _on_advanced(self, high_watermark: Offset) -> None:
        readers, self.readers = self.readers, set()
        for reader in readers:  # first: what they push leaves before the answers
            reader.wake()
        self._answer(self._uncommitted.take_through(high_watermark))

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

    # Reading

    async def read(self, offset: Offset, bytes_max: int, end: Offset) -> list[bytes]:
        """Return whole batches from the log, as `PartitionLog.read`; damaged ones are repaired.

        Raises:
            OffsetOutOfRangeError: Below the log start or beyond the log end.
            DamagedBatchError, DamagedTableError: And no other replica could help.
        """
        return await self._repairing(partial(self.log.read, offset, bytes_max, end), bytes_max)

    async def offset_for_timestamp(self, timestamp_ms: int) -> TimestampOffset | None:
        """Find a time, as `PartitionLog.offset_for_timestamp`; repairs and raises as `read`."""
        return await self._repairing(partial(self.log.offset_for_timestamp, timestamp_ms))

    async def max_timestamp(self) -> TimestampOffset | None:
        """Find the latest time, as `PartitionLog.max_timestamp`; repairs and raises as `read`."""
        return await self._repairing(self.log.max_timestamp)

    async def _repairing(self, look: Callable[[], Awaitable[T]], bytes_max: int = 1) -> T:
        try:
            return await look()
        except (DamagedBatchError, DamagedTableError) as damage:
            if not await self._links.repair(self, damage, bytes_max):
                raise
        return await look()

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
        if self.leading is None:
            raise self.not_leader()
        if not self.reached_epoch_start:
            waiter = FutureWaiter()
            start = self.leading.core.epoch_start
            self._uncommitted.add(Pending(start, 0, waiter, 0, start, _NO_TIME))
            await waiter.future
        await self._links.confirm_leadership(self)
        # What it says from now on it may say only while others may believe it.
        lapsed = self._surroundings.lapsed()
        if lapsed is not None:
            raise lapsed

"""The partitions hosted here: reconciled with metadata, found for requests, synced together.

Problem: ten thousand partitions, each of which may begin or end to be led at any update, while
requests that know the future already arrive. Idea: one step per metadata update changes exactly
what it names; a request with a newer leader epoch is parked until its image arrives; one group
commit serves every partition that appended since the last.

Invariants: after `reconcile` each hosted partition plays the role its image says; no task or timer
per partition.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from odradek.node import metrics
from odradek.node.cluster.image import (
    ClusterImage,
    ImageUpdate,
    PartitionState,
    TopicState,
    not_leader,
)
from odradek.node.cluster.view import ClusterView
from odradek.node.replication.leader import Incarnations
from odradek.node.replication.parked import ParkedRequests
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.surroundings import Alone, Links, ReplicaSurroundings
from odradek.node.storage.storage import Storage
from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    LeaderNotAvailableError,
    StorageFullError,
    ThrottledError,
    UnknownLeaderEpochError,
    UnknownTopicIdError,
)
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionIndex, PartitionUid, TopicId

_log = structlog.get_logger()

_TICK_S: Final = 0.25
_ROLE_TICK_S: Final = 1.0
_CHECKPOINT_S: Final = 5.0

Key = tuple[TopicId, PartitionIndex]


@dataclass(frozen=True, slots=True)
class RoleChanges:
    """What one update changed; a replica led under a new epoch is in both lists."""

    resigned: list[PartitionReplica] = field(default_factory=list)
    leading: list[PartitionReplica] = field(default_factory=list)


class Replicas:
    """Every replica of this node."""

    def __init__(
        self,
        node_id: NodeId,
        storage: Storage,
        view: ClusterView,
        *,
        lapsed: Callable[[], BrokerError | None],
        new_epochs_needed: Callable[[], None],
        links: Links | None = None,
    ) -> None:
        """Host nothing yet.

        Args:
            node_id: This node.
            storage: Where logs are.
            view: Already at the image that `reconcile` is told of.
            lapsed: Why nothing may be acknowledged at the moment, or None.
            new_epochs_needed: Called when the disk was full and logs may have lost their ends.
            links: To the other nodes; None when there are none.
        """
        self.node_id = node_id
        self._storage = storage
        self._view = view
        self._new_epochs_needed = new_epochs_needed
        self._surroundings = ReplicaSurroundings(
            node_id,
            lapsed,
            self._on_unsynced,
            incarnations=lambda: self._incarnations,
            links=links or Alone(),
            new_session=itertools.count(1).__next__,
            storage_refused=self.storage_refused,
        )
        self._incarnations: Incarnations = {}
        self._replicas: dict[Key, PartitionReplica] = {}
        self._by_uid: dict[PartitionUid, PartitionReplica] = {}
        self._unsynced: dict[PartitionReplica, None] = {}
        self._is_syncing = False
        self._parked = ParkedRequests(self.commit_soon)
        self.synced: Callable[[int], None] = lambda _: None
        """Told the durable position after every group commit."""
        self._to_drop: dict[PartitionUid, None] = {}
        self._storage_failed = False
        self._checkpointed_at_s = self._ticked_at_s = 0.0

    def __len__(self) -> int:
        return len(self._replicas)

    # Finding

    def get(self, topic_id: TopicId, index: PartitionIndex) -> PartitionReplica | None:
        """Return a replica hosted here."""
        return self._replicas.get((topic_id, index))

    def with_uid(self, uid: PartitionUid) -> PartitionReplica | None:
        """Return a replica hosted here."""
        return self._by_uid.get(uid)

    def find(
        self, topic_id: TopicId, topic: str, index: PartitionIndex, leader_epoch: LeaderEpoch
    ) -> PartitionReplica:
        """Return the replica a request is for, which this node leads.

        Args:
            topic_id: Decides; empty to go by name.
            topic: The name the client knows.
            index: Of the partition.
            leader_epoch: The epoch the client knows; -1 skips the check.

        Raises:
            UnknownTopicOrPartitionError, UnknownTopicIdError, InconsistentTopicIdError: No such.
            NotLeaderOrFollowerError, LeaderNotAvailableError: Not led by this node.
            FencedLeaderEpochError, UnknownLeaderEpochError: Another epoch than this node's.
        """
        replica = self._replicas.get((topic_id, index))
        if replica is None or (topic and topic != replica.topic.name):
            replica = self._find_slowly(topic_id, topic, index, leader_epoch)
        if -1 < leader_epoch != replica.leader_epoch:
            raise _other_epoch(str(replica), leader_epoch, replica.leader_epoch)
        if not replica.is_leader:
            raise replica.not_leader()
        return replica

    def _find_slowly(
        self, topic_id: TopicId, topic: str, index: int, leader_epoch: LeaderEpoch
    ) -> PartitionReplica:
        image = self._view.image
        if image.version == 0:
            raise LeaderNotAvailableError("this node has not joined its cluster yet")
        found = image.topic(topic_id, topic)
        partition = image.partition(found, index)
        replica = self._replicas.get((found.topic_id, partition.index))
        if replica is None:
            if leader_epoch > partition.leader_epoch:
                name = f"{found.name}-{index}"
                raise _other_epoch(name, leader_epoch, partition.leader_epoch)
            raise not_leader(found, partition)
        return replica

    def leader_hint(self, topic_id: TopicId, topic: str, index: int) -> tuple[int, int]:
        """Return leader and epoch of a partition as this node knows them; -1 when unknown."""
        return self._view.image.leader_of(topic_id, topic, index)

    # Metadata

    def reconcile(self, before: ClusterImage, update: ImageUpdate) -> RoleChanges:
        """Take the roles of the image in force, which `update` made out of `before`."""
        after = self._view.image
        changes = RoleChanges()
        nodes_before, self._incarnations = self._incarnations, self._may_be_in_sync()
        if update.snapshot:
            whole: Iterable[TopicId] = before.topics.keys() | after.topics.keys()
        else:
            whole = (*(topic.topic_id for topic in update.topics), *update.removed_topic_ids)
        for topic_id in whole:
            self._reconcile_topic(before.topics.get(topic_id), after.topics.get(topic_id), changes)
        for topic_id, partition in update.partitions:
            self._reconcile_partition(after.topics[topic_id], partition, changes)
        if nodes_before != self._incarnations:
            for replica in self._replicas.values():
                replica.update(replica.topic, replica.partition)
        metrics.PARTITIONS_LED.inc(len(changes.leading) - len(changes.resigned))
        self._parked.retry()
        return changes

    def _may_be_in_sync(self) -> Incarnations:
        return {
            node.node_id: node.incarnation
            for node in self._view.image.nodes.values()
            if not node.fenced and (not node.stopping or node.node_id == self.node_id)
        }

    def _reconcile_topic(
        self, before: TopicState | None, after: TopicState | None, changes: RoleChanges
    ) -> None:
        if after is None:
            if before is not None:
                self._remove_topic(before, changes)
            return
        for partition in after.partitions:
            self._reconcile_partition(after, partition, changes)

    def _reconcile_partition(
        self, topic: TopicState, partition: PartitionState, changes: RoleChanges
    ) -> None:
        if self.node_id in partition.replicas:
            self._host(topic, partition, changes)
        elif (topic.topic_id, partition.index) in self._replicas:
            self._remove(topic, partition, not_leader(topic, partition), changes)

    def _remove_topic(self, topic: TopicState, changes: RoleChanges) -> None:
        error = UnknownTopicIdError(
            f"topic {topic.name!r} was deleted", field="topic", value=topic.name
        )
        for partition in topic.partitions:
            self._remove(topic, partition, error, changes)

    def _host(self, topic: TopicState, partition: PartitionState, changes: RoleChanges) -> None:
        key = (topic.topic_id, partition.index)
        replica = self._replicas.get(key)
        leads = partition.leader_id == self.node_id
        if replica is None:
            log = self._storage.log(partition.uid)
            replica = PartitionReplica(log, topic, partition, self._surroundings)
            self._replicas[key] = self._by_uid[partition.uid] = replica
        elif partition.leader_epoch == replica.leader_epoch and leads == replica.is_leader:
            if partition is not replica.partition or topic is not replica.topic:
                replica.update(topic, partition)
            return
        else:
            if replica.is_leader:
                changes.resigned.append(replica)
            replica.resign(not_leader(topic, partition))
            replica.update(topic, partition)
        replica.take_role()
        if leads:
            changes.leading.append(replica)

    def _remove(
        self,
        topic: TopicState,
        partition: PartitionState,
        error: BrokerError,
        changes: RoleChanges,
    ) -> None:
        replica = self._replicas.pop((topic.topic_id, partition.index), None)
        if replica is None:
            return
        if replica.is_leader:
            changes.resigned.append(replica)
        replica.resign(error)
        del self._by_uid[replica.uid]
        self._unsynced.pop(replica, None)
        self.drop_data(replica.uid)

    def drop_data(self, uid: PartitionUid) -> None:
        """Remove what is stored of a partition that is not here any more."""
        assert uid not in self._by_uid
        self._to_drop[uid] = None
        self._drop_logs()

    def _drop_logs(self) -> None:
        """Remove the data of partitions that are gone; what a write stall refuses waits a tick."""
        with suppress(ThrottledError, StorageFullError):
            for uid in self._to_drop.keys() - self._by_uid.keys():  # some may be back by now
                self._storage.drop(uid)
                del self._to_drop[uid]

    def park(
        self,
        size_bytes: int,
        deadline_s: float,
        retry: Callable[[], bool],
        give_up: Callable[[], None],
    ) -> bool:
        """Keep a request that knows more than this node; see `ParkedRequests.park`."""
        return self._parked.park(size_bytes, deadline_s, retry, give_up)

    # Group commit

    @property
    def has_room(self) -> bool:
        """Whether an append may happen now."""
        return self._storage.group_commit.has_room and not self._parked.is_behind

    async def room(self) -> None:
        """Wait until `has_room`."""
        self.commit_soon()
        await self._parked.caught_up()
        await self._storage.group_commit.room()

    @property
    def durable_position(self) -> int:
        """How far the group commit has come."""
        return self._storage.group_commit.durable

    @property
    def awaited_position(self) -> int:
        """How far it must come for everything to be on disk."""
        commit = self._storage.group_commit
        return commit.appended if self._unsynced else commit.durable

    def commit_soon(self, *, hurry: bool = False) -> None:
        """Have everything appended so far synced, with whatever joins before the disk is asked."""
        if self._unsynced and not self._is_syncing:
            self._is_syncing = True
            commit = self._storage.group_commit
            commit.call_when_durable(commit.appended, self._on_synced, hurry=hurry)

    def _on_unsynced(self, replica: PartitionReplica) -> None:
        self._unsynced[replica] = None

    def _on_synced(self, error: BaseException | None) -> None:
        self._is_syncing = False
        if error is not None:  # if no BrokerError, the process is ending
            if isinstance(error, BrokerError):
                self._on_storage_failed(error)
            return
        durable = self.durable_position
        if self.awaited_position > durable:
            self.commit_soon(hurry=True)  # first: the disk works while these are answered
        synced = [replica for replica in self._unsynced if replica.on_synced(durable)]
        for replica in synced:
            self._unsynced.pop(replica, None)
        self.synced(durable)
        self.commit_soon()

    def _on_storage_failed(self, error: BrokerError) -> None:
        self._storage_failed = True
        self._unsynced.clear()
        _log.error("storage failed", reason=error.message)
        for replica in self._replicas.values():
            replica.on_storage_failed(error)

    # Upkeep

    async def run(self) -> None:
        """Look after what no event announces: deadlines, recovery from a full disk, checkpoints."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._parked.tick()
            if self._to_drop:
                self._drop_logs()
            self._recover_from_full_disk()
            self.commit_soon()  # what a full disk, or a change of roles, left without an append
            now_s = time.monotonic()
            if now_s - self._ticked_at_s >= _ROLE_TICK_S:
                self._ticked_at_s = now_s
                for replica in self._replicas.values():
                    replica.on_tick(now_s)
            if now_s - self._checkpointed_at_s >= _CHECKPOINT_S:
                self._checkpointed_at_s = now_s
                self.checkpoint()

    def storage_refused(self) -> None:
        """An append met a full disk: once there is room, see whether logs lost their ends."""
        self._storage_failed = True

    def _recover_from_full_disk(self) -> None:
        if not self._storage_failed or self._storage.is_full:
            return
        self._storage_failed = False
        for replica in self._replicas.values():
            replica.on_storage_recovered(self._storage.group_commit.appended)
        if any(replica.lost_track for replica in self._replicas.values()):
            _log.warning("logs lost their unsynced ends to a full disk; asking for new epochs")
            self._new_epochs_needed()

    def checkpoint(self) -> None:
        """Note high watermarks that moved, so that a restart knows a lower bound of them."""
        if self._storage.is_full:
            return
        with suppress(ThrottledError, StorageFullError):
            for replica in self._replicas.values():
                if replica.high_watermark > replica.log.high_watermark_checkpoint:
                    replica.log.checkpoint_high_watermark(replica.high_watermark)

    def resign_all(self, error: BrokerError) -> None:
        """Lead and follow nothing any more: the node is stopping."""
        for replica in self._replicas.values():
            replica.resign(error)


def _other_epoch(name: str, theirs: LeaderEpoch, ours: LeaderEpoch) -> BrokerError:
    kind = FencedLeaderEpochError if theirs < ours else UnknownLeaderEpochError
    return kind(
        f"partition {name} is in leader epoch {ours}, the request says {theirs}",
        field="leader_epoch",
        value=theirs,
        limit=ours,
    )

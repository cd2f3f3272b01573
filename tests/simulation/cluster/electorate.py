"""Whoever may lead has everything: the invariant that all others follow from, checked all the time.

A bug that lets the wrong replica into an ISR shows as a lost record only if that replica is elected
before it catches up, which takes it milliseconds. So the oracle does not wait for that: after each
decision of the controllers, each commitment, and each truncation, it looks at the disks of all who
may lead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from odradek.controller.state.elections import min_insync, topic_of
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.records import (
    Partition,
    PartitionChanged,
    Record,
    Topic,
    TopicConfigChanged,
)
from odradek.protocol.types import (
    NO_NODE,
    Incarnation,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionUid,
    TopicId,
)
from tests.simulation.cluster.oracle import Oracle, check

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode


@dataclass(slots=True)
class Electorate:
    """Who may lead, as decided last, and what is on their disks.

    Attributes:
        nodes: All there are.
        oracle: Knows what is committed.
        pages: The partitions of topics with `flush=os`.
    """

    nodes: Mapping[NodeId, "SimulatedNode"]
    oracle: Oracle
    pages: frozenset[PartitionUid]
    _topics: dict[TopicId, Topic] = field(default_factory=dict)
    _partitions: dict[PartitionUid, Partition] = field(default_factory=dict)
    _leaders: dict[tuple[PartitionUid, LeaderEpoch], Incarnation] = field(default_factory=dict)

    def on_image(self, image: ClusterImage, records: Iterable[Record]) -> None:
        """Something was decided: several steps at once, perhaps, each with its own ISR and ELR."""
        steps = [each.partition for each in records if isinstance(each, PartitionChanged)]
        changed = [each for each in records if isinstance(each, TopicConfigChanged)]
        for partition in steps:
            before = self._partitions[partition.uid]
            _check_epochs(before, partition)
            topic = topic_of(image, partition)
            # What follows from new settings comes before them.
            configs = [each.config for each in changed if each.topic_id == topic.topic_id]
            configs.append(self._topics[topic.topic_id].config)
            minimum = min(min_insync(config, partition) for config in configs)
            self._check_eligible(before, partition, minimum)
            self._partitions[partition.uid] = partition
        self._partitions, self._topics = dict(image.partitions), dict(image.topics)
        alive = {node.node_id for node in image.nodes.values() if not node.fenced}
        stopping = {node.node_id for node in image.nodes.values() if node.stopping}
        for partition in image.partitions.values():
            _check_members(image, partition, alive, stopping)
            if partition.is_led:
                self._check_leader(image, partition)
        for uid in {partition.uid for partition in steps}:
            self.on_committed(uid)

    def on_committed(self, uid: PartitionUid) -> None:
        """A leader believes that more is committed, or others may lead: look at all who may."""
        partition = self._partitions.get(uid)
        if partition is not None:
            for node_id in (*partition.isr, *partition.elr):
                self._check(partition, node_id)

    def on_told(self, node_id: NodeId) -> None:
        """The controllers know what a node has lost: where it may lead still, it has everything."""
        for partition in self._partitions.values():
            if node_id in (*partition.isr, *partition.elr):
                self._check(partition, node_id)

    def on_truncated(self, uid: PartitionUid, node_id: NodeId) -> None:
        """A replica has cut its log."""
        partition = self._partitions[uid]
        if node_id in partition.isr or node_id in partition.elr:
            self._check(partition, node_id)

    def on_claimed(self, uid: PartitionUid, node_id: NodeId, end: Offset) -> None:
        """A replica says how much of its log is on disk."""
        log = self.nodes[node_id].disk.log(uid)
        check(
            uid in self.pages or log.is_durable(end),
            "only what is on disk is acknowledged",
            "{} of {} by node {}",
            end,
            uid,
            node_id,
        )

    def _check(self, partition: Partition, node_id: NodeId) -> None:
        uid, disk = partition.uid, self.nodes[node_id].disk
        keeps_only_pages = uid in self.pages
        if not disk.is_intact(pages_too=keeps_only_pages):
            return  # the controllers are yet to be told
        committed = self.oracle.committed_batches(uid)
        if not committed:
            return
        log, index = disk.log(uid), len(committed) - 1
        check(
            index < len(log.batches)
            and log.batches[index].crc == committed[index].crc
            and (keeps_only_pages or log.is_durable(committed[index].next_offset)),
            "whoever may lead has everything committed",
            "node {} has {} of {} batches: {}",
            node_id,
            len(log.batches),
            len(committed),
            partition,
        )

    def _check_leader(self, image: ClusterImage, partition: Partition) -> None:
        incarnation = image.nodes[partition.leader].incarnation
        led = partition.uid, partition.leader_epoch
        known = self._leaders.setdefault(led, incarnation)
        check(
            known == incarnation,
            "one registration leads in an epoch",
            "{} and {} in {}",
            known,
            incarnation,
            partition,
        )

    def _check_eligible(self, before: Partition, after: Partition, minimum: int) -> None:
        trusted, still = {*before.isr, *before.elr}, {*after.isr, *after.elr}
        gone = {each for each in trusted - still if not self.nodes[each].disk.has_lost}
        are_spared = gone.isdisjoint(after.replicas) and len(still) >= min(minimum, len(trusted))
        check(
            not gone or are_spared or len(after.isr) >= minimum,
            "below the minimum, only who lost data or can be spared is not eligible any more",
            "{} after {}",
            after,
            before,
        )


def _check_members(
    image: ClusterImage, partition: Partition, alive: set[NodeId], stopping: set[NodeId]
) -> None:
    isr, elr = frozenset(partition.isr), frozenset(partition.elr)
    check(
        isr <= alive
        and (partition.leader == NO_NODE or partition.leader in isr)
        and isr.isdisjoint(elr)
        and isr | elr <= frozenset(partition.replicas)
        and (not elr or len(isr) < min_insync(topic_of(image, partition).config, partition)),
        "leader, ISR and ELR agree",
        "{}; alive are {}",
        partition,
        alive,
    )
    check(
        partition.leader not in stopping or isr <= stopping,
        "who is about to stop leads only where nobody else can",
        "{}; {} stop",
        partition,
        stopping,
    )


def _check_epochs(before: Partition, after: Partition) -> None:
    check(
        after.partition_epoch > before.partition_epoch
        and after.leader_epoch >= before.leader_epoch
        and (after.leader == before.leader or after.leader_epoch > before.leader_epoch),
        "epochs grow",
        "{} after {}",
        after,
        before,
    )

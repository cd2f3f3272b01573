"""Who may lead a partition, who is in sync, and who still has everything committed. Pure.

Problem: two nodes must never append to one partition under one leader epoch, and whoever leads must
have every committed record. Idea: every change of a partition goes through `change`, which derives
leader, ELR and epochs from the new ISR. A replica that leaves an ISR below `min.insync.replicas` is
*eligible*: the high watermark has stood still since, so it has all that was committed.

Invariants: the leader is in the ISR and alive; one leader per (uid, leader epoch); whoever is
elected was in the ISR, else in the ELR, else led last, unless it set its data aside; below the
minimum, ISR and ELR only lose a replica that lost data, or that a reassignment can spare; at or
above it, the ELR is empty.

Source: KIP-966 (eligible leader replicas); Apache Kafka's PartitionChangeBuilder.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from odradek.controller.state.image import ClusterImage, Draft, PossibleLoss
from odradek.controller.state.reassignment import complete, target_of
from odradek.controller.state.records import (
    Partition,
    PartitionChanged,
    Topic,
    TopicSettings,
    keeps_only_pages,
    setting,
)
from odradek.protocol.topic_config import MAJORITY, majority
from odradek.protocol.types import NO_NODE, LeaderEpoch, NodeId, PartitionEpoch

NodeIds = tuple[NodeId, ...]

_MIN_INSYNC = "min.insync.replicas"


def min_insync(config: TopicSettings, partition: Partition) -> int:
    """Return how many replicas must be in sync for the high watermark to move.

    A majority is one of the replicas there were before a reassignment, until that is complete.
    """
    text = setting(config, _MIN_INSYNC, MAJORITY) if config else MAJORITY
    if text == MAJORITY:
        return majority(len(partition.replicas) - len(partition.adding))
    return int(text)


def topic_of(image: ClusterImage, partition: Partition) -> Topic:
    """Return the topic a partition belongs to."""
    return image.topics[image.places[partition.uid].topic_id]


@dataclass(frozen=True, slots=True)
class Electorate:
    """The nodes as they matter to elections; made once for a decision over many partitions."""

    alive: frozenset[NodeId]
    stopping: frozenset[NodeId]
    full: frozenset[NodeId]
    set_aside: frozenset[NodeId] = frozenset()
    """A damaged store of theirs was set aside: whoever led last has nothing of it here."""

    @classmethod
    def of(cls, image: ClusterImage) -> "Electorate":
        """Return the electorate of an image."""
        nodes = image.nodes.values()
        return cls(
            frozenset(node.node_id for node in nodes if not node.fenced),
            frozenset(node.node_id for node in nodes if node.stopping),
            frozenset(node.node_id for node in nodes if node.storage_full),
            frozenset(node.node_id for node in nodes if node.store_set_aside),
        )

    def best(self, partition: Partition, candidates: NodeIds) -> NodeId:
        """Return the first candidate, in the order of the replicas, that is alive.

        One that is about to stop, or has no space left, only when there is no other.
        """
        alive = [
            node_id
            for node_id in partition.replicas
            if node_id in candidates and node_id in self.alive
        ]
        if self.stopping or self.full:
            alive.sort(key=lambda node_id: (node_id in self.stopping, node_id in self.full))
        return alive[0] if alive else NO_NODE

    def in_sync(self, isr: NodeIds, minimum: int) -> NodeIds:
        """Return the members alive, without those about to stop as far as they can be spared."""
        for member in isr:
            if member not in self.alive:
                isr = tuple(each for each in isr if each in self.alive)
                break
        if not self.stopping.isdisjoint(isr):
            staying = tuple(each for each in isr if each not in self.stopping)
            return staying if len(staying) >= minimum else isr
        return isr

    def goes_on(self, partition: Partition) -> bool:
        """Tell whether the leader stays; one about to stop goes when another can lead."""
        leader, isr = partition.leader, partition.isr
        return leader in isr and (leader not in self.stopping or self.stopping.issuperset(isr))


def elect(electorate: Electorate, partition: Partition) -> Partition:
    """Return the partition, whose leader is gone, with another if anybody may lead it.

    From the ISR, else the ELR, else who led last, unless that has set its data aside: an operator
    may still save it, or say that it is gone.
    """
    candidates = partition.isr or partition.elr
    if not candidates:
        last = partition.last_known_elr
        candidates = tuple(each for each in last if each not in electorate.set_aside)
    leader = electorate.best(partition, candidates)
    if leader == NO_NODE:
        last = (partition.leader,) if partition.is_led else partition.last_known_elr
        return partition._replace(leader=NO_NODE, last_known_elr=last)
    return partition._replace(
        leader=leader,
        isr=partition.isr or (leader,),
        elr=_without(partition.elr, leader),
        last_known_elr=(),
    )


def change(
    draft: Draft,
    before: Partition,
    after: Partition,
    *,
    electorate: Electorate | None = None,
    config: TopicSettings | None = None,
    lost: NodeId = NO_NODE,
) -> None:
    """Record a change of a partition with all that follows from it; nothing if nothing follows.

    Args:
        draft: Gets the record.
        before: The partition as it is.
        after: The same with another ISR or other replicas. Fenced members leave the ISR here, and
            stopping ones where they can be spared; a reassignment completes here once it can.
        electorate: The draft's, if already known.
        config: The settings to assume; by default the topic's.
        lost: A replica that lost data: it leaves ISR and ELR.
    """
    if electorate is None:
        electorate = Electorate.of(draft.image)
    if config is None:
        config = topic_of(draft.image, before).config
    minimum = min_insync(config, after)
    proposed = after.isr
    isr = electorate.in_sync(_without(after.isr, lost), minimum)
    had_all = after.elr + before.isr + after.isr
    after = _with_elr(after._replace(isr=isr), minimum, had_all, lost)
    if after.adding or after.removing:
        settled = after._replace(adding=(), removing=(), replicas=target_of(after))
        after = complete(after, min_insync(config, settled))
        minimum = min_insync(config, after)
        after = _with_elr(after, minimum, had_all, lost)
    if not electorate.goes_on(after):
        after = elect(electorate, after)
        if len(after.isr) >= minimum:
            after = after._replace(elr=())
    if after == before:
        return
    # A replica that left drops its data. Should it return before its leader heard that it had gone,
    # what it acknowledged must no longer count.
    stays = after.leader == before.leader and set(before.replicas) <= set(after.replicas)
    changed = after._replace(
        leader_epoch=LeaderEpoch(before.leader_epoch + (not stays)),
        partition_epoch=PartitionEpoch(before.partition_epoch + 1),
    )
    draft.record(PartitionChanged(changed))
    if changed.is_led and changed.leader not in (*before.isr, *before.elr, *proposed):
        draft.report(PossibleLoss(before.uid, changed.leader, changed.leader_epoch))


def _with_elr(partition: Partition, minimum: int, had_all: NodeIds, lost: NodeId) -> Partition:
    """Return a partition with who has all beside an ISR that is too small to commit."""
    elr: NodeIds = ()
    if len(partition.isr) < minimum:
        elr = tuple(
            each
            for each in dict.fromkeys(had_all)
            if each in partition.replicas and each not in partition.isr and each != lost
        )
    return partition._replace(elr=elr) if elr or partition.elr else partition


def settle(draft: Draft, concerns: Callable[[Partition], bool]) -> None:
    """Let everything follow that the state of the nodes asks for, in the partitions concerned."""
    electorate = Electorate.of(draft.image)
    for partition in list(draft.image.partitions.values()):
        if concerns(partition):
            change(draft, partition, partition, electorate=electorate)


def depose(draft: Draft, node_id: NodeId) -> None:
    """Take a node, fenced just now, out of every leadership and every ISR."""
    settle(draft, lambda partition: node_id in partition.isr or partition.leader == node_id)


def promote(draft: Draft, node_id: NodeId) -> None:
    """Elect leaders where there is none and a node, unfenced just now, may lead."""
    settle(draft, lambda partition: not partition.is_led and node_id in partition.replicas)


def retire(draft: Draft, node_id: NodeId) -> None:
    """Move leaderships from a node that is about to stop, where another in sync can take them."""
    settle(draft, lambda partition: node_id in partition.isr)


def finish_elections(draft: Draft) -> None:
    """Let everything follow that a predecessor may have left half-done.

    A decision too large for one command of the log is committed in several.
    """
    settle(draft, lambda _: True)


def forget(draft: Draft, node_id: NodeId, *, synced_version: int | None, gone: bool) -> None:
    """Take a fenced node that lost data out of every ISR and ELR it was in.

    Args:
        draft: Gets the records.
        node_id: The node.
        synced_version: Only page caches were lost: partitions of topics with `flush=commit` have
            all, if it was so in this version of the metadata already. None: anything may be lost.
        gone: Nothing at all is left of its data: where it led last and nobody has everything, the
            next best is whoever else holds a replica.
    """
    image = draft.image
    for partition in list(image.partitions.values()):
        if node_id not in partition.replicas:
            continue
        if synced_version is not None:
            topic = topic_of(image, partition)
            if synced_version >= topic.pages_until_version and not keeps_only_pages(topic.config):
                continue
        after = partition
        if gone and node_id in partition.last_known_elr:
            after = partition._replace(last_known_elr=_next_best(partition, node_id))
        change(draft, partition, after, lost=node_id)


def prefer_leaders(draft: Draft, nodes: Iterable[NodeId], count_max: int) -> int:
    """Let preferred leaders lead that are in sync, on the nodes given; return how many do now."""
    moved = 0
    for partition in misled(draft.image, nodes):
        if moved == count_max:
            break
        leader = partition.replicas[0]
        changed = partition._replace(
            leader=leader,
            leader_epoch=LeaderEpoch(partition.leader_epoch + 1),
            partition_epoch=PartitionEpoch(partition.partition_epoch + 1),
        )
        draft.record(PartitionChanged(changed))
        moved += 1
    return moved


def misled(image: ClusterImage, nodes: Iterable[NodeId]) -> list[Partition]:
    """Return the partitions that one of the nodes should lead, and could, but does not."""
    ready = {
        node_id
        for node_id in nodes
        if (node := image.nodes.get(node_id)) is not None
        and not (node.fenced or node.stopping or node.draining or node.storage_full)
    }
    return [
        partition
        for partition in image.partitions.values()
        if partition.leader != partition.replicas[0]
        and partition.replicas[0] in ready
        and partition.replicas[0] in partition.isr
    ]


def _next_best(partition: Partition, node_id: NodeId) -> NodeIds:
    others = (each for each in partition.replicas if each not in (node_id, *partition.adding))
    return (next(others, node_id),)


def _without(members: NodeIds, node_id: NodeId) -> NodeIds:
    return tuple(each for each in members if each != node_id) if node_id in members else members

"""What a decision may do to the replicas of a partition; looked at before it is committed.

Only who asks for other replicas changes which there are to be. Everything else (a replica that
comes into sync, a node that dies or stops) may at most end a move, and then leaves its target.
"""

from collections.abc import Mapping

from odradek.controller.state.decide import (
    AlterPartitions,
    AlterReplication,
    Reassign,
    Request,
    Submission,
)
from odradek.controller.state.elections import min_insync, topic_of
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.reassignment import is_moving, target_of
from odradek.controller.state.rebalance import Rebalance
from odradek.controller.state.records import Partition
from odradek.protocol.types import NO_NODE, NodeId, PartitionUid
from tests.simulation.cluster.oracle import check


def check_moves(
    request: Request, before: Mapping[PartitionUid, Partition], image: ClusterImage
) -> None:
    """Check what one decision has made of the partitions."""
    asked = request.request if isinstance(request, Submission) else request
    for uid, was in before.items():
        now = image.partitions[uid]
        if now is not was:
            _check_target(asked, was, now, image)
            _check_newcomers(was, now)
            members = _members(asked, was, image)
            _check_in_sync(members, was, now, image)
            _check_elected(members, was, now)


def _check_target(asked: object, was: Partition, now: Partition, image: ClusterImage) -> None:
    target = target_of(now)
    match asked:
        case Reassign():
            index = image.places[now.uid].index
            named = [each.replicas for each in asked.partitions if each.index == index]
            fits = target in [_settled(was) if each is None else each for each in named]
        case AlterReplication():
            fits = len(target) in [each.replication for each in asked.topics]
        case Rebalance():
            fits = not is_moving(was) or _goes_nowhere(was, image)
        case _:
            fits = target == target_of(was)
    check(fits, "a move ends with exactly its target", "{} made {} of {}", asked, now, was)


def _goes_nowhere(was: Partition, image: ClusterImage) -> bool:
    """Whether it moves to a node that is drained meanwhile, and not in sync yet."""
    drained = {each for each in was.adding if image.nodes[each].draining}
    return bool(drained) and drained.isdisjoint(was.isr)


def _check_newcomers(was: Partition, now: Partition) -> None:
    """Whoever is new was added, and stays so until all who were are in sync."""
    unfinished = set(was.adding) & set(now.replicas) - set(now.adding)
    check(
        set(now.replicas) - set(was.replicas) <= set(now.adding) and unfinished <= set(now.isr),
        "a move ends once who was added is in sync",
        "{} after {}",
        now,
        was,
    )


def _members(asked: object, was: Partition, image: ClusterImage) -> set[NodeId]:
    """Return who was in sync, as the leader has it if it is asking."""
    if isinstance(asked, AlterPartitions):
        place = image.places[was.uid]
        for each in asked.proposals:
            if (each.topic_id, each.index) == (place.topic_id, place.index):
                return {member.node_id for member in each.isr}
    return set(was.isr)


def _check_in_sync(
    members: set[NodeId], was: Partition, now: Partition, image: ClusterImage
) -> None:
    """Replicas in sync are given up only where the others are enough."""
    given_up = {each for each in members - set(now.replicas) if image.is_alive(each)}
    check(
        not given_up or len(now.isr) >= min_insync(topic_of(image, now).config, now),
        "no move takes the ISR below its minimum",
        "{} after {}",
        now,
        was,
    )


def _check_elected(members: set[NodeId], was: Partition, now: Partition) -> None:
    electable = {*members, *was.elr} or set(was.last_known_elr)
    check(
        now.leader in {*electable, was.leader, NO_NODE},
        "only who was in sync or eligible is elected",
        "{} after {}",
        now,
        was,
    )


def _settled(partition: Partition) -> tuple[NodeId, ...]:
    return tuple(each for each in partition.replicas if each not in partition.adding)

"""Giving a partition other replicas. Pure.

Problem: replicas must move without the partition ever having fewer of them, or fewer in sync, than
it should. Idea: a partition being reassigned has the replicas of both sets, the new ones first:
`replicas` = target + removing. New replicas catch up as followers; once all of them are in sync,
the target alone remains. Until then it can be taken back.

Invariants: `adding` and `removing` are distinct replicas; before the first step and after the last
both are empty; completing never empties the ISR, nor takes it below its minimum, nor leaves fewer
than that who have everything committed.

Source: KIP-455; Apache Kafka's PartitionReassignmentReplicas.
"""

from collections.abc import Iterable

from odradek.controller.state.records import Partition
from odradek.protocol.errors import InvalidReplicaAssignmentError
from odradek.protocol.types import NodeId

NodeIds = tuple[NodeId, ...]


def target_of(partition: Partition) -> NodeIds:
    """Return the replicas a partition is to have."""
    if not partition.removing:
        return partition.replicas
    return _without(partition.replicas, partition.removing)


def is_moving(partition: Partition) -> bool:
    """Tell whether a reassignment is under way."""
    return bool(partition.adding or partition.removing)


def begin(partition: Partition, target: NodeIds) -> Partition:
    """Return the partition on its way to other replicas.

    One on its way elsewhere turns round: what was being added and is not wanted any more goes at
    once.

    Args:
        partition: As it is; epochs, leader and ELR are for `elections.change` to derive.
        target: The replicas it is to have, the preferred leader first.

    Raises:
        InvalidReplicaAssignmentError: No replica or one twice; or nobody with all records would be
            left.
    """
    if not target or len(set(target)) != len(target):
        raise InvalidReplicaAssignmentError(
            f"replicas {list(target)} are none, or one of them twice",
            field="replicas",
            value=list(target),
        )
    settled = _without(partition.replicas, partition.adding)
    replicas = target + _without(settled, target)
    # Who can lead, now or when it returns; the later ones matter only when there is none before.
    trusted = partition.isr or partition.elr or partition.last_known_elr
    if set(trusted).isdisjoint(replicas):
        raise InvalidReplicaAssignmentError(
            f"only {list(trusted)} have all records, and none of them would be left",
            field="replicas",
            value=list(target),
            limit=list(trusted),
        )
    return partition._replace(
        replicas=replicas,
        isr=tuple(member for member in partition.isr if member in replicas),
        elr=tuple(member for member in partition.elr if member in replicas),
        adding=_without(target, settled),
        removing=_without(settled, target),
    )


def cancel(partition: Partition) -> Partition:
    """Return the partition with the replicas it had before its reassignment.

    Raises:
        InvalidReplicaAssignmentError: None of those is in sync any more.
    """
    return begin(partition, _without(partition.replicas, partition.adding))


def complete(partition: Partition, minimum: int) -> Partition:
    """Return the partition with its target alone, if the target can do without the others.

    Args:
        partition: With the ISR and the ELR it is about to have.
        minimum: The minimum ISR of the target.
    """
    if not is_moving(partition):
        return partition
    settled = partition._replace(
        replicas=target_of(partition),
        isr=_without(partition.isr, partition.removing),
        elr=_without(partition.elr, partition.removing),
        adding=(),
        removing=(),
    )
    has_all = settled.isr and set(partition.adding) <= set(settled.isr)
    return settled if has_all and can_spare(partition, settled, minimum) else partition


def can_spare(before: Partition, after: Partition, minimum: int) -> bool:
    """Tell whether replicas can go without too few being left in sync, or with all records.

    One that left an ISR too small to commit has all that was committed: what was acknowledged is on
    as many disks as the minimum says because of it.
    """
    left_of = ((before.isr, after.isr), (before.isr + before.elr, after.isr + after.elr))
    return all(len(left) >= min(minimum, len(had)) for had, left in left_of)


def _without(members: NodeIds, others: Iterable[NodeId]) -> NodeIds:
    unwanted = set(others)
    return tuple(each for each in members if each not in unwanted)

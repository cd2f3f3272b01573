"""Which member should read which partition.

`uniform` is sticky first: whatever can stay, stays. What nobody reads goes to the least loaded
subscriber, one in the same rack where that costs no balance. Then single partitions move from a
loaded subscriber to one with at least two fewer, until there is no such pair; newly given ones move
before old ones. Each move lowers the sum of squared loads, so it ends; when all members subscribe
the same topics, no assignment within one of balance moves fewer partitions.

`range` gives each topic's partitions out in order, so that equal indexes of equally sized topics
meet at one member.

Invariants: every partition of a subscribed topic has one member; members of equal subscription
differ by one partition at most (`uniform`; `range` within each topic).

Source: KIP-848 (server-side assignors), KIP-54 (stickiness), Kafka's RangeAssignor.
"""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace

from odradek.controller.state.groups.model import TopicIdPartition
from odradek.protocol.types import MemberId, PartitionIndex, TopicId


class Assignor(enum.StrEnum):
    """The assignors a member can ask for."""

    UNIFORM = "uniform"
    RANGE = "range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A member as assignors see it."""

    member_id: MemberId
    topics: frozenset[TopicId]
    current: frozenset[TopicIdPartition] = frozenset()
    """The target so far, of any topics; disjoint from that of other members."""
    rack: str = ""
    instance_id: str = ""


RacksOf = Callable[[TopicIdPartition], frozenset[str]]
Targets = dict[MemberId, frozenset[TopicIdPartition]]


def assign(
    assignor: Assignor,
    subscribers: Sequence[Subscriber],
    partition_counts: Mapping[TopicId, int],
    racks_of: RacksOf,
) -> Targets:
    """Return a target for every subscriber.

    Args:
        assignor: Which rule.
        subscribers: In any order; the result does not depend on it.
        partition_counts: Of every topic that somebody subscribes.
        racks_of: The racks that hold a replica of a partition; asked only when members have racks.
    """
    ordered = sorted(subscribers, key=lambda each: each.member_id)
    if assignor is Assignor.RANGE:
        return _range(ordered, partition_counts)
    return _Uniform.of(ordered, partition_counts, racks_of).targets()


def _range(subscribers: Sequence[Subscriber], partition_counts: Mapping[TopicId, int]) -> Targets:
    # A static member keeps its rank, hence its partitions, under its next member id.
    ranked = sorted(subscribers, key=lambda each: each.instance_id or each.member_id)
    targets: dict[MemberId, list[TopicIdPartition]] = {each.member_id: [] for each in ranked}
    for topic_id, count in sorted(partition_counts.items()):
        readers = [each for each in ranked if topic_id in each.topics]
        start = 0
        for rank, reader in enumerate(readers):
            end = start + count // len(readers) + (rank < count % len(readers))
            targets[reader.member_id] += _partitions(topic_id, range(start, end))
            start = end
    return {member_id: frozenset(owned) for member_id, owned in targets.items()}


def _partitions(topic_id: TopicId, indexes: Iterable[int]) -> list[TopicIdPartition]:
    return [TopicIdPartition(topic_id, PartitionIndex(index)) for index in indexes]


@dataclass(slots=True)
class _Uniform:
    subscribers: dict[MemberId, Subscriber]
    partition_counts: Mapping[TopicId, int]
    readers: dict[TopicId, tuple[MemberId, ...]]
    racks_of: RacksOf
    has_racks: bool
    owned: dict[MemberId, set[TopicIdPartition]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        subscribers: Sequence[Subscriber],
        partition_counts: Mapping[TopicId, int],
        racks_of: RacksOf,
    ) -> "_Uniform":
        readers = {
            topic_id: tuple(each.member_id for each in subscribers if topic_id in each.topics)
            for topic_id in sorted(partition_counts)
        }
        return cls(
            subscribers={each.member_id: each for each in subscribers},
            partition_counts=partition_counts,
            readers={topic_id: members for topic_id, members in readers.items() if members},
            racks_of=racks_of,
            has_racks=any(each.rack for each in subscribers),
        )

    def targets(self) -> Targets:
        orphans = self._keep_what_can_stay()
        if self.has_racks:
            orphans = self._give_within_racks(orphans)
        self._give_to_the_least_loaded(orphans)
        # One class of topics can unbalance another; each move lowers the sum of squares.
        while any(self._level(readers, topics) for readers, topics in self._classes().items()):
            pass
        return {member_id: frozenset(owned) for member_id, owned in self.owned.items()}

    def _load(self, member_id: MemberId) -> int:
        return len(self.owned[member_id])

    def _classes(self) -> dict[tuple[MemberId, ...], set[TopicId]]:
        """Return topics by who reads them: a partition can move only within its class."""
        classes: dict[tuple[MemberId, ...], set[TopicId]] = {}
        for topic_id, readers in self.readers.items():
            classes.setdefault(readers, set()).add(topic_id)
        return classes

    def _keep_what_can_stay(self) -> list[TopicIdPartition]:
        """Give everybody what it has and still subscribes; return what is left, scarce first."""
        taken: set[TopicIdPartition] = set()
        for member_id, subscriber in self.subscribers.items():
            stays = {
                each
                for each in subscriber.current - taken
                if each.topic_id in subscriber.topics
                and each.partition < self.partition_counts[each.topic_id]
            }
            self.owned[member_id] = stays
            taken |= stays
        scarce_first = sorted(self.readers, key=lambda topic_id: len(self.readers[topic_id]))
        return [
            each
            for topic_id in scarce_first
            for each in _partitions(topic_id, range(self.partition_counts[topic_id]))
            if each not in taken
        ]

    def _give_within_racks(self, orphans: list[TopicIdPartition]) -> list[TopicIdPartition]:
        """Give partitions to readers beside a replica, up to a fair share; return the others."""
        fair_share = sum(self.partition_counts[each] for each in self.readers) // len(self.owned)
        heaps: dict[tuple[tuple[MemberId, ...], str], _LeastLoaded] = {}
        left = []
        for partition in orphans:
            readers = self.readers[partition.topic_id]
            near: list[tuple[int, MemberId]] = []
            for rack in sorted(self.racks_of(partition)):
                if (readers, rack) not in heaps:
                    beside = [each for each in readers if self.subscribers[each].rack == rack]
                    heaps[readers, rack] = _LeastLoaded(beside, self._load)
                near += heaps[readers, rack].peek()
            if near and min(near)[0] < fair_share:
                self.owned[min(near)[1]].add(partition)
            else:
                left.append(partition)
        return left

    def _give_to_the_least_loaded(self, orphans: list[TopicIdPartition]) -> None:
        heaps = {readers: _LeastLoaded(readers, self._load) for readers in self._classes()}
        for partition in orphans:
            ((_, member_id),) = heaps[self.readers[partition.topic_id]].peek()
            self.owned[member_id].add(partition)

    def _level(self, readers: tuple[MemberId, ...], topics: set[TopicId]) -> bool:
        """Move partitions of one class until its loads are level; tell whether any moved."""
        moved = False
        takers = _LeastLoaded(readers, self._load)
        givers = [(-self._load(each), each) for each in readers]
        heapify(givers)
        movable: dict[MemberId, list[TopicIdPartition]] = {}
        while givers:
            load, giver = givers[0]
            if -load != self._load(giver):
                heapreplace(givers, (-self._load(giver), giver))
                continue
            ((least, taker),) = takers.peek()
            if -load - least < 2:
                break
            if giver not in movable:
                movable[giver] = self._movable(giver, topics)
            if not movable[giver]:
                heappop(givers)
                continue
            partition = self._choose(movable[giver], giver, taker)
            self.owned[giver].remove(partition)
            self.owned[taker].add(partition)
            moved = True
        return moved

    def _movable(self, giver: MemberId, topics: set[TopicId]) -> list[TopicIdPartition]:
        """Return what a member could give, most willingly last."""
        current = self.subscribers[giver].current
        return sorted(
            (each for each in self.owned[giver] if each.topic_id in topics),
            key=lambda each: (each not in current, each),
        )

    def _choose(
        self, movable: list[TopicIdPartition], giver: MemberId, taker: MemberId
    ) -> TopicIdPartition:
        """Take the best partition to move out of the list."""
        if not self.has_racks:
            return movable.pop()
        current = self.subscribers[giver].current
        nearer = self.subscribers[taker].rack
        near = self.subscribers[giver].rack

        def gain(partition: TopicIdPartition) -> tuple[bool, int, TopicIdPartition]:
            racks = self.racks_of(partition)
            return partition not in current, (nearer in racks) - (near in racks), partition

        best = max(movable, key=gain)
        movable.remove(best)
        return best


class _LeastLoaded:
    """The least loaded of some members, while loads only grow. Ties: the smaller member id."""

    def __init__(self, members: Sequence[MemberId], load: Callable[[MemberId], int]) -> None:
        self._load = load
        self._heap: list[tuple[int, MemberId]] = []
        for member_id in members:
            heappush(self._heap, (load(member_id), member_id))

    def peek(self) -> list[tuple[int, MemberId]]:
        """Return (load, member) as a list of one; empty when there are no members."""
        while self._heap:
            load, member_id = self._heap[0]
            present = self._load(member_id)
            if present == load:
                return [(load, member_id)]
            heapreplace(self._heap, (present, member_id))
        return []

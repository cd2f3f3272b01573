"""A group's world in memory: topics, a controller that applies what it decides, honest members."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from odradek.controller.state.groups import (
    Group,
    GroupChange,
    GroupChanges,
    GroupDecision,
    GroupRecord,
    Member,
    MemberJoined,
    MemberLeft,
    MemberOwns,
    MemberProfile,
    MemberState,
    SubscribedTopic,
    TopicIdPartition,
    apply,
    decide,
    on_topics_changed,
)
from odradek.protocol.types import GroupId, MemberId, PartitionIndex, TopicId, TopicName

GROUP = GroupId("live-map")
COORDINATOR_PARTITION = PartitionIndex(3)


def topic_id(name: str, incarnation: int = 0) -> TopicId:
    return TopicId(f"{name}:{incarnation}".encode().ljust(16, b"."))


def partition_of(name: str, index: int) -> TopicIdPartition:
    return TopicIdPartition(topic_id(name), PartitionIndex(index))


@dataclass
class Topics:
    """A TopicsView one can change."""

    by_name: dict[TopicName, SubscribedTopic] = field(default_factory=dict)
    racks_by_partition: dict[TopicIdPartition, frozenset[str]] = field(default_factory=dict)
    incarnations: int = 0

    @classmethod
    def of(cls, **partition_counts: int) -> "Topics":
        topics = cls()
        for name, count in partition_counts.items():
            topics.by_name[TopicName(name)] = SubscribedTopic(
                topic_id(name), TopicName(name), count
            )
        return topics

    def create(self, name: str, count: int) -> None:
        """Always another incarnation than before."""
        self.incarnations += 1
        self.by_name[TopicName(name)] = SubscribedTopic(
            topic_id(name, self.incarnations), TopicName(name), count
        )

    def topic_by_name(self, name: TopicName) -> SubscribedTopic | None:
        return self.by_name.get(name)

    def topic_by_id(self, topic_id: TopicId) -> SubscribedTopic | None:
        return next((each for each in self.by_name.values() if each.topic_id == topic_id), None)

    def racks(self, partition: TopicIdPartition) -> frozenset[str]:
        return self.racks_by_partition.get(partition, frozenset())


@dataclass
class World:
    """Decides and applies at once; keeps all that was ever logged."""

    topics: Topics
    groups: dict[GroupId, Group] = field(default_factory=dict)
    log: list[GroupRecord] = field(default_factory=list)

    @property
    def group(self) -> Group:
        return self.groups[GROUP]

    def submit(self, *changes: GroupChange) -> GroupDecision:
        decision = decide(self.groups, GroupChanges(COORDINATOR_PARTITION, changes), self.topics)
        self._apply(decision.records)
        return decision

    def submit_one(self, change: GroupChange) -> None:
        (error,) = self.submit(change).errors
        if error is not None:
            raise error

    def topics_changed(self, *names: str) -> None:
        changed = [TopicName(name) for name in names]
        self._apply(on_topics_changed(self.groups, self.topics, changed))

    def _apply(self, records: Iterable[GroupRecord]) -> None:
        for record in records:
            apply(self.groups, record)
            self.log.append(record)
        check_invariants(self)

    def join(self, member_id: str, *topics: str, instance_id: str = "", rack: str = "") -> None:
        self.submit_one(joined(member_id, *topics, instance_id=instance_id, rack=rack))

    def leave(self, member_id: str, *, away: bool = False) -> None:
        self.submit_one(MemberLeft(group=GROUP, member_id=MemberId(member_id), away=away))

    def member(self, member_id: str) -> Member:
        return self.group.members[MemberId(member_id)]

    def assigned(self, member_id: str) -> set[TopicIdPartition]:
        return set(self.member(member_id).assigned)

    def confirm(self, member_id: str) -> None:
        """The member has given up what it was told to give up."""
        member = self.member(member_id)
        confirmation = MemberOwns(
            group=GROUP,
            member_id=member.member_id,
            member_epoch=member.member_epoch,
            owned=frozenset(member.assigned),
        )
        self.submit_one(confirmation)

    def settle(self) -> None:
        """Let every member confirm until nobody has to revoke."""
        for _ in range(len(self.group.members) + 1):
            revoking = [each for each in self.group.members.values() if each.revoking]
            if not revoking:
                return
            for member in revoking:
                self.confirm(member.member_id)
        raise AssertionError("the group never settles")


def joined(
    member_id: str, *topics: str, instance_id: str = "", rack: str = "", assignor: str = ""
) -> MemberJoined:
    profile = MemberProfile(
        member_id=MemberId(member_id),
        instance_id=instance_id,
        rack=rack,
        topics=frozenset(TopicName(topic) for topic in topics),
        assignor=assignor,
    )
    return MemberJoined(GROUP, profile)


def check_invariants(world: World) -> None:
    """Hold after every decision, in any world."""
    for group in world.groups.values():
        group.owners()  # asserts a single owner
        assert group.assignment_epoch <= group.group_epoch
        seen: set[TopicIdPartition] = set()
        for member in group.members.values():
            assert seen.isdisjoint(member.target), "two members have one partition as target"
            seen |= member.target
            epochs = [*member.assigned.values(), *member.revoking.values()]
            assert all(epoch <= member.member_epoch for epoch in epochs)
            assert member.member_epoch <= group.assignment_epoch
            if not member.revoking:
                assert member.member_epoch == group.assignment_epoch
                assert member.assigned.keys() <= member.target
            if member.state is MemberState.STABLE:
                assert member.assigned.keys() == member.target

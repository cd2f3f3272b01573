"""What watchers are told: the image, then what changed, never backwards, never everything twice."""

from collections.abc import Callable

from odradek.controller.committed import ClusterMachine, Committed
from odradek.controller.feed import Watcher
from odradek.controller.state.decide import (
    AlterTopicConfigs,
    ChangeGroups,
    CreateInternalTopic,
    CreatePartitions,
    DeleteTopics,
    PreferLeaders,
)
from odradek.controller.state.groups import GroupChanges, GroupDeleted, MemberJoined, MemberProfile
from odradek.controller.state.groups.commands import MemberLeft
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.topics import ConfigChange, NewPartitions, NewTopic, TopicRef
from odradek.controller.state.touched import Touched
from odradek.controller.wire.records import decode_command
from odradek.protocol.hashing import coordinator_partition
from odradek.protocol.types import NO_NODE, GroupId, MemberId, NodeId, TopicName
from odradek.v1 import controller_pb2, metadata_pb2
from tests.controller.state.cluster import Cluster

EPOCH = 1


class Follower:
    """A node's picture of the cluster, made of what it was told alone."""

    def __init__(self, cluster: Cluster, node_id: int) -> None:
        self.cluster = cluster
        self.watcher = Watcher(NodeId(node_id))
        self.nodes: dict[int, metadata_pb2.NodeMetadata] = {}
        self.topics: dict[bytes, metadata_pb2.TopicMetadata] = {}
        self.groups: dict[str, controller_pb2.ConsumerGroup] = {}
        self.version = -1
        self._seen = len(cluster.log)

    def hear(self) -> controller_pb2.WatchClusterResponse:
        """Be told what changed since the last time."""
        touched = Touched()
        for encoded in self.cluster.log[self._seen :]:
            touched.add(decode_command(encoded).records)
        self._seen = len(self.cluster.log)
        self.watcher.on_committed(touched)
        response = self.watcher.next_update(self.cluster.image, EPOCH)
        self._apply(response)
        return response

    def _apply(self, response: controller_pb2.WatchClusterResponse) -> None:
        update = response.metadata
        assert update.version >= self.version
        self.version = update.version
        if update.snapshot:
            self.nodes, self.topics = {}, {}
        self.nodes |= {node.node_id: node for node in update.nodes}
        for node_id in update.removed_node_ids:
            self.nodes.pop(node_id, None)
        self.topics |= {topic.topic_id: topic for topic in update.topics}
        for topic_id in update.removed_topic_ids:
            self.topics.pop(topic_id, None)
        for change in update.partitions:
            self.topics[change.topic_id].partitions[change.partition.partition].CopyFrom(
                change.partition
            )
        self.groups |= {group.group: group for group in response.groups}
        for name in response.removed_groups:
            self.groups.pop(name, None)

    def knows_everything(self) -> bool:
        """Compare with somebody who is told the whole image now."""
        fresh = Follower(self.cluster, int(self.watcher.node_id))
        fresh.hear()
        return (self.nodes, self.topics, self.groups) == (fresh.nodes, fresh.topics, fresh.groups)


def join(cluster: Cluster, group: str, member: str, *, topic: str = "t") -> None:
    """Let a member join, told by whoever coordinates its group."""
    profile = MemberProfile(member_id=MemberId(member), topics=frozenset({TopicName(topic)}))
    change(cluster, group, MemberJoined(GroupId(group), profile))


def change(cluster: Cluster, group: str, change: MemberJoined | MemberLeft | GroupDeleted) -> None:
    index = coordinator_partition(group, 16)
    partition = cluster.partitions("__consumer_offsets")[index]
    cluster.submit(
        ChangeGroups(partition.leader_epoch, GroupChanges(index, (change,))),
        node_id=partition.leader,
    )


def test_the_image_first_then_only_what_changed() -> None:
    cluster = Cluster(nodes=2)
    cluster.topic("t", partitions=2)
    follower = Follower(cluster, 1)
    first = follower.hear()
    assert first.metadata.snapshot
    assert first.controller_epoch == EPOCH
    assert sorted(follower.nodes) == [1, 2]
    assert [topic.name for topic in follower.topics.values()] == ["t"]
    cluster.topic("u")
    second = follower.hear()
    assert not second.metadata.snapshot
    assert [topic.name for topic in second.metadata.topics] == ["u"]
    assert not second.metadata.nodes
    assert not second.metadata.partitions
    third = follower.hear()
    assert not third.metadata.topics


def test_deltas_make_the_same_picture_as_a_fresh_image() -> None:
    cluster = Cluster(nodes=3)
    follower = Follower(cluster, 1)
    follower.hear()
    steps: list[Callable[[], object]] = [
        lambda: cluster.topic("t", partitions=6),
        lambda: cluster.create(NewTopic("u", 2, 1, {"flush": "os"})),
        lambda: cluster.fence(2),
        lambda: cluster.start(2, process=2),
        lambda: cluster.submit(CreatePartitions((NewPartitions(TopicRef("t"), 9),))),
        lambda: cluster.submit(AlterTopicConfigs((ConfigChange(TopicRef("t"), {"flush": "os"}),))),
        lambda: cluster.submit(CreateInternalTopic("__consumer_offsets")),
        lambda: join(cluster, "g", "m"),
        lambda: cluster.submit(DeleteTopics((TopicRef("u"),))),
    ]
    for step in steps:
        step()
        follower.hear()
        assert follower.knows_everything()


def test_a_slow_watcher_is_told_the_end_of_the_story_once() -> None:
    cluster = Cluster(nodes=2)
    follower = Follower(cluster, 1)
    follower.hear()
    for number in range(20):
        cluster.topic(f"t{number}")
        cluster.fence(2)
        cluster.unfence(2)
        cluster.submit(DeleteTopics((TopicRef(f"t{number}"),)))
    cluster.topic("last", partitions=3)
    response = follower.hear()
    assert [topic.name for topic in response.metadata.topics] == ["last"]
    assert len(response.metadata.nodes) == 1
    assert not response.metadata.partitions
    assert follower.knows_everything()


def test_a_partition_of_a_known_topic_travels_alone() -> None:
    cluster = Cluster(nodes=2)
    cluster.topic("t", partitions=2)
    follower = Follower(cluster, 1)
    follower.hear()
    cluster.fence(2)
    response = follower.hear()
    (update,) = response.metadata.partitions
    assert update.partition.leader_id == NO_NODE
    assert update.partition.replicas == [2]
    assert not response.metadata.topics


def test_groups_go_to_their_coordinator_and_arrive_with_its_leadership() -> None:
    cluster = Cluster(nodes=2)
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    cluster.topic("t", partitions=2)
    followers = {node_id: Follower(cluster, node_id) for node_id in (1, 2)}
    for follower in followers.values():
        follower.hear()
    join(cluster, "g", "m")
    for follower in followers.values():
        follower.hear()
    index = coordinator_partition("g", 16)
    leader = cluster.partitions("__consumer_offsets")[index].leader
    coordinator, other = followers[leader], followers[3 - leader]
    assert list(coordinator.groups) == ["g"]
    assert [member.member_id for member in coordinator.groups["g"].members] == ["m"]
    assert not other.groups

    cluster.fence(leader)
    lost, taken = coordinator.hear(), other.hear()
    assert lost.removed_groups == ["g"]
    assert [group.group for group in taken.groups] == ["g"]
    assert any(update.partition.leader_id == 3 - leader for update in taken.metadata.partitions)
    cluster.start(leader, process=2)
    cluster.propose(cluster.partitions("__consumer_offsets")[index], 1, 2)
    assert not coordinator.hear().groups
    cluster.decide(PreferLeaders((NodeId(leader),), 99))
    gained, lost = coordinator.hear(), other.hear()
    assert [group.group for group in gained.groups] == ["g"]
    assert lost.removed_groups == ["g"]

    change(cluster, "g", MemberLeft(group=GroupId("g"), member_id=MemberId("m")))
    change(cluster, "g", GroupDeleted(GroupId("g")))
    assert coordinator.hear().removed_groups == ["g"]
    assert not coordinator.groups


def test_groups_come_again_with_a_new_epoch_whose_predecessor_s_end_was_never_told() -> None:
    cluster = Cluster(nodes=1)
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    cluster.topic("t", partitions=2)
    join(cluster, "g", "m")
    coordinator = Follower(cluster, 1)
    coordinator.hear()
    cluster.fence(1)
    cluster.unfence(1)
    assert [group.group for group in coordinator.hear().groups] == ["g"]


def test_groups_of_others_are_no_news() -> None:
    cluster = Cluster(nodes=1)
    follower = Follower(cluster, 7)
    follower.hear()
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    follower.hear()
    assert not follower.watcher.has_news(cluster.image)
    join(cluster, "g", "m")
    touched = Touched(groups={GroupId("g")})
    follower.watcher.on_committed(touched)
    assert not follower.watcher.has_news(cluster.image)


def test_both_images_of_the_committed_state_are_the_same() -> None:
    cluster = Cluster(nodes=2)
    for number in range(3):
        cluster.topic(f"t{number}")
    machine = ClusterMachine()
    committed = Committed(machine)
    heard: list[Touched | None] = []
    committed.listen(heard.append)
    for index, command in enumerate(cluster.log, 1):
        machine.apply(index, command)
        if index % 2:
            committed.catch_up()
    committed.catch_up()
    assert committed.image == cluster.image == machine.capture()
    assert None not in heard


def test_a_loop_that_lags_gets_a_copy() -> None:
    cluster = Cluster(nodes=1)
    machine = ClusterMachine()
    committed = Committed(machine)
    heard: list[Touched | None] = []
    committed.listen(heard.append)
    wakes: list[int] = []
    machine.attach(lambda: wakes.append(1))
    for number in range(1100):
        cluster.fence(1) if number % 2 else cluster.unfence(1)
    cluster.topic("t") if cluster.image.is_alive(NodeId(1)) else cluster.start(1, process=3)
    for index, command in enumerate(cluster.log, 1):
        machine.apply(index, command)
    assert len(wakes) <= 2
    committed.catch_up()
    assert heard == [None]
    assert committed.image == cluster.image
    cluster.start(1, process=2)
    for index, command in list(enumerate(cluster.log, 1))[-2:]:
        machine.apply(index, command)
    committed.catch_up()
    assert committed.image == cluster.image
    assert heard[1] == Touched(nodes={NodeId(1)})


def test_a_snapshot_starts_the_loop_over() -> None:
    cluster = Cluster(nodes=2)
    cluster.topic("t")
    source, target = ClusterMachine(), ClusterMachine()
    for index, command in enumerate(cluster.log, 1):
        source.apply(index, command)
    committed = Committed(target)
    target.restore(source.serialize(source.capture()), len(cluster.log) + 5)
    committed.catch_up()
    assert committed.image.version == len(cluster.log) + 5
    assert committed.image.topics == cluster.image.topics
    assert isinstance(committed.image, ClusterImage)

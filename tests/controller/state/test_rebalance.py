"""Plans: that they end, in balance, with no fewer replicas or racks on the way."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from odradek.controller.state.decide import CreateInternalTopic, DrainNode, Reassign, RemoveNode
from odradek.controller.state.reassignment import is_moving, target_of
from odradek.controller.state.rebalance import Rebalance, plan
from odradek.controller.state.records import Partition
from odradek.controller.state.replicas import Reassignment
from odradek.controller.state.topics import TopicRef
from odradek.protocol.types import NodeId, PartitionIndex, PartitionUid
from tests.controller.state.cluster import Cluster

MOVING_MAX = 5


def ready(cluster: Cluster) -> Rebalance:
    """Return the request of a balancer to which all nodes have been up long enough."""
    return Rebalance(tuple(sorted(cluster.image.nodes)), MOVING_MAX)


def finish_moves(cluster: Cluster) -> None:
    """Let everything that is being added catch up."""
    for partition in list(cluster.image.partitions.values()):
        if partition.adding:
            cluster.propose(partition, *partition.isr, *partition.adding)


def settle(cluster: Cluster, *, steps_max: int = 400) -> list[int]:
    """Step until nothing is planned; return how many moves each step began."""
    steps: list[int] = []
    for _ in range(steps_max):
        planned = plan(cluster.image, ready(cluster))
        if not planned:
            return steps
        steps.append(len(planned))
        before = dict(cluster.image.partitions)
        cluster.decide(ready(cluster))
        check_step(cluster, before)
        finish_moves(cluster)
        assert not any(map(is_moving, cluster.image.partitions.values()))
    raise AssertionError("the plans go on and on")


def check_step(cluster: Cluster, before: dict[PartitionUid, Partition]) -> None:
    """Nobody receives too much at a time, and nothing in sync is given up."""
    receiving: Counter[int] = Counter()
    for uid, partition in cluster.image.partitions.items():
        assert set(before[uid].isr) >= set(partition.isr)
        receiving.update(partition.adding)
    assert max(receiving.values(), default=0) <= MOVING_MAX


def held(cluster: Cluster) -> Counter[int]:
    """Return how many replicas each node holds."""
    count: Counter[int] = Counter(dict.fromkeys(map(int, cluster.image.nodes), 0))
    for partition in cluster.image.partitions.values():
        count.update(map(int, target_of(partition)))
    return count


def spread(count: Counter[int]) -> int:
    """Return the difference between the most and the least."""
    return max(count.values()) - min(count.values())


@given(
    nodes=st.integers(1, 4),
    joining=st.integers(1, 3),
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_joining_nodes_get_their_share_and_then_all_is_quiet(
    nodes: int, joining: int, sizes: list[tuple[int, int]], seed: int
) -> None:
    cluster = Cluster(nodes=nodes, seed=seed)
    for number, (partitions, replication) in enumerate(sizes):
        cluster.topic(f"t{number}", partitions=partitions, replication=min(replication, nodes))
    wanted = {uid: len(each.replicas) for uid, each in cluster.image.partitions.items()}
    assert not any(len(move.partition.adding) for move in plan(cluster.image, ready(cluster)))
    for node_id in range(nodes + 1, nodes + joining + 1):
        cluster.start(node_id)
    settle(cluster)
    assert spread(held(cluster)) <= 1
    assert {uid: len(each.replicas) for uid, each in cluster.image.partitions.items()} == wanted


@given(
    racks=st.lists(st.sampled_from("abc"), min_size=2, max_size=6),
    joining=st.lists(st.sampled_from("abcd"), min_size=1, max_size=3),
    partitions=st.integers(1, 20),
    replication=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_racks_are_used_as_far_as_there_are_any(
    racks: list[str], joining: list[str], partitions: int, replication: int, seed: int
) -> None:
    cluster = Cluster(seed=seed)
    for node_id, rack in enumerate(racks, 1):
        cluster.start(node_id, rack=rack)
    cluster.topic("t", partitions=partitions, replication=min(replication, len(racks)))
    for node_id, rack in enumerate(joining, len(racks) + 1):
        cluster.start(node_id, rack=rack)
    settle(cluster)
    every = [*racks, *joining]
    for partition in cluster.partitions("t"):
        used = {every[node_id - 1] for node_id in partition.replicas}
        assert len(used) == min(len(partition.replicas), len(set(every)))


@given(
    nodes=st.integers(2, 5),
    sizes=st.lists(st.tuples(st.integers(1, 10), st.integers(1, 3)), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
def test_a_drained_node_ends_empty(nodes: int, sizes: list[tuple[int, int]], seed: int) -> None:
    cluster = Cluster(nodes=nodes, seed=seed)
    for number, (partitions, replication) in enumerate(sizes):
        cluster.topic(f"t{number}", partitions=partitions, replication=min(replication, nodes - 1))
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    wanted = {uid: len(each.replicas) for uid, each in cluster.image.partitions.items()}
    cluster.submit(DrainNode(NodeId(nodes), wanted=True))
    settle(cluster)
    count = held(cluster)
    assert count.pop(nodes) == 0
    assert spread(count) <= 1
    for uid, partition in cluster.image.partitions.items():
        assert len(partition.replicas) == min(wanted[uid], nodes - 1)
        assert partition.leader != nodes


def test_a_dead_node_is_drained_from_what_the_others_have() -> None:
    cluster = Cluster(nodes=3)
    cluster.topic("t", partitions=6, replication=2)
    cluster.fence(3)
    cluster.submit(DrainNode(NodeId(3), wanted=True))
    settle(cluster)
    assert {frozenset(each.replicas) for each in cluster.partitions("t")} == {frozenset({1, 2})}


def test_a_node_that_died_while_it_was_given_replicas_is_drained_and_removed() -> None:
    """It will never be in sync: what is on its way there goes elsewhere, or stays."""
    cluster = Cluster(nodes=3)
    cluster.topic("t", partitions=6, replication=2)
    cluster.start(4)
    cluster.decide(ready(cluster))
    assert any(4 in each.adding for each in cluster.partitions("t"))
    cluster.fence(4)
    cluster.submit(DrainNode(NodeId(4), wanted=True))
    settle(cluster)
    cluster.submit(RemoveNode(NodeId(4)))
    assert spread(held(cluster)) <= 1


def test_a_drained_node_that_is_in_sync_already_is_not_given_up_at_once() -> None:
    """Records may be acknowledged because it has them."""
    cluster = Cluster(nodes=5)
    partition = cluster.assigned("t", 1, 2)
    target = (NodeId(3), NodeId(4))
    to = Reassignment(TopicRef("t"), PartitionIndex(0), target)
    cluster.submit(Reassign((to,)))
    cluster.propose(cluster.image.partitions[partition.uid], 1, 2, 4)
    cluster.submit(DrainNode(NodeId(4), wanted=True))
    cluster.decide(ready(cluster))
    assert 4 in cluster.image.partitions[partition.uid].isr


def test_internal_topics_grow_when_nodes_appear() -> None:
    cluster = Cluster(nodes=1)
    cluster.submit(CreateInternalTopic("__consumer_offsets"))
    for nodes in (2, 3, 4):
        cluster.start(nodes)
        settle(cluster)
        partitions = cluster.partitions("__consumer_offsets")
        assert {len(each.replicas) for each in partitions} == {min(nodes, 3)}
        assert spread(held(cluster)) <= 1


def test_what_died_is_left_where_it_is() -> None:
    cluster = Cluster(nodes=4)
    cluster.topic("t", partitions=12, replication=2)
    cluster.fence(4)
    assert settle(cluster) in ([], [1], [2])  # at most a few preferred leaders
    before = held(cluster)
    cluster.start(4, process=2)
    assert not any(
        move.target != move.partition.replicas and set(move.target) != set(move.partition.replicas)
        for move in plan(cluster.image, ready(cluster))
    )
    assert held(cluster) == before


def test_who_has_just_come_or_has_no_room_is_given_nothing() -> None:
    cluster = Cluster(nodes=1)
    cluster.topic("t", partitions=6)
    cluster.start(2)
    assert not plan(cluster.image, Rebalance((NodeId(1),), MOVING_MAX))
    cluster.fill(2)
    assert not plan(cluster.image, ready(cluster))
    cluster.fill(2, full=False)
    assert len(plan(cluster.image, ready(cluster))) == 3


def test_preferred_leaders_are_evened_out_by_order_alone() -> None:
    cluster = Cluster(nodes=2)
    for number in range(4):
        cluster.assigned(f"t{number}", 1, 2)
    (step,) = settle(cluster)
    assert step == 2
    first = Counter(each.replicas[0] for each in cluster.image.partitions.values())
    assert first == {1: 2, 2: 2}

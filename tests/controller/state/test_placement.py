"""Placement: everybody carries the same, and a rack's failure costs one replica."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.controller.state.placement import place
from odradek.protocol.errors import InvalidReplicationFactorError
from tests.controller.state.cluster import Cluster


@given(
    nodes=st.integers(1, 7),
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_leaders_are_even_within_a_topic_and_over_all(
    nodes: int, counts: list[int], seed: int
) -> None:
    cluster = Cluster(nodes=nodes, seed=seed)
    total: Counter[int] = Counter(dict.fromkeys(range(1, nodes + 1), 0))
    for number, count in enumerate(counts):
        leaders = Counter(dict.fromkeys(range(1, nodes + 1), 0))
        leaders.update(
            partition.leader for partition in cluster.topic(f"t{number}", partitions=count)
        )
        assert max(leaders.values()) - min(leaders.values()) <= 1
        total.update(leaders)
    assert max(total.values()) - min(total.values()) <= 1


@given(
    racks=st.lists(st.sampled_from("abc"), min_size=1, max_size=7),
    replication=st.integers(1, 5),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_replicas_are_distinct_and_spread_over_racks(
    racks: list[str], replication: int, count: int, seed: int
) -> None:
    cluster = Cluster()
    for node_id, rack in enumerate(racks, 1):
        cluster.start(node_id, rack=rack)
    if replication > len(racks):
        with pytest.raises(InvalidReplicationFactorError) as caught:
            place(cluster.image, count, replication, Random(seed))
        assert caught.value.limit == str(len(racks))
        return
    for replicas in place(cluster.image, count, replication, Random(seed)):
        assert len(set(replicas)) == replication
        used = {racks[node_id - 1] for node_id in replicas}
        assert len(used) == min(replication, len(set(racks)))


def test_the_dead_get_nothing_and_newcomers_catch_up() -> None:
    cluster = Cluster(nodes=3)
    cluster.fence(3)
    assert {partition.leader for partition in cluster.topic("a", partitions=6)} == {1, 2}
    cluster.start(3, process=2)
    cluster.topic("b", partitions=3)
    leads = Counter(partition.leader for partition in cluster.image.partitions.values())
    assert leads == {1: 4, 2: 4, 3: 1}
    for number in range(7):
        cluster.topic(f"c{number}")
    leads = Counter(partition.leader for partition in cluster.image.partitions.values())
    assert max(leads.values()) - min(leads.values()) <= 1


def test_the_same_chance_makes_the_same_choice() -> None:
    cluster = Cluster(nodes=5)
    assert place(cluster.image, 9, 3, Random(7)) == place(cluster.image, 9, 3, Random(7))

"""Balance, stickiness, racks."""

from collections.abc import Iterable, Mapping, Sequence

import hypothesis.strategies as st
from hypothesis import given, settings

from odradek.controller.state.groups.assignors import Assignor, RacksOf, Subscriber, Targets, assign
from odradek.controller.state.groups.model import TopicIdPartition
from odradek.protocol.types import MemberId, PartitionIndex, TopicId

GPS, ORDERS, ALERTS = (TopicId(name.encode().ljust(16, b".")) for name in ("gps", "orders", "alr"))


A, B = MemberId("a"), MemberId("b")
Racks = Mapping[str, str]


def no_racks(partition: TopicIdPartition) -> frozenset[str]:
    return frozenset()


def subscribers(
    names: Iterable[str],
    topics: Iterable[TopicId],
    current: Targets | None = None,
    racks: Racks | None = None,
) -> list[Subscriber]:
    return [
        Subscriber(
            member_id=MemberId(name),
            topics=frozenset(topics),
            current=(current or {}).get(MemberId(name), frozenset()),
            rack=(racks or {}).get(name, ""),
        )
        for name in names
    ]


def uniform(
    members: Sequence[Subscriber], counts: Mapping[TopicId, int], racks_of: RacksOf = no_racks
) -> Targets:
    return assign(Assignor.UNIFORM, members, counts, racks_of)


def moves(before: Targets, after: Targets) -> int:
    """How many partitions changed hands between members that exist in `before`."""
    owner = {partition: name for name, owned in before.items() for partition in owned}
    return sum(
        owner.get(partition) not in {None, name}
        for name, owned in after.items()
        for partition in owned
    )


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 17))
def test_uniform_is_balanced_and_complete(members: int, gps: int, orders: int) -> None:
    names = [MemberId(f"m{number}") for number in range(members)]
    result = uniform(subscribers(names, [GPS, ORDERS]), {GPS: gps, ORDERS: orders})
    loads = [len(owned) for owned in result.values()]
    assert sum(loads) == gps + orders
    assert len(set().union(*result.values())) == gps + orders
    assert max(loads) - min(loads) <= 1


@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 60))
def test_joins_move_no_more_than_they_must(old: int, new: int, partitions: int) -> None:
    old_names = [MemberId(f"b{number}") for number in range(old)]
    before = uniform(subscribers(old_names, [GPS]), {GPS: partitions})
    names = [*old_names, *(MemberId(f"{'ac'[number % 2]}{number}") for number in range(new))]
    after = uniform(subscribers(names, [GPS], before), {GPS: partitions})
    loads = sorted((len(owned) for owned in after.values()), reverse=True)
    assert loads[0] - loads[-1] <= 1
    # What the newcomers own is exactly what had to move.
    assert moves(before, after) == sum(len(after[name]) for name in names[old:])
    # And they own no more than a fair share of the smaller kind, unless the old ones are full.
    floor, larger = divmod(partitions, old + new)
    surplus = max(0, larger - old)
    assert moves(before, after) == floor * new + surplus


@given(st.integers(2, 10), st.integers(0, 60), st.data())
def test_a_leave_moves_only_what_is_orphaned(
    count: int, partitions: int, data: st.DataObject
) -> None:
    names = [MemberId(f"m{number}") for number in range(count)]
    before = uniform(subscribers(names, [GPS]), {GPS: partitions})
    gone = data.draw(st.sampled_from(names))
    after = uniform(
        subscribers([name for name in names if name != gone], [GPS], before), {GPS: partitions}
    )
    assert all(before[name] <= after[name] for name in after)


@given(
    st.dictionaries(
        st.sampled_from("abcdefg"),
        st.sets(st.sampled_from([GPS, ORDERS, ALERTS]), min_size=1),
        min_size=1,
    ),
    st.tuples(st.integers(0, 12), st.integers(0, 7), st.integers(0, 4)),
)
@settings(max_examples=300)
def test_mixed_subscriptions_leave_no_move_that_helps(
    topics_of: dict[str, set[TopicId]], counts: tuple[int, int, int]
) -> None:
    partition_counts = dict(zip([GPS, ORDERS, ALERTS], counts, strict=True))
    members = [
        Subscriber(member_id=MemberId(name), topics=frozenset(topics))
        for name, topics in topics_of.items()
    ]
    result = uniform(members, partition_counts)
    for name, owned in result.items():
        assert all(partition.topic_id in topics_of[name] for partition in owned)
        for partition in owned:
            for other, topics in topics_of.items():
                if partition.topic_id in topics:
                    assert len(owned) - len(result[MemberId(other)]) <= 1
    read = {topic for topics in topics_of.values() for topic in topics}
    assert sum(map(len, result.values())) == sum(partition_counts[each] for each in read)


def test_the_order_of_members_does_not_matter() -> None:
    members = subscribers("abcde", [GPS])
    assert uniform(members, {GPS: 13}) == uniform(members[::-1], {GPS: 13})


def test_racks_are_respected_where_balance_allows() -> None:
    racks = {"a": "north", "b": "south", "c": "west"}
    where = ["south", "north", "west", "west", "south", "north"]

    def racks_of(partition: TopicIdPartition) -> frozenset[str]:
        return frozenset([where[partition.partition]])

    result = uniform(subscribers("abc", [GPS], racks=racks), {GPS: 6}, racks_of)
    for name, owned in result.items():
        assert {where[partition.partition] for partition in owned} == {racks[name]}
        assert len(owned) == 2


def test_balance_goes_before_racks() -> None:
    result = uniform(
        subscribers("ab", [GPS], racks={"a": "north", "b": "south"}),
        {GPS: 6},
        lambda _: frozenset(["north"]),
    )
    assert sorted(map(len, result.values())) == [3, 3]


def test_a_newcomer_is_given_partitions_of_its_rack() -> None:
    def racks_of(partition: TopicIdPartition) -> frozenset[str]:
        return frozenset(["south" if partition.partition < 2 else "north"])

    before = uniform(subscribers("a", [GPS], racks={"a": "north"}), {GPS: 4}, racks_of)
    after = uniform(
        subscribers("ab", [GPS], before, racks={"a": "north", "b": "south"}), {GPS: 4}, racks_of
    )
    assert {partition.partition for partition in after[B]} == {0, 1}


def test_range_gives_equal_indexes_to_one_member() -> None:
    result = assign(Assignor.RANGE, subscribers("ab", [GPS, ORDERS]), {GPS: 5, ORDERS: 5}, no_racks)
    assert result[A] == {
        TopicIdPartition(topic, PartitionIndex(index))
        for topic in (GPS, ORDERS)
        for index in range(3)
    }
    assert len(result[B]) == 4


def test_range_respects_subscriptions() -> None:
    members = [*subscribers("a", [GPS]), *subscribers("b", [GPS, ORDERS])]
    result = assign(Assignor.RANGE, members, {GPS: 2, ORDERS: 2}, no_racks)
    assert {each.topic_id for each in result[A]} == {GPS}
    assert len(result[B]) == 3

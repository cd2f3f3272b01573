"""An image is a value; updates make the next one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.node.cluster.image import (
    ClusterImage,
    ImageUpdate,
    NodeState,
    PartitionState,
    TopicState,
)
from odradek.node.cluster.translation import update_from_proto, update_to_proto
from odradek.protocol.errors import (
    InconsistentTopicIdError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.types import (
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)


def _partition(index: int, uid: int, *, leader: int = 1, epoch: int = 0) -> PartitionState:
    return PartitionState(
        index=PartitionIndex(index),
        uid=PartitionUid(uid),
        leader_id=NodeId(leader),
        leader_epoch=LeaderEpoch(epoch),
        partition_epoch=PartitionEpoch(epoch),
        replicas=(NodeId(1), NodeId(2)),
        isr=(NodeId(1),),
    )


def _topic(number: int, partitions: int = 2, name: str = "") -> TopicState:
    return TopicState(
        name=TopicName(name or f"topic-{number}"),
        topic_id=TopicId(number.to_bytes(16, "big")),
        partitions=tuple(_partition(i, number * 100 + i) for i in range(partitions)),
        config={"retention.ms": "1"},
    )


def _node(number: int, *, fenced: bool = False) -> NodeState:
    return NodeState(
        node_id=NodeId(number),
        host="h",
        port=7,
        incarnation=Incarnation(1),
        fenced=fenced,
        rack="r",
    )


def _image(*topics: TopicState) -> ClusterImage:
    return ClusterImage().apply(
        ImageUpdate(version=3, snapshot=True, nodes=(_node(1),), topics=topics)
    )


def test_a_partition_changes_without_touching_the_image_before() -> None:
    before = _image(_topic(1))
    changed = _partition(1, 101, leader=2, epoch=5)
    after = before.apply(
        ImageUpdate(version=4, partitions=((TopicId((1).to_bytes(16, "big")), changed),))
    )
    assert after.topics[_topic(1).topic_id].partitions == (_partition(0, 100), changed)
    assert before.topics[_topic(1).topic_id].partitions[1].leader_epoch == 0
    assert after.leader_of(_topic(1).topic_id, "", 1) == (2, 5)


def test_a_recreated_topic_is_found_under_its_new_id() -> None:
    old, new = _topic(1, name="t"), _topic(2, name="t")
    after = _image(old).apply(
        ImageUpdate(version=4, removed_topic_ids=(old.topic_id,), topics=(new,))
    )
    assert after.topic_named("t") is new
    with pytest.raises(UnknownTopicIdError):
        after.topic(old.topic_id, "t")


def test_names_and_ids_must_fit() -> None:
    image = _image(_topic(1, name="a"), _topic(2, name="b"))
    assert image.topic(b"", "a").name == "a"
    assert image.topic(_topic(2).topic_id, "").name == "b"
    with pytest.raises(InconsistentTopicIdError):
        image.topic(_topic(2).topic_id, "a")


def test_unknown_names_bring_near_ones_but_never_internal_ones() -> None:
    internal = TopicState(
        name=TopicName("__positions"), topic_id=TopicId(b"x" * 16), internal=True, partitions=()
    )
    image = _image(_topic(1, name="positions"), internal)
    with pytest.raises(UnknownTopicOrPartitionError) as caught:
        image.topic(b"", "positons")
    assert caught.value.suggestions == ("positions",)
    assert "'positions'" in caught.value.message


@pytest.mark.parametrize("index", [-1, 2, 1 << 31])
def test_partitions_beyond_the_last_are_unknown(index: int) -> None:
    image = _image(_topic(1))
    with pytest.raises(UnknownTopicOrPartitionError) as caught:
        image.partition(_topic(1), index)
    assert caught.value.limit == "1"


_updates = st.lists(
    st.one_of(
        st.builds(
            lambda n, partitions: {"topics": (_topic(n, partitions),)},
            st.integers(1, 4),
            st.integers(1, 3),
        ),
        st.builds(lambda n: {"removed_topic_ids": (_topic(n).topic_id,)}, st.integers(1, 4)),
        st.builds(
            lambda n, fenced: {"nodes": (_node(n, fenced=fenced),)},
            st.integers(1, 3),
            st.booleans(),
        ),
        st.builds(lambda n: {"removed_node_ids": (NodeId(n),)}, st.integers(1, 3)),
    ),
    max_size=12,
)


@given(_updates)
def test_a_snapshot_and_the_steps_to_it_make_the_same_image(steps: list[dict[str, object]]) -> None:
    image = ClusterImage()
    for version, step in enumerate(steps, start=1):
        update = ImageUpdate(version=version, **step)  # type: ignore[arg-type]
        image = image.apply(update_from_proto(update_to_proto(update)))
    copy = ClusterImage().apply(update_from_proto(update_to_proto(image.snapshot())))
    assert copy == image
    for topic in image.topics.values():
        assert image.topic_named(topic.name) == topic

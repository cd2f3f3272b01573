"""Records of __consumer_offsets: round trip, and bytes nobody should meet."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from odradek.node.coordination.model import TopicIdPartition
from odradek.node.coordination.records import (
    GroupEmptied,
    GroupRevived,
    OffsetCommitted,
    OffsetForgotten,
    OffsetsRecord,
    decode,
    encode,
)
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.types import GroupId, LeaderEpoch, Offset, PartitionIndex, TopicId

groups = st.text(min_size=1, max_size=40).map(GroupId)
partitions = st.builds(
    TopicIdPartition,
    st.binary(min_size=16, max_size=16).map(TopicId),
    st.integers(0, 2**31 - 1).map(PartitionIndex),
)
commits = st.builds(
    OffsetCommitted,
    group=groups,
    partition=partitions,
    offset=st.integers(0, 2**63 - 1).map(Offset),
    leader_epoch=st.integers(-1, 2**31 - 1).map(LeaderEpoch),
    metadata=st.text(max_size=60),
    commit_time_ms=st.integers(0, 2**62),
)
commits_of_members = st.builds(
    replace,
    commits,
    member_id=st.text(min_size=1, max_size=60),
    sequence=st.integers(1, 2**64 - 1),
)
records = st.one_of(
    commits,
    commits_of_members,
    st.builds(OffsetForgotten, groups, partitions),
    st.builds(GroupEmptied, groups, st.integers(0, 2**62)),
    st.builds(GroupRevived, groups),
)


@given(records)
def test_round_trip(record: OffsetsRecord) -> None:
    assert decode(*encode(record)) == record


@given(groups, partitions)
def test_a_tombstone_has_the_key_of_what_it_deletes(
    group: GroupId, partition: TopicIdPartition
) -> None:
    committed = OffsetCommitted(
        group=group,
        partition=partition,
        offset=Offset(1),
        leader_epoch=LeaderEpoch(0),
        metadata="",
        commit_time_ms=0,
    )
    assert encode(committed)[0] == encode(OffsetForgotten(group, partition))[0]
    assert encode(GroupEmptied(group, 7))[0] == encode(GroupRevived(group))[0]


def test_what_a_newer_release_wrote_is_skipped() -> None:
    assert decode(b"\x00\x63anything", b"at all") is None
    key, value = encode(GroupEmptied(GroupId("g"), 7))
    assert value is not None
    assert decode(key, b"\x00\x02" + value[2:]) is None


@pytest.mark.parametrize("key", [b"", b"\x00", b"\x00\x01", b"\x00\x01\x00\x02ab", None])
def test_damaged_keys_are_named(key: bytes | None) -> None:
    with pytest.raises(CorruptMessageError):
        decode(key, b"\x00\x01")


@given(st.binary(max_size=60), st.none() | st.binary(max_size=60))
def test_no_bytes_raise_anything_else(key: bytes, value: bytes | None) -> None:
    try:
        decode(key, value)
    except CorruptMessageError:
        return

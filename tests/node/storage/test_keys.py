"""Keys compare as what they name."""

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.keys import (
    Kind,
    Table,
    batch_key,
    index_key,
    offset_of,
    offset_range,
    partition_range,
    state_key,
    state_key_of,
    successor,
)
from odradek.protocol.types import Offset, PartitionUid

uids = st.integers(0, 2**64 - 1).map(PartitionUid)
offsets = st.integers(0, 2**63 - 1).map(Offset)


@given(uids, offsets, uids, offsets)
def test_keys_order_by_uid_then_offset(
    a: PartitionUid, a_offset: Offset, b: PartitionUid, b_offset: Offset
) -> None:
    for make in (batch_key, index_key):
        smaller = make(a, a_offset) < make(b, b_offset)
        assert smaller == ((a, a_offset) < (b, b_offset))
    assert offset_of(batch_key(a, a_offset)) == a_offset


@given(uids, offsets, uids, st.binary(max_size=20))
def test_a_partition_is_one_range_per_kind(
    uid: PartitionUid, offset: Offset, other: PartitionUid, key: bytes
) -> None:
    owned = {
        Kind.BATCH: batch_key(uid, offset),
        Kind.INDEX: index_key(uid, offset),
        Kind.STATE: state_key(uid, Table.LOG, key),
    }
    for kind in Kind:
        begin, end = partition_range(kind, uid)
        for owner_kind, owned_key in owned.items():
            assert (begin <= owned_key < end) == (owner_kind is kind)
        if other != uid:
            foreign_begin, foreign_end = partition_range(kind, other)
            assert end <= foreign_begin or foreign_end <= begin


@given(uids, offsets, offsets, offsets)
def test_offset_ranges_are_half_open(
    uid: PartitionUid, offset: Offset, begin: Offset, end: Offset
) -> None:
    first, last = offset_range(Kind.INDEX, uid, begin, end)
    assert (first <= index_key(uid, offset) < last) == (begin <= offset < end)
    first, last = offset_range(Kind.INDEX, uid, begin)
    assert (first <= index_key(uid, offset) < last) == (begin <= offset)


@given(uids, st.sampled_from(Table), st.binary(max_size=20), st.binary(max_size=20))
def test_state_keys_keep_their_owners_order(
    uid: PartitionUid, table: Table, a: bytes, b: bytes
) -> None:
    assert (state_key(uid, table, a) < state_key(uid, table, b)) == (a < b)
    assert state_key_of(state_key(uid, table, a)) == a


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_the_successor_ends_a_prefix(rest: bytes, other: bytes) -> None:
    prefix = b"s" + rest
    assert prefix + other < successor(prefix)
    assert successor(b"a\xff\xff") == b"b\x00\x00"

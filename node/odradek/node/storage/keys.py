"""Order-preserving keys: what lies next to what on disk. Pure.

One ordered key space holds everything a node stores. A key is a kind (1 byte), the partition uid
(uint64, big-endian) and, by kind, an offset (uint64, big-endian) or a table and its own key:

    b uid offset         the batch with this base offset: its bytes, in blob files
    i uid offset         the same batch in the index: 77 bytes that answer all but its records
    s uid table key      state: small values of the log itself and of whoever else keeps some

Idea: bytes compare as the numbers do, so that a partition is one range per kind, an offset is found
by one seek backwards, and dropping, truncating or retaining are range deletions.

Invariant: `key(a) < key(b)` exactly when (kind, uid, offset) of a is smaller than b's.
"""

import enum
import struct

from odradek.protocol.types import FIRST_OFFSET, Offset, PartitionUid

_UID = struct.Struct(">Q")
_UID_OFFSET = struct.Struct(">QQ")
_KIND_BYTES = 1
_STATE_KEY_AT = _KIND_BYTES + _UID.size + 1
_UID_COUNT = 1 << 64


class Kind(enum.Enum):
    """What a key leads to; the value is its first byte."""

    BATCH = b"b"
    INDEX = b"i"
    STATE = b"s"


class Table(enum.IntEnum):
    """Whose state it is; the value is a byte of the key and never reused."""

    LOG = 0
    COMMITTED_OFFSETS = 1
    TRANSACTIONS = 2
    REPLICA = 3


def batch_key(uid: PartitionUid, offset: Offset) -> bytes:
    """Key of the batch that starts at an offset."""
    return b"b" + _UID_OFFSET.pack(uid, offset)


def index_key(uid: PartitionUid, offset: Offset) -> bytes:
    """Key of the index entry of the batch that starts at an offset."""
    return b"i" + _UID_OFFSET.pack(uid, offset)


def state_key(uid: PartitionUid, table: Table, key: bytes) -> bytes:
    """Key of a small value that belongs to a partition."""
    return b"s" + _UID.pack(uid) + bytes((table,)) + key


def offset_of(key: bytes) -> Offset:
    """Return the offset in a batch's or an index entry's key."""
    return Offset(_UID_OFFSET.unpack_from(key, _KIND_BYTES)[1])


def state_key_of(key: bytes) -> bytes:
    """Return what `state_key` was given as key."""
    return key[_STATE_KEY_AT:]


def successor(prefix: bytes) -> bytes:
    """Return the smallest key greater than every key with this prefix."""
    number = int.from_bytes(prefix, "big") + 1
    assert number < 1 << (8 * len(prefix)), "no kind is 0xff"
    return number.to_bytes(len(prefix), "big")


def partition_prefix(kind: Kind, uid: PartitionUid) -> bytes:
    """What all keys of a kind and a partition begin with, and no others."""
    assert 0 <= uid < _UID_COUNT
    return kind.value + _UID.pack(uid)


def partition_range(kind: Kind, uid: PartitionUid) -> tuple[bytes, bytes]:
    """Return begin (inclusive) and end (exclusive) of all keys of a kind and a partition."""
    prefix = partition_prefix(kind, uid)
    return prefix, successor(prefix)


def offset_range(
    kind: Kind, uid: PartitionUid, begin: Offset = FIRST_OFFSET, end: Offset | None = None
) -> tuple[bytes, bytes]:
    """Return begin (inclusive) and end (exclusive) of the keys with base offsets in [begin, end).

    Args:
        end: None for everything from `begin` on.
    """
    prefix = partition_prefix(kind, uid)
    last = successor(prefix) if end is None else kind.value + _UID_OFFSET.pack(uid, end)
    return kind.value + _UID_OFFSET.pack(uid, begin), last

"""Order-preserving keys: what lies next to what on disk. Pure.

One ordered key space holds everything a node stores. A key is a kind (1 byte), the partition uid
(uint64, big-endian) and, by kind, an offset (uint64, big-endian) or a table and its own key:

    b uid offset         the batch with this base offset: its bytes, or their place in the value log
    i uid offset         the same batch in the index: 77 bytes that answer all but its records
    s uid table key      state: small values of the log itself and of whoever else keeps some
    r uid                batches below this offset are released: their room is still to be reclaimed
    p segment position   a place in the value log: uid and base offset of the batch written there
    v segment            a segment of the value log: its bytes, and how many of them live

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
    RELEASED = b"r"
    PLACE = b"p"
    SEGMENT = b"v"


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


def released_key(uid: PartitionUid) -> bytes:
    """Key of the offset below which a partition's batches are released."""
    return b"r" + _UID.pack(uid)


def place_key(segment: int, position: int) -> bytes:
    """Key of what was written at a place of the value log."""
    return b"p" + _UID_OFFSET.pack(segment, position)


def segment_key(segment: int) -> bytes:
    """Key of a segment's account."""
    return b"v" + _UID.pack(segment)


def number_of(key: bytes) -> int:
    """Return the first number in a key: the uid, or the segment."""
    number: int = _UID.unpack_from(key, _KIND_BYTES)[0]
    return number


def kind_range(kind: Kind) -> tuple[bytes, bytes]:
    """Return begin (inclusive) and end (exclusive) of all keys of a kind."""
    return kind.value, successor(kind.value)


def pack_offset(offset: Offset) -> bytes:
    """Return an offset as a value."""
    return offset.to_bytes(8, "big")


def unpack_offset(value: bytes) -> Offset:
    """Read what `pack_offset` wrote; nothing is 0."""
    return Offset(int.from_bytes(value, "big"))


def pack_batch_id(uid: PartitionUid, offset: Offset) -> bytes:
    """Return what names a batch, as a value."""
    return _UID_OFFSET.pack(uid, offset)


def unpack_batch_id(value: bytes) -> tuple[PartitionUid, Offset]:
    """Read what `pack_batch_id` wrote."""
    uid, offset = _UID_OFFSET.unpack(value)
    return PartitionUid(uid), Offset(offset)


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

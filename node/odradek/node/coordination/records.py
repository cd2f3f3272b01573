"""What stands in `__consumer_offsets`. Pure.

A key names what a record is about, so that compaction keeps the last word on each; no value is a
tombstone. All numbers are big-endian. Keys begin with their kind and values with their version; a
kind or version that only a newer release knows is skipped on replay, never misread.

    kind 1, an offset:   key   u16 1 | group (u16 length, UTF-8) | topic id (16) | partition i32
                         value u16 1 | offset i64 | leader epoch i32 | commit time ms i64
                               | metadata (UTF-8, the rest)
      of a counted       value u16 2 | offset i64 | leader epoch i32 | commit time ms i64
      commit                   | sequence u64 | member (u16 length, UTF-8) | metadata
    kind 2, a group has  key   u16 2 | group (u16 length, UTF-8)
    had no members since value u16 1 | time ms i64

Source: Kafka's OffsetCommitKey and OffsetCommitValue; ours name topics by id.
"""

import struct
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from odradek.node.coordination.model import TopicIdPartition
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.types import GroupId, LeaderEpoch, Offset, PartitionIndex, TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetCommitted:
    """A group has read a partition up to an offset."""

    group: GroupId
    partition: TopicIdPartition
    offset: Offset
    """The next one to read."""
    leader_epoch: LeaderEpoch
    metadata: str
    commit_time_ms: int
    member_id: str = ""
    """Who committed; empty: nobody, or without counting."""
    sequence: int = 0
    """Which of the member's commits it is; 0: not counted."""


@dataclass(frozen=True, slots=True)
class OffsetForgotten:
    """A committed offset was deleted."""

    group: GroupId
    partition: TopicIdPartition


@dataclass(frozen=True, slots=True)
class GroupEmptied:
    """A group with committed offsets has had no members since."""

    group: GroupId
    at_ms: int


@dataclass(frozen=True, slots=True)
class GroupRevived:
    """It has members again, or it is deleted."""

    group: GroupId


OffsetsRecord: TypeAlias = OffsetCommitted | OffsetForgotten | GroupEmptied | GroupRevived

_KIND_OFFSET = 1
_KIND_EMPTIED = 2
_VERSION = 1
_VERSION_COUNTED = 2
_U16 = struct.Struct(">H")
_PARTITION = struct.Struct(">16si")
_OFFSET = struct.Struct(">Hqiq")
_COUNTED = struct.Struct(">QH")
_EMPTIED = struct.Struct(">Hq")
_TOPIC_ID_BYTES = 16


def encode(record: OffsetsRecord) -> tuple[bytes, bytes | None]:
    """Return the key and the value of a record; no value is a tombstone."""
    match record:
        case OffsetCommitted():
            return _offset_key(record.group, record.partition), _offset_value(record)
        case OffsetForgotten():
            return _offset_key(record.group, record.partition), None
        case GroupEmptied():
            return _group_key(_KIND_EMPTIED, record.group), _EMPTIED.pack(_VERSION, record.at_ms)
        case GroupRevived():
            return _group_key(_KIND_EMPTIED, record.group), None
        case _:
            assert_never(record)


def decode(key: bytes | None, value: bytes | None) -> OffsetsRecord | None:
    """Return a record; None for one that only a newer release knows.

    Raises:
        CorruptMessageError: Bytes no release has written.
    """
    try:
        return _decode(key or b"", value)
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptMessageError(
            f"a record of __consumer_offsets is damaged: {error}", field="key", value=key
        ) from error


def _decode(key: bytes, value: bytes | None) -> OffsetsRecord | None:
    (kind,) = _U16.unpack_from(key)
    if kind not in {_KIND_OFFSET, _KIND_EMPTIED}:
        return None
    (length,) = _U16.unpack_from(key, _U16.size)
    end = 2 * _U16.size + length
    group = GroupId(key[2 * _U16.size : end].decode())
    version = _U16.unpack_from(value)[0] if value is not None else _VERSION
    if version != _VERSION and (kind, version) != (_KIND_OFFSET, _VERSION_COUNTED):
        return None
    if kind == _KIND_EMPTIED:
        if value is None:
            return GroupRevived(group)
        return GroupEmptied(group, _EMPTIED.unpack(value)[1])
    topic_id, index = _PARTITION.unpack_from(key, end)
    partition = TopicIdPartition(TopicId(topic_id), PartitionIndex(index))
    if value is None:
        return OffsetForgotten(group, partition)
    _, offset, leader_epoch, commit_time_ms = _OFFSET.unpack_from(value)
    sequence, member_id, end = 0, "", _OFFSET.size
    if version == _VERSION_COUNTED:
        sequence, length = _COUNTED.unpack_from(value, end)
        end += _COUNTED.size + length
        member_id = value[end - length : end].decode()
    return OffsetCommitted(
        group=group,
        partition=partition,
        offset=Offset(offset),
        leader_epoch=LeaderEpoch(leader_epoch),
        metadata=value[end:].decode(),
        commit_time_ms=commit_time_ms,
        member_id=member_id,
        sequence=sequence,
    )


def _offset_value(record: OffsetCommitted) -> bytes:
    version = _VERSION_COUNTED if record.sequence else _VERSION
    head = _OFFSET.pack(version, record.offset, record.leader_epoch, record.commit_time_ms)
    if record.sequence:
        member_id = record.member_id.encode()
        head += _COUNTED.pack(record.sequence, len(member_id)) + member_id
    return head + record.metadata.encode()


def _group_key(kind: int, group: GroupId) -> bytes:
    name = group.encode()
    return _U16.pack(kind) + _U16.pack(len(name)) + name


def _offset_key(group: GroupId, partition: TopicIdPartition) -> bytes:
    assert len(partition.topic_id) == _TOPIC_ID_BYTES, "topic ids have 16 bytes"
    return _group_key(_KIND_OFFSET, group) + _PARTITION.pack(*partition)

"""The 61 bytes a broker may read and write.

Layout, big-endian; the CRC-32C covers everything from `attributes` to the end of the batch, so that
`base_offset` and `leader_epoch` can be stamped without touching the payload:

    0 base_offset i64 | 8 batch_length i32 (bytes after this field) | 12 leader_epoch i32 | 16 magic
    17 crc u32 | 21 attributes i16 | 23 last_offset_delta i32 | 27 base_timestamp i64
    35 max_timestamp i64 | 43 producer_id i64 | 51 producer_epoch i16 | 53 base_sequence i32
    57 record_count i32 | 61 records

Attributes: bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon (set by
compaction). Invariant: functions here that change bytes under the CRC leave it correct.

Source: Apache Kafka protocol guide, "Record Batch"; Kafka's DefaultRecordBatch.java.
"""

import enum
import struct
from typing import NamedTuple, Self

from crc32c import crc32c

from odradek.protocol.types import LeaderEpoch, Offset, ProducerEpoch, ProducerId

HEADER_BYTES = 61
MAGIC = 2
LENGTH_FIELD_END = 12
"""A batch is this many bytes longer than its `batch_length` says."""
ATTRIBUTES_AT = 21
CODEC_BITS = 0x07
LOG_APPEND_TIME_BIT = 0x08
TRANSACTIONAL_BIT = 0x10
CONTROL_BIT = 0x20
SEQUENCE_COUNT = 1 << 31
"""Sequences are non-negative int32 and wrap to 0."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
_OFFSET = struct.Struct(">q")
_EPOCH = struct.Struct(">i")
_CRC = struct.Struct(">I")
_ATTRIBUTES = struct.Struct(">h")
_TIMESTAMP = struct.Struct(">q")
_PRODUCER = struct.Struct(">qhi")
_STAMP = struct.Struct(">qii")
_LENGTH_AT = 8
_LEADER_EPOCH_AT = 12
_CRC_AT = 17
_MAX_TIMESTAMP_AT = 35
_PRODUCER_AT = 43

assert _HEADER.size == HEADER_BYTES


class Codec(enum.IntEnum):
    """How the records of a batch are compressed; the number is the wire's."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class BatchHeader(NamedTuple):
    """A parsed header: a tuple, because one is made for every batch on the append path.

    Parsing checks nothing but that 61 bytes are there; see `validation`.
    """

    base_offset: Offset
    batch_length: int
    leader_epoch: LeaderEpoch
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    """Milliseconds since the epoch, of the first record."""
    max_timestamp: int
    """Milliseconds since the epoch."""
    producer_id: ProducerId
    producer_epoch: ProducerEpoch
    base_sequence: int
    record_count: int

    @classmethod
    def parse(cls, buffer: bytes | bytearray | memoryview) -> Self:
        """Read the header at the start of a buffer of at least `HEADER_BYTES`."""
        return cls._make(_HEADER.unpack_from(buffer))

    def placed(self, base_offset: Offset, leader_epoch: LeaderEpoch) -> "BatchHeader":
        """Return it with what a leader assigns; quicker than `_replace`."""
        return BatchHeader._make((base_offset, self[1], leader_epoch, *self[3:]))

    def pack(self) -> bytes:
        """Return the 61 bytes of this header, the CRC as it stands here."""
        return _HEADER.pack(*self)

    @property
    def size_bytes(self) -> int:
        """The whole batch, header included."""
        return self.batch_length + LENGTH_FIELD_END

    @property
    def last_offset(self) -> Offset:
        """The offset of the last record (inclusive)."""
        return Offset(self.base_offset + self.last_offset_delta)

    @property
    def next_offset(self) -> Offset:
        """The offset after the batch (exclusive end)."""
        return Offset(self.base_offset + self.last_offset_delta + 1)

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record, wrapped; meaningless without a producer id."""
        return (self.base_sequence + self.last_offset_delta) % SEQUENCE_COUNT

    @property
    def codec_id(self) -> int:
        """The codec bits; a `Codec` when the batch is valid."""
        return self.attributes & CODEC_BITS

    @property
    def has_producer_id(self) -> bool:
        """Whether an idempotent producer wrote it."""
        return self.producer_id >= 0

    @property
    def is_transactional(self) -> bool:
        """Whether it belongs to a transaction."""
        return bool(self.attributes & TRANSACTIONAL_BIT)

    @property
    def is_control(self) -> bool:
        """Whether it holds a transaction marker, which no consumer is shown."""
        return bool(self.attributes & CONTROL_BIT)

    @property
    def is_log_append_time(self) -> bool:
        """Whether `max_timestamp` is the broker's time and goes for every record."""
        return bool(self.attributes & LOG_APPEND_TIME_BIT)


def next_sequence(sequence: int, record_count: int = 1) -> int:
    """Advance a sequence number; after 2**31 - 1 comes 0."""
    return (sequence + record_count) % SEQUENCE_COUNT


def crc_of(buffer: bytes | bytearray | memoryview) -> int:
    """Compute the CRC-32C a batch must carry.

    The GIL stays held: at 18 GB/s a batch takes microseconds, getting the GIL back may take more.
    """
    return crc32c(memoryview(buffer)[ATTRIBUTES_AT:], 0, 0)


def stamp(batch: bytearray | memoryview, base_offset: Offset, leader_epoch: LeaderEpoch) -> None:
    """Write, in place, what the leader assigns; both fields lie outside the CRC."""
    _OFFSET.pack_into(batch, 0, base_offset)
    _EPOCH.pack_into(batch, _LEADER_EPOCH_AT, leader_epoch)


def stamp_log_append_time(batch: bytearray | memoryview, timestamp_ms: int) -> None:
    """Give every record of the batch, in place, the broker's time; the CRC is computed anew."""
    (attributes,) = _ATTRIBUTES.unpack_from(batch, ATTRIBUTES_AT)
    _ATTRIBUTES.pack_into(batch, ATTRIBUTES_AT, attributes | LOG_APPEND_TIME_BIT)
    _TIMESTAMP.pack_into(batch, _MAX_TIMESTAMP_AT, timestamp_ms)
    _CRC.pack_into(batch, _CRC_AT, crc_of(batch))


def stamp_producer(
    batch: bytearray | memoryview,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: int,
) -> None:
    """Write, in place, the producer's identity; the CRC is computed anew."""
    _PRODUCER.pack_into(batch, _PRODUCER_AT, producer_id, producer_epoch, base_sequence)
    _CRC.pack_into(batch, _CRC_AT, crc_of(batch))


def stamped(
    batch: bytes | bytearray | memoryview, base_offset: Offset, leader_epoch: LeaderEpoch
) -> bytes:
    """Return a copy of a batch with what the leader assigns: the only copy an append makes."""
    view = memoryview(batch)
    head = _STAMP.pack(base_offset, _EPOCH.unpack_from(batch, _LENGTH_AT)[0], leader_epoch)
    return b"".join((head, view[_STAMP.size :]))

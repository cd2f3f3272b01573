"""What must hold of bytes before they are believed to be a batch.

Two depths. `verify` proves integrity: the bytes are exactly one batch as somebody once built it; it
suffices between our own logs. `validate` adds what a producer may and may not send.

Invariant: only typed errors leave, each naming field, value and limit, whatever the bytes.

Source: org.apache.kafka.storage.internals.log.LogValidator; SEMANTICS.md.
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias

from odradek.protocol.errors import (
    CorruptMessageError,
    InvalidRecordError,
    RecordTooLargeError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)
from odradek.protocol.record_batch.header import (
    CODEC_BITS,
    HEADER_BYTES,
    LENGTH_FIELD_END,
    MAGIC,
    TRANSACTIONAL_BIT,
    BatchHeader,
    Codec,
    crc_of,
)

Buffer: TypeAlias = bytes | bytearray | memoryview

_LENGTH = struct.Struct(">i")
_LENGTH_AT = 8
_PRODUCER_ATTRIBUTES = CODEC_BITS | TRANSACTIONAL_BIT


def verify(buffer: Buffer) -> BatchHeader:
    """Prove that a buffer is exactly one undamaged batch.

    Raises:
        CorruptMessageError: Truncated, of another length than declared, or its CRC fails.
        UnsupportedForMessageFormatError: Another magic.
        UnsupportedCompressionTypeError: An unknown codec.
    """
    header = _parse(buffer)
    _check_crc(buffer, header)
    return header


def validate(buffer: Buffer, batch_bytes_max: int) -> BatchHeader:
    """Prove that a buffer is one batch that a producer may append.

    Args:
        buffer: One batch, as received.
        batch_bytes_max: The topic's `max.message.bytes`.

    Raises:
        RecordTooLargeError: Larger than the limit; names both sizes.
        InvalidRecordError: Counts, attributes or producer fields that contradict each other.
        CorruptMessageError, UnsupportedForMessageFormatError, UnsupportedCompressionTypeError: As
            in `verify`.
    """
    header = _parse(buffer)
    _check_counts(header)
    if header.size_bytes > batch_bytes_max:
        raise RecordTooLargeError(
            f"the batch has {header.size_bytes} bytes, the topic allows {batch_bytes_max}",
            field="max.message.bytes",
            value=header.size_bytes,
            limit=batch_bytes_max,
        )
    _check_crc(buffer, header)
    _check_producer_fields(header)
    return header


def declared_bytes(buffer: Buffer) -> int:
    """Return how many bytes the first batch of a buffer says it has; -1 when it is too short."""
    if len(buffer) < HEADER_BYTES:
        return -1
    length: int = _LENGTH.unpack_from(buffer, _LENGTH_AT)[0]
    return length + LENGTH_FIELD_END


def split(buffer: Buffer) -> Iterator[memoryview]:
    """Cut concatenated batches apart by their declared lengths, copying nothing.

    Raises:
        CorruptMessageError: A batch is cut short, or a length is impossible.
    """
    view = memoryview(buffer)
    start = 0
    while start < len(view):
        if len(view) - start < HEADER_BYTES:
            raise _truncated(len(view) - start, HEADER_BYTES)
        size = _LENGTH.unpack_from(view, start + _LENGTH_AT)[0] + LENGTH_FIELD_END
        if not HEADER_BYTES <= size <= len(view) - start:
            raise _truncated(len(view) - start, size)
        yield view[start : start + size]
        start += size


def _parse(buffer: Buffer) -> BatchHeader:
    if len(buffer) < HEADER_BYTES:
        raise _truncated(len(buffer), HEADER_BYTES)
    header = BatchHeader.parse(buffer)
    if header.size_bytes != len(buffer):
        raise _truncated(len(buffer), header.size_bytes)
    if header.magic != MAGIC:
        raise UnsupportedForMessageFormatError(
            f"record batches have magic {MAGIC}, this one has {header.magic}",
            field="magic",
            value=header.magic,
            limit=MAGIC,
        )
    if header.codec_id > Codec.ZSTD:
        raise UnsupportedCompressionTypeError(
            f"compression codec {header.codec_id} is unknown",
            field="attributes.codec",
            value=header.codec_id,
            limit=Codec.ZSTD.value,
        )
    return header


def _truncated(found_bytes: int, needed_bytes: int) -> CorruptMessageError:
    return CorruptMessageError(
        f"the batch should have {needed_bytes} bytes, {found_bytes} are here",
        field="batch_length",
        value=found_bytes,
        limit=needed_bytes,
    )


def _check_crc(buffer: Buffer, header: BatchHeader) -> None:
    crc = crc_of(buffer)
    if crc != header.crc:
        raise CorruptMessageError(
            f"the batch's CRC is {header.crc:#010x}, its bytes have {crc:#010x}",
            field="crc",
            value=f"{crc:#010x}",
            limit=f"{header.crc:#010x}",
        )


def _check_counts(header: BatchHeader) -> None:
    if header.record_count <= 0:
        raise InvalidRecordError(
            f"a batch holds at least one record, this one claims {header.record_count}",
            field="record_count",
            value=header.record_count,
            limit=1,
        )
    if header.last_offset_delta != header.record_count - 1:
        raise InvalidRecordError(
            f"{header.record_count} records have last offset delta {header.record_count - 1}, "
            f"this batch claims {header.last_offset_delta}",
            field="last_offset_delta",
            value=header.last_offset_delta,
            limit=header.record_count - 1,
        )


def _check_producer_fields(header: BatchHeader) -> None:
    if header.attributes & ~_PRODUCER_ATTRIBUTES:
        raise InvalidRecordError(
            "a producer sets no attributes but codec and transactional",
            field="attributes",
            value=f"{header.attributes & 0xFFFF:#06x}",
            limit=f"{_PRODUCER_ATTRIBUTES:#06x}",
        )
    if header.has_producer_id:
        valid = header.producer_epoch >= 0 and header.base_sequence >= 0
    else:
        valid = not header.is_transactional
    if not valid:
        raise InvalidRecordError(
            f"producer id {header.producer_id}, epoch {header.producer_epoch}, sequence "
            f"{header.base_sequence}, transactional={header.is_transactional} do not go together",
            field="producer_id",
            value=header.producer_id,
        )

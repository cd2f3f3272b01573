"""The consumer's end: one batch in, its records out.

aiokafka's Cython decoder is fast (7-8 M records/s at 100 B) and trusting: it reads variable-length
numbers without looking where the buffer ends, up to 20 bytes beyond. So a batch reaches it only
after `verify`, decompressed by ourselves, and in memory that has room for those 20 bytes, unless
the bytes prove that no number can run off the end. What it raises becomes CorruptMessageError.

Invariant: no bytes, whoever made them, crash the process or raise anything but typed errors.
"""

from typing import Protocol

from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.record_batch.builder import Header
from odradek.protocol.record_batch.compression import DECOMPRESSED_BYTES_MAX, decompress
from odradek.protocol.record_batch.header import BatchHeader, Codec
from odradek.protocol.record_batch.validation import verify

_OVERREAD_BYTES = 32  # the decoder can pass the end by two numbers of 10 bytes


class RawRecord(Protocol):
    """A decoded record: the codec's own object, so that no hop lies between it and the SDK's."""

    @property
    def offset(self) -> int:
        """Absolute."""

    @property
    def timestamp(self) -> int | None:
        """Milliseconds since the epoch; None when a foreign producer wrote -1."""

    @property
    def key(self) -> bytes | None:
        """As produced."""

    @property
    def value(self) -> bytes | None:
        """As produced; None is a tombstone."""

    @property
    def headers(self) -> list[Header]:
        """In the producer's order; empty when there are none."""


def decode(
    batch: bytes | bytearray | memoryview,
    *,
    records_bytes_max: int = DECOMPRESSED_BYTES_MAX,
) -> list[RawRecord]:
    """Return the records of one batch, offsets and timestamps resolved.

    Control batches decode too: ask `BatchHeader.is_control` first and deliver none of them.

    Args:
        batch: Exactly one batch.
        records_bytes_max: Limit on the records after decompression.

    Raises:
        CorruptMessageError: Truncated, CRC, damaged records, or more bytes than the limit.
        UnsupportedForMessageFormatError, UnsupportedCompressionTypeError: As in `verify`.
    """
    header = verify(batch)
    if header.codec_id != Codec.NONE:
        readable: bytes | memoryview = decompress(batch, records_bytes_max, _OVERREAD_BYTES)
    else:
        readable = _readable(batch)
    try:
        records: list[RawRecord] = list(DefaultRecordBatch(readable))
    except (CorruptRecordException, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(header, str(error)) from error
    if records and not (
        header.base_offset <= records[0].offset and records[-1].offset <= header.last_offset
    ):
        raise _damaged(header, "record offsets lie outside the batch")
    return records


def _readable(batch: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Return the batch where the decoder may read past its end.

    A `bytes` object ends with a NUL that is not counted. When the last byte before it has its
    continuation bit clear, every number that starts inside ends there, and one that starts at the
    very end reads just that NUL: no copy is needed.
    """
    whole = batch.obj if isinstance(batch, memoryview) else batch
    if isinstance(whole, bytes) and len(whole) == len(batch) and batch[-1] < 0x80:
        return whole
    return memoryview(b"".join((batch, bytes(_OVERREAD_BYTES))))[: len(batch)]


def _damaged(header: BatchHeader, reason: str) -> CorruptMessageError:
    return CorruptMessageError(
        f"the records of the batch at offset {header.base_offset} are damaged: {reason}",
        field="records",
        value=header.base_offset,
    )

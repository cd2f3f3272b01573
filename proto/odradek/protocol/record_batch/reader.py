"""The consumer's end: one batch in, its records out.

aiokafka's Cython decoder is fast (7-8 M records/s at 100 B) and trusting: it reads variable-length
numbers without looking where the buffer ends, up to 20 bytes beyond. So a batch reaches it only
after `verify`, decompressed by ourselves, and in memory that has room for those 20 bytes, unless
the bytes prove that no number can run off the end. What it raises becomes CorruptMessageError.

Invariant: no bytes, whoever made them, crash the process or raise anything but typed errors.
"""

from typing import NamedTuple, Protocol

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
    data = batch.tobytes() if isinstance(batch, memoryview) else batch
    return records_of(open_batch(data, 0, len(data), records_bytes_max=records_bytes_max))


class OpenedBatch(NamedTuple):
    """A batch that may be read: its bytes are proven, and its records are plain."""

    header: BatchHeader
    data: bytes | bytearray
    """Holds the batch, perhaps among others."""
    start: int
    end: int


def open_batch(
    buffer: bytes | bytearray,
    start: int,
    size: int,
    *,
    records_bytes_max: int = DECOMPRESSED_BYTES_MAX,
) -> OpenedBatch:
    """Verify one batch among others, and decompress it.

    Raises:
        CorruptMessageError, UnsupportedForMessageFormatError, UnsupportedCompressionTypeError: As
            in `decode`.
    """
    batch = memoryview(buffer)[start : start + size]
    header = verify(batch)
    if header.codec_id == Codec.NONE:
        return OpenedBatch(header, buffer, start, start + size)
    plain = decompress(batch, records_bytes_max, _OVERREAD_BYTES)
    assert isinstance(plain.obj, bytearray), "made for us"
    return OpenedBatch(header, plain.obj, 0, len(plain))


def records_of(batch: OpenedBatch) -> list[RawRecord]:
    """Have the codec read a batch.

    Raises:
        CorruptMessageError: Its records are damaged.
    """
    header = batch.header
    try:
        records: list[RawRecord] = list(DefaultRecordBatch(_readable(batch)))
    except (CorruptRecordException, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(header, str(error)) from error
    if records and not (
        header.base_offset <= records[0].offset and records[-1].offset <= header.last_offset
    ):
        raise _damaged(header, "record offsets lie outside the batch")
    return records


def _readable(batch: OpenedBatch) -> memoryview:
    """Return the batch where the decoder may read past its end.

    It may where enough bytes follow. So it may at the end of a `bytes` object, which ends with a
    NUL that is not counted, when the last byte before it has its continuation bit clear: every
    number that starts inside ends there, and one that starts at the very end reads just that NUL.
    """
    data, end = batch.data, batch.end
    view = memoryview(data)[batch.start : end]
    if end + _OVERREAD_BYTES <= len(data):
        return view
    if isinstance(data, bytes) and end == len(data) and data[-1] < 0x80:
        return view
    return memoryview(b"".join((view, bytes(_OVERREAD_BYTES))))[: len(view)]


def _damaged(header: BatchHeader, reason: str) -> CorruptMessageError:
    return CorruptMessageError(
        f"the records of the batch at offset {header.base_offset} are damaged: {reason}",
        field="records",
        value=header.base_offset,
    )

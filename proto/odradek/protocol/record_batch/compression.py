"""The four codecs of the format, with a bound on what decompression may cost.

Problem: 32 KB of zstd can become 1 GiB, and the library grows its output without asking. Idea: hand
it a buffer of our own and enlarge that step by step up to the caller's limit. Compression is a step
of its own, so that the SDK can run it off its loop (zstd, gzip and snappy release the GIL).

Formats are Kafka's: zstd frames, lz4 frames of independent blocks, gzip, snappy in xerial framing.

Source: KIP-110 (zstd), KIP-57 (lz4), KIP-390 (levels); xerial snappy-java's stream format.
"""

import struct
import zlib

import cramjam

from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.record_batch.header import (
    ATTRIBUTES_AT,
    CODEC_BITS,
    HEADER_BYTES,
    LENGTH_FIELD_END,
    BatchHeader,
    Codec,
    crc_of,
)

DECOMPRESSED_BYTES_MAX = 64 << 20
"""What a batch may become unless the caller says otherwise; 60 times the default batch limit."""

_ZSTD_LEVEL = 3  # Kafka's default
_GZIP_LEVEL = 6  # Kafka's default
_LZ4_LEVEL = 1  # the fast compressor: 656 MB/s; level 9 reaches 28 and gains a fifth in size
_GZIP_WINDOW = 31  # zlib's number for "gzip header, 32 KiB window"
_FIRST_GUESS_BYTES = 256 << 10
_GROWTH = 4
_XERIAL_HEADER = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32 << 10
_BLOCK_LENGTH = struct.Struct(">i")


def compress(batch: bytes | bytearray, codec: Codec) -> bytes | bytearray:
    """Compress the records of an uncompressed batch.

    Returns:
        A new batch with the codec set and a fresh CRC, or the same object where compression gains
        nothing.
    """
    header = BatchHeader.parse(batch)
    assert header.codec_id == Codec.NONE, "a batch is compressed once"
    if codec is Codec.NONE:
        return batch
    records = _compress_records(memoryview(batch)[HEADER_BYTES:], codec)
    size_bytes = HEADER_BYTES + len(records)
    if size_bytes >= len(batch):
        return batch
    compressed = bytearray(size_bytes)
    compressed[HEADER_BYTES:] = records
    header = header._replace(
        batch_length=size_bytes - LENGTH_FIELD_END, attributes=header.attributes | codec
    )
    compressed[:HEADER_BYTES] = header.pack()
    compressed[:HEADER_BYTES] = header._replace(crc=crc_of(compressed)).pack()
    return compressed


def decompress(
    batch: bytes | bytearray | memoryview, records_bytes_max: int, slack_bytes: int = 0
) -> memoryview:
    """Undo `compress`, but leave the CRC stale: the result goes to the record codec, not to a peer.

    Args:
        batch: A batch that passed `verify`.
        records_bytes_max: At most this many bytes of records.
        slack_bytes: So many readable bytes follow the returned view.

    Raises:
        CorruptMessageError: The compressed bytes are damaged, or larger than the limit.
    """
    header = BatchHeader.parse(batch)
    compressed = memoryview(batch)[HEADER_BYTES:]
    codec = Codec(header.codec_id)
    try:
        plain, records_bytes = _decompress_records(
            compressed, codec, records_bytes_max, slack_bytes
        )
    except (cramjam.DecompressionError, zlib.error, struct.error, ValueError) as error:
        raise CorruptMessageError(
            f"the {codec.name.lower()} records ({len(compressed)} bytes) are damaged, or larger "
            f"than {records_bytes_max} bytes when decompressed: {error}",
            field="records",
            value=len(compressed),
            limit=records_bytes_max,
        ) from error
    size_bytes = HEADER_BYTES + records_bytes
    plain[:HEADER_BYTES] = header._replace(
        batch_length=size_bytes - LENGTH_FIELD_END, attributes=header.attributes & ~CODEC_BITS
    ).pack()
    assert ATTRIBUTES_AT < HEADER_BYTES <= size_bytes <= len(plain) - slack_bytes
    return memoryview(plain)[:size_bytes]


def _compress_records(records: memoryview, codec: Codec) -> bytes | memoryview:
    match codec:
        case Codec.GZIP:
            return zlib.compress(records, _GZIP_LEVEL, _GZIP_WINDOW)
        case Codec.SNAPPY:
            return _compress_xerial(records)
        case Codec.LZ4:
            # Kafka's brokers refuse linked blocks.
            compressor = cramjam.lz4.Compressor(
                level=_LZ4_LEVEL, content_checksum=False, block_linked=False
            )
            compressor.compress(bytes(records))
            return memoryview(compressor.finish())
        case Codec.ZSTD:
            return memoryview(cramjam.zstd.compress(bytes(records), level=_ZSTD_LEVEL))
        case Codec.NONE:
            return records


def _compress_xerial(records: memoryview) -> bytes:
    parts = [_XERIAL_HEADER]
    for start in range(0, len(records), _XERIAL_BLOCK_BYTES):
        block = bytes(
            cramjam.snappy.compress_raw(bytes(records[start : start + _XERIAL_BLOCK_BYTES]))
        )
        parts += [_BLOCK_LENGTH.pack(len(block)), block]
    return b"".join(parts)


def _decompress_records(
    compressed: memoryview, codec: Codec, bytes_max: int, slack_bytes: int
) -> tuple[bytearray, int]:
    """Return (room for a header, the records, slack) and the number of bytes of records."""
    match codec:
        case Codec.GZIP:
            decompressor = zlib.decompressobj(_GZIP_WINDOW)
            parts = [decompressor.decompress(compressed, bytes_max)]
            if not decompressor.eof or decompressor.unused_data:
                raise ValueError("not exactly one gzip member within the limit")
        case Codec.SNAPPY:
            parts = _decompress_xerial(compressed, bytes_max)
        case Codec.LZ4:
            return _decompress_growing(cramjam.lz4, compressed, bytes_max, slack_bytes)
        case Codec.ZSTD:
            return _decompress_growing(cramjam.zstd, compressed, bytes_max, slack_bytes)
        case Codec.NONE:
            parts = [bytes(compressed)]
    records_bytes = sum(map(len, parts))
    return bytearray(b"".join([bytes(HEADER_BYTES), *parts, bytes(slack_bytes)])), records_bytes


def _decompress_growing(
    library: object, compressed: memoryview, bytes_max: int, slack_bytes: int
) -> tuple[bytearray, int]:
    capacity = min(max(_FIRST_GUESS_BYTES, _GROWTH * len(compressed)), bytes_max)
    while True:
        plain = bytearray(HEADER_BYTES + capacity + slack_bytes)
        room = memoryview(plain)[HEADER_BYTES : HEADER_BYTES + capacity]
        try:
            return plain, library.decompress_into(compressed, room)  # type: ignore[attr-defined]
        except cramjam.DecompressionError:
            # The library tells "no room" from "damaged" by its wording only: try until the limit.
            if capacity >= bytes_max:
                raise
            capacity = min(capacity * _GROWTH, bytes_max)


def _decompress_xerial(compressed: memoryview, bytes_max: int) -> list[bytes]:
    if bytes(compressed[: len(_XERIAL_HEADER)]) != _XERIAL_HEADER:
        return [_decompress_snappy_block(compressed, bytes_max)]
    parts = []
    start = len(_XERIAL_HEADER)
    while start < len(compressed):
        (length,) = _BLOCK_LENGTH.unpack_from(compressed, start)
        start += _BLOCK_LENGTH.size
        if not 0 < length <= len(compressed) - start:
            raise ValueError(f"impossible snappy block length {length}")
        parts.append(_decompress_snappy_block(compressed[start : start + length], bytes_max))
        bytes_max -= len(parts[-1])
        start += length
    return parts


def _decompress_snappy_block(block: memoryview, bytes_max: int) -> bytes:
    claimed = cramjam.snappy.decompress_raw_len(block)
    if claimed > bytes_max:
        raise ValueError(f"a snappy block claims {claimed} bytes")
    return bytes(cramjam.snappy.decompress_raw(block))

"""Kafka's RecordBatch v2: the bytes that travel from the producer's SDK to the consumer's SDK.

Problem: a broker in Python cannot afford to look at records, yet must assign offsets, fence epochs,
refuse damage and bound memory. Idea: a batch is opaque except for its 61-byte header. The broker
reads and rewrites the header only (`header`), proves the rest by its CRC-32C (`validation`), and
leaves records to the two ends of the road (`builder`, `reader`, `compression`).

Invariant: nothing outside this package knows the byte layout, the record codec (aiokafka's), the
compression library (cramjam) or the checksum library (crc32c). No byte reaches the record codec
before its size, length, magic and CRC have been checked.

Source: Apache Kafka protocol guide, "Record Batch"; KIP-98; aiokafka.record.
"""

from odradek.protocol.record_batch.builder import TIMESTAMP_MS_MAX, BatchBuilder, Header
from odradek.protocol.record_batch.columns import NO_RECORDS, Columns, PlainRecord, decode_columns
from odradek.protocol.record_batch.compression import (
    DECOMPRESSED_BYTES_MAX,
    compress,
    decompress,
)
from odradek.protocol.record_batch.header import (
    HEADER_BYTES,
    BatchHeader,
    Codec,
    next_sequence,
    stamp,
    stamp_log_append_time,
    stamp_producer,
    stamped,
)
from odradek.protocol.record_batch.reader import RawRecord, decode
from odradek.protocol.record_batch.validation import (
    declared_bytes,
    split,
    validate,
    verify,
)

__all__ = [
    "DECOMPRESSED_BYTES_MAX",
    "HEADER_BYTES",
    "NO_RECORDS",
    "TIMESTAMP_MS_MAX",
    "BatchBuilder",
    "BatchHeader",
    "Codec",
    "Columns",
    "Header",
    "PlainRecord",
    "RawRecord",
    "compress",
    "declared_bytes",
    "decode",
    "decode_columns",
    "decompress",
    "next_sequence",
    "split",
    "stamp",
    "stamp_log_append_time",
    "stamp_producer",
    "stamped",
    "validate",
    "verify",
]

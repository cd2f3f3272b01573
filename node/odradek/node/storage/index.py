"""What the index knows of each batch: enough for everything but its records. Pure.

Problem: finding the log end, an offset by time, the size of a log, or what a producer last wrote
must not read batches: a megabyte each, in files of their own. Idea: beside each batch an entry of
77 bytes with its header and two running values, so that each of these questions is one seek (or,
by time, a binary search over offsets: the running maximum never falls).

    0 max_timestamp_so_far i64 | 8 bytes_before u64 | 16 the batch's header (61 bytes)

Invariants: along a log, `max_timestamp_so_far` never falls and `bytes_before` grows by each batch's
size; both survive retention at the start, truncation at the end removes them with their batches.
"""

import struct
from typing import Self

from msgspec import Struct

from odradek.protocol.record_batch import BatchHeader

_RUNNING = struct.Struct(">qQ")


class IndexEntry(Struct, frozen=True, gc=False):
    """One batch of a log.

    Attributes:
        header: Its header as stored: offsets and leader epoch are final.
        max_timestamp_so_far: The largest timestamp in it or before it, in milliseconds.
        bytes_before: Bytes of batches before it, counted from the log's creation.
    """

    header: BatchHeader
    max_timestamp_so_far: int
    bytes_before: int

    @property
    def bytes_through(self) -> int:
        """Bytes of batches up to and with it, counted from the log's creation."""
        return self.bytes_before + self.header.size_bytes

    def pack(self) -> bytes:
        """Return the entry's value."""
        return _RUNNING.pack(self.max_timestamp_so_far, self.bytes_before) + self.header.pack()

    @classmethod
    def unpack(cls, value: bytes) -> Self:
        """Read what `pack` wrote."""
        max_timestamp_so_far, bytes_before = _RUNNING.unpack_from(value)
        header = BatchHeader.parse(memoryview(value)[_RUNNING.size :])
        return cls(header, max_timestamp_so_far, bytes_before)

"""From a push's bytes to records, a piece at a time. Pure.

Problem: a push holds several batches, begins below the offset asked for, and mixes records with
transaction markers and with records of aborted transactions; decoding all of it at once would hold
up the loop and hold memory. Idea: `Chunk` cuts the bytes into batches on arrival (headers only) and
decodes the next few on demand. A piece tells where it ends, so that a position also moves over
offsets nobody is shown: markers, aborted records, records that compaction removed.

Invariants: pieces come in offset order and never reach below the position asked for; a piece lies
in one leader epoch; every batch passes its CRC before a record of it is shown.

Source: org.apache.kafka.clients.consumer.internals.CompletedFetch.
"""

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from odradek.client.consuming.fetch_plan import Accepted
from odradek.protocol.errors import BrokerError, CorruptMessageError
from odradek.protocol.hot import AbortedTransaction
from odradek.protocol.record_batch import (
    NO_RECORDS,
    BatchHeader,
    Codec,
    Columns,
    decode_columns,
    split,
)
from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, Offset, ProducerId

_ABORT_MARKER = 0
_MARKER_KEY = struct.Struct(">hh")  # version, type


class Piece(Struct, frozen=True):
    """Some decoded records of a chunk.

    Attributes:
        records: What the application may see; perhaps nothing.
        end: Where the reader stands after it; beyond the last record when others are not shown.
        epoch: The leader epoch of all of it.
    """

    records: Columns
    end: Offset
    epoch: LeaderEpoch


class Span(NamedTuple):
    """A batch that is not decoded yet."""

    header: BatchHeader
    start: int
    size: int


def cut(message: bytes, start: int, stop: int) -> tuple[list[Span], Offset, LeaderEpoch]:
    """Cut the records within a message into batches.

    Returns:
        The batches, the offset after the last one, and its leader epoch.

    Raises:
        CorruptMessageError: Lengths are impossible; nothing of the push can be used.
    """
    spans = []
    for batch in split(memoryview(message)[start:stop]):
        spans.append(Span(BatchHeader.parse(batch), start, len(batch)))
        start += len(batch)
    if not spans:
        raise CorruptMessageError("a push holds at least one batch", field="records", value=0)
    last = spans[-1].header
    return spans, last.next_offset, last.leader_epoch


@dataclass(slots=True)
class Chunk:
    """One accepted push.

    Attributes:
        push: Whose bytes they are.
        message: The bytes.
        batches: What is not decoded yet.
        aborted: Transactions whose records are dropped, by first offset.
    """

    push: Accepted
    message: bytes
    batches: deque[Span]
    aborted: deque[AbortedTransaction] = field(default_factory=deque)
    _aborting: set[ProducerId] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        push: Accepted,
        message: bytes,
        batches: Sequence[Span],
        aborted: Sequence[AbortedTransaction] = (),
    ) -> "Chunk":
        """Make a chunk of a push that `cut` has cut."""
        by_offset = sorted(aborted, key=lambda each: each.first_offset)
        return cls(push, message, deque(batches), deque(by_offset))

    def compressed_bytes(self, bytes_max: int) -> int:
        """Return how many compressed bytes the next piece would have to decompress, about."""
        head = self.batches[0]
        compressed = head.header.codec_id != Codec.NONE
        return min(self.push.size_bytes, max(bytes_max, head.size)) if compressed else 0

    def next_piece(self, position: Offset, bytes_max: int) -> Piece:
        """Decode some batches, at least one.

        Args:
            position: Records below are not shown.
            bytes_max: Stop once this many bytes were decoded.

        Raises:
            CorruptMessageError, UnsupportedCompressionTypeError: The bytes are damaged; the chunk
                is of no use any more.
        """
        records = NO_RECORDS
        end, epoch, decoded_bytes = position, NO_LEADER_EPOCH, 0
        while self.batches and decoded_bytes < bytes_max:
            batch = self.batches[0]
            header = batch.header
            if decoded_bytes and header.leader_epoch != epoch:
                break
            if header.next_offset > position:
                try:
                    shown = self._records_of(batch, position)
                except BrokerError:
                    if decoded_bytes:
                        break  # first what lies before the damage
                    raise
                records = records.joined(shown) if records else shown
                end = max(end, header.next_offset)
            epoch = header.leader_epoch
            decoded_bytes += batch.size
            self.batches.popleft()
        return Piece(records, end, epoch)

    def _records_of(self, batch: Span, position: Offset) -> Columns:
        if not self._shows(batch):
            return NO_RECORDS
        records = self._decode(batch)
        if batch.header.base_offset < position:
            return records.since(bisect_left(records.offsets, position))
        return records

    def _decode(self, batch: Span) -> Columns:
        return decode_columns(self.message, batch.start, batch.size)

    def _shows(self, batch: Span) -> bool:
        """Whether the application sees a batch; follows transactions as a side effect."""
        header = batch.header
        while self.aborted and self.aborted[0].first_offset <= header.last_offset:
            self._aborting.add(self.aborted.popleft().producer_id)
        if header.is_control:
            if _marker_type(self._decode(batch)) == _ABORT_MARKER:
                self._aborting.discard(header.producer_id)
            return False
        return not (header.is_transactional and header.producer_id in self._aborting)


def _marker_type(marker: Columns) -> int:
    """Return what a control batch says about its transaction."""
    key = next(iter(marker.keys), None)
    if key is None or len(key) < _MARKER_KEY.size:
        raise CorruptMessageError("a transaction marker lacks its key", field="key", value=key)
    _, kind = _MARKER_KEY.unpack_from(key)
    return int(kind)

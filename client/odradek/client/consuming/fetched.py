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
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from odradek.client.consuming.fetch_plan import Accepted
from odradek.protocol.errors import BrokerError, CorruptMessageError
from odradek.protocol.hot import AbortedTransaction
from odradek.protocol.record_batch import BatchHeader, Codec, RawRecord, decode, split
from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, Offset, ProducerId

_ABORT_MARKER = 0
_MARKER_KEY = struct.Struct(">hh")  # version, type


@dataclass(frozen=True, slots=True)
class Piece:
    """Some decoded records of a chunk.

    Attributes:
        records: What the application may see; perhaps nothing.
        end: Where the reader stands after it; beyond the last record when others are not shown.
        epoch: The leader epoch of all of it.
    """

    records: list[RawRecord]
    end: Offset
    epoch: LeaderEpoch


def cut(records: memoryview) -> tuple[list[memoryview], Offset, LeaderEpoch]:
    """Cut a push into batches.

    Returns:
        The batches, the offset after the last one, and its leader epoch.

    Raises:
        CorruptMessageError: Lengths are impossible; nothing of the push can be used.
    """
    batches = list(split(records))
    if not batches:
        raise CorruptMessageError("a push holds at least one batch", field="records", value=0)
    last = BatchHeader.parse(batches[-1])
    return batches, last.next_offset, last.leader_epoch


@dataclass(slots=True)
class Chunk:
    """One accepted push.

    Attributes:
        push: Whose bytes they are.
        batches: What is not decoded yet.
        aborted: Transactions whose records are dropped, by first offset.
    """

    push: Accepted
    batches: deque[memoryview]
    aborted: deque[AbortedTransaction] = field(default_factory=deque)
    _aborting: set[ProducerId] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        push: Accepted,
        batches: Sequence[memoryview],
        aborted: Sequence[AbortedTransaction] = (),
    ) -> "Chunk":
        """Make a chunk of a push that `cut` has cut."""
        by_offset = sorted(aborted, key=lambda each: each.first_offset)
        return cls(push, deque(batches), deque(by_offset))

    def compressed_bytes(self, bytes_max: int) -> int:
        """Return how many compressed bytes the next piece would have to decompress, about."""
        head = self.batches[0]
        compressed = BatchHeader.parse(head).codec_id != Codec.NONE
        return min(self.push.size_bytes, max(bytes_max, len(head))) if compressed else 0

    def next_piece(self, position: Offset, bytes_max: int) -> Piece:
        """Decode some batches, at least one.

        Args:
            position: Records below are not shown.
            bytes_max: Stop once this many bytes were decoded.

        Raises:
            CorruptMessageError, UnsupportedCompressionTypeError: The bytes are damaged; the chunk
                is of no use any more.
        """
        records: list[RawRecord] = []
        end, epoch, decoded_bytes = position, NO_LEADER_EPOCH, 0
        while self.batches and decoded_bytes < bytes_max:
            batch = self.batches[0]
            header = BatchHeader.parse(batch)
            if decoded_bytes and header.leader_epoch != epoch:
                break
            if header.next_offset > position:
                try:
                    shown = self._records_of(header, batch, position)
                except BrokerError:
                    if decoded_bytes:
                        break  # first what lies before the damage
                    raise
                records = records + shown if records else shown
                end = max(end, header.next_offset)
            epoch = header.leader_epoch
            decoded_bytes += len(batch)
            self.batches.popleft()
        return Piece(records, end, epoch)

    def _records_of(
        self, header: BatchHeader, batch: memoryview, position: Offset
    ) -> list[RawRecord]:
        if not self._shows(header, batch):
            return []
        records = decode(batch)
        if header.base_offset < position:
            return [record for record in records if record.offset >= position]
        return records

    def _shows(self, header: BatchHeader, batch: memoryview) -> bool:
        """Whether the application sees a batch; follows transactions as a side effect."""
        while self.aborted and self.aborted[0].first_offset <= header.last_offset:
            self._aborting.add(self.aborted.popleft().producer_id)
        if header.is_control:
            if _marker_type(batch) == _ABORT_MARKER:
                self._aborting.discard(header.producer_id)
            return False
        return not (header.is_transactional and header.producer_id in self._aborting)


def _marker_type(batch: memoryview) -> int:
    """Return what a control batch says about its transaction."""
    key = next((record.key for record in decode(batch)), None)
    if key is None or len(key) < _MARKER_KEY.size:
        raise CorruptMessageError("a transaction marker lacks its key", field="key", value=key)
    _, marker = _MARKER_KEY.unpack_from(key)
    return int(marker)

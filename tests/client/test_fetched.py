"""Pushes become pieces: nothing below the position, no markers, no aborted records."""

import struct
from collections.abc import Sequence

import pytest

from odradek.client.consuming.fetch_plan import Accepted
from odradek.client.consuming.fetched import Chunk, cut
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.hot import AbortedTransaction
from odradek.protocol.record_batch import (
    NO_RECORDS,
    BatchBuilder,
    BatchHeader,
    Codec,
    compress,
    stamp,
)
from odradek.protocol.record_batch.header import CONTROL_BIT, HEADER_BYTES, crc_of
from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionIndex,
    ProducerEpoch,
    ProducerId,
    TopicId,
    TopicName,
)

ALL = 1 << 30


def batch(
    first: int,
    count: int,
    *,
    epoch: int = 1,
    producer: int | None = None,
    codec: Codec = Codec.NONE,
) -> bytearray:
    builder = BatchBuilder(1 << 20, transactional=producer is not None)
    for index in range(first, first + count):
        builder.append(b"k", b"v%d" % index, 1000 + index, [])
    if producer is None:
        built = builder.close()
    else:
        built = builder.close(ProducerId(producer), ProducerEpoch(0), 0)
    built = bytearray(compress(built, codec))
    stamp(built, Offset(first), LeaderEpoch(epoch))
    return built


def marker(offset: int, producer: int, kind: int, *, epoch: int = 1) -> bytearray:
    builder = BatchBuilder(1 << 20, transactional=True)
    builder.append(struct.pack(">hh", 0, kind), bytes(6), 1000, [])
    built = builder.close(ProducerId(producer), ProducerEpoch(0), 0)
    header = BatchHeader.parse(built)
    built[:HEADER_BYTES] = header._replace(attributes=header.attributes | CONTROL_BIT).pack()
    built[:HEADER_BYTES] = BatchHeader.parse(built)._replace(crc=crc_of(built)).pack()
    stamp(built, Offset(offset), LeaderEpoch(epoch))
    return built


def chunk(*batches: bytearray, aborted: Sequence[tuple[int, int]] = ()) -> Chunk:
    records = b"".join(batches)
    spans, _, _ = cut(records, 0, len(records))
    partition = TopicIdPartition(TopicName("t"), PartitionIndex(0), TopicId(b"i" * 16))
    return Chunk.of(
        Accepted(partition, 1, NodeId(1), 1, len(records)),
        records,
        spans,
        [AbortedTransaction(ProducerId(who), Offset(first)) for who, first in aborted],
    )


def offsets(piece_of: Chunk, position: int = 0) -> list[int]:
    return list(piece_of.next_piece(Offset(position), ALL).records.offsets)


def test_a_push_tells_where_the_next_begins() -> None:
    records = b"".join([batch(0, 3), batch(3, 2, epoch=4)])
    spans, end, epoch = cut(records, 0, len(records))
    assert (len(spans), end, epoch) == (2, 5, 4)


@pytest.mark.parametrize("damaged", [b"", b"x" * 80, bytes(batch(0, 3))[:-1]])
def test_a_push_that_cannot_be_cut_is_corrupt(damaged: bytes) -> None:
    with pytest.raises(CorruptMessageError):
        cut(damaged, 0, len(damaged))


def test_records_below_the_position_are_not_shown() -> None:
    piece = chunk(batch(0, 5), batch(5, 5)).next_piece(Offset(7), ALL)
    assert list(piece.records.offsets) == [7, 8, 9]
    assert piece.end == 10


def test_a_whole_push_below_the_position_moves_nothing() -> None:
    piece = chunk(batch(0, 5)).next_piece(Offset(7), ALL)
    assert (len(piece.records), piece.end) == (0, 7)


def test_pieces_are_bounded_and_lie_in_one_epoch() -> None:
    three = chunk(batch(0, 5), batch(5, 5), batch(10, 5, epoch=2))
    ends = []
    position = Offset(0)
    while three.batches:
        piece = three.next_piece(position, 1)
        position = piece.end
        ends.append((piece.end, piece.epoch))
    assert ends == [(5, 1), (10, 1), (15, 2)]
    whole = chunk(batch(0, 5), batch(5, 5), batch(10, 5, epoch=2))
    assert whole.next_piece(Offset(0), ALL).end == 10
    assert whole.next_piece(Offset(10), ALL).epoch == 2


def test_aborted_records_are_dropped_up_to_their_marker_and_markers_never_shown() -> None:
    mixed = chunk(
        batch(0, 2, producer=7),  # aborted
        batch(2, 2, producer=8),  # committed
        batch(4, 1),
        marker(5, 7, 0),
        batch(6, 2, producer=7),  # the same producer's next transaction
        marker(8, 8, 1),
        marker(9, 7, 1),
        aborted=[(7, 0)],
    )
    piece = mixed.next_piece(Offset(0), ALL)
    assert list(piece.records.offsets) == [2, 3, 4, 6, 7]
    assert piece.end == 10, "the position passes what nobody is shown"


def test_an_aborted_transaction_is_remembered_between_pieces() -> None:
    two = chunk(batch(0, 2, producer=7), batch(2, 2, producer=7), aborted=[(7, 0)])
    assert two.next_piece(Offset(0), 1).records == NO_RECORDS
    assert two.next_piece(Offset(2), 1).records == NO_RECORDS


@pytest.mark.parametrize("codec", list(Codec))
def test_every_codec(codec: Codec) -> None:
    compressed = chunk(batch(0, 200, codec=codec))
    assert (compressed.compressed_bytes(1 << 20) > 0) == (codec is not Codec.NONE)
    assert offsets(compressed) == list(range(200))


def test_a_flipped_bit_is_found() -> None:
    damaged = batch(0, 5)
    damaged[70] ^= 1
    with pytest.raises(CorruptMessageError):
        chunk(damaged).next_piece(Offset(0), ALL)

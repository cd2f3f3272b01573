"""The message that carries records between nodes, encoded and decoded by hand; and its answer.

Problem, idea and invariants are those of `hot`: a push carries every byte of every record to every
follower, and the generated classes would copy it twice on each side.

Source: replica.proto; hypothesis tests prove the invariants.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError
from msgspec import Struct

from odradek.protocol import wire
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.hot import PARTITIONS_MAX, SMALL_BYTES, Buffer
from odradek.protocol.types import LeaderEpoch, Offset, PartitionUid
from odradek.v1 import replica_pb2 as pb

RecordsT_co = TypeVar("RecordsT_co", covariant=True)


class PushFrame(Struct, Generic[RecordsT_co], frozen=True, gc=False):
    """A ReplicaPush: parts to be joined when encoded, one view of the message when decoded."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    session: int
    start_offset: Offset
    high_watermark: Offset
    log_start_offset: Offset
    records: RecordsT_co


class ReplicateFrame(Struct, frozen=True, gc=False):
    """A ReplicateResponse."""

    number: int
    pushes: list[PushFrame[memoryview]]
    divergences: list[pb.ReplicaDivergence]
    refusals: list[pb.ReplicaRefusal]


class AckFrame(Struct, frozen=True, gc=False):
    """A ReplicaAck."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    session: int
    durable_end: Offset


def encode_acks(live_frame: int, catch_up_frame: int, acks: Iterable[AckFrame]) -> bytes:
    """Encode a ReplicateRequest of acknowledgements."""
    encoded = wire.integer_field(3, live_frame) + wire.integer_field(4, catch_up_frame)
    for each in acks:
        ack = (
            wire.integer_field(1, each.uid)
            + wire.integer_field(2, each.leader_epoch)
            + wire.integer_field(3, each.session)
            + wire.integer_field(4, each.durable_end)
        )
        encoded += wire.length_prefix(5, len(ack)) + ack
    return encoded


def encode_pushes(number: int, pushes: Iterable[PushFrame[Sequence[Buffer]]]) -> bytes:
    """Encode a ReplicateResponse of pushes; the records are copied once."""
    parts: list[Buffer] = [wire.integer_field(1, number)]
    for each in pushes:
        head = (
            wire.integer_field(1, each.uid)
            + wire.integer_field(2, each.leader_epoch)
            + wire.integer_field(3, each.session)
            + wire.integer_field(4, each.start_offset)
            + wire.integer_field(5, each.high_watermark)
            + wire.integer_field(6, each.log_start_offset)
        )
        records_bytes = sum(map(len, each.records))
        if records_bytes:
            head += wire.length_prefix(7, records_bytes)
        parts.append(wire.length_prefix(2, len(head) + records_bytes) + head)
        parts += each.records
    return b"".join(parts)


def decode_replicate_response(data: bytes, *, small_bytes: int = SMALL_BYTES) -> ReplicateFrame:
    """Decode; records stay where they are unless the message is small.

    Raises:
        InvalidRequestError: Not a ReplicateResponse, or too many partitions or fields.
    """
    if len(data) <= small_bytes:
        return _frame(_parsed(pb.ReplicateResponse(), data))
    number = 0
    frame = ReplicateFrame(0, [], [], [])
    view, budget = memoryview(data), wire.field_budget()
    count = 0
    for tag, value, end in wire.fields(data, 0, len(data), budget):
        if tag == 0o10:
            number = value
            continue
        count += 1
        if count > PARTITIONS_MAX:
            raise InvalidRequestError(
                "too many partitions in one message", field="pushes", limit=PARTITIONS_MAX
            )
        match tag:
            case 0o22:
                frame.pushes.append(_decode_push(data, view, value, end, budget))
            case 0o32:
                frame.divergences.append(_parsed(pb.ReplicaDivergence(), data[value:end]))
            case 0o42:
                frame.refusals.append(_parsed(pb.ReplicaRefusal(), data[value:end]))
    return ReplicateFrame(number, frame.pushes, frame.divergences, frame.refusals)


def _frame(message: pb.ReplicateResponse) -> ReplicateFrame:
    return ReplicateFrame(
        message.frame,
        [
            PushFrame(
                PartitionUid(each.uid),
                LeaderEpoch(each.leader_epoch),
                each.session,
                Offset(each.start_offset),
                Offset(each.high_watermark),
                Offset(each.log_start_offset),
                memoryview(each.records),
            )
            for each in message.pushes
        ],
        list(message.divergences),
        list(message.refusals),
    )


def _decode_push(
    data: bytes, view: memoryview, start: int, stop: int, budget: Iterator[int]
) -> PushFrame[memoryview]:
    numbers = [0] * 7  # by field number
    records = view[:0]
    for tag, value, end in wire.fields(data, start, stop, budget):
        if tag == 0o72:
            records = view[value:end]
        elif not end and tag <= 0o60:
            numbers[tag >> 3] = value
    return PushFrame(
        PartitionUid(numbers[1]),
        LeaderEpoch(wire.signed_32(numbers[2])),
        numbers[3],
        Offset(wire.signed_64(numbers[4])),
        Offset(wire.signed_64(numbers[5])),
        Offset(wire.signed_64(numbers[6])),
        records,
    )


_PartT = TypeVar("_PartT", pb.ReplicaDivergence, pb.ReplicaRefusal, pb.ReplicateResponse)


def _parsed(part: _PartT, data: bytes) -> _PartT:
    try:
        part.ParseFromString(data)
    except DecodeError as error:
        raise InvalidRequestError("a part of the message is damaged") from error
    return part

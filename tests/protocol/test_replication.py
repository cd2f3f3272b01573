"""The hand-written push is the generated one, byte for byte and field for field."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol import wire
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.hot import PARTITIONS_MAX, SMALL_BYTES
from odradek.protocol.replication import (
    AckFrame,
    PushFrame,
    decode_replicate_response,
    encode_acks,
    encode_pushes,
)
from odradek.protocol.types import LeaderEpoch, Offset, PartitionUid
from odradek.v1 import replica_pb2 as pb

_INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
_INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
_UINT64 = st.integers(0, (1 << 64) - 1)

_pushes = st.builds(
    pb.ReplicaPush,
    uid=_UINT64,
    leader_epoch=_INT32,
    session=_UINT64,
    start_offset=_INT64,
    high_watermark=_INT64,
    log_start_offset=_INT64,
    records=st.binary(max_size=300),
)
_divergences = st.builds(
    pb.ReplicaDivergence,
    uid=_UINT64,
    leader_epoch=_INT32,
    session=_UINT64,
    end_epoch=_INT32,
    end_offset=_INT64,
)
_acks = st.builds(
    pb.ReplicaAck, uid=_UINT64, leader_epoch=_INT32, session=_UINT64, durable_end=_INT64
)
_small_bytes = st.sampled_from((0, SMALL_BYTES))
_refusals = st.builds(pb.ReplicaRefusal, uid=_UINT64, leader_epoch=_INT32, session=_UINT64)
_responses = st.builds(
    pb.ReplicateResponse,
    frame=_UINT64,
    pushes=st.lists(_pushes, max_size=4),
    divergences=st.lists(_divergences, max_size=2),
    refusals=st.lists(_refusals, max_size=2),
)


def _frame(each: pb.ReplicaPush, records: list[bytes]) -> PushFrame[list[bytes]]:
    return PushFrame(
        PartitionUid(each.uid),
        LeaderEpoch(each.leader_epoch),
        each.session,
        Offset(each.start_offset),
        Offset(each.high_watermark),
        Offset(each.log_start_offset),
        records,
    )


@given(_UINT64, st.lists(_pushes, max_size=4), st.integers(0, 300))
def test_pushes_are_encoded_as_the_generated_class_would(
    number: int, pushes: list[pb.ReplicaPush], cut: int
) -> None:
    frames = [_frame(each, [each.records[:cut], each.records[cut:]]) for each in pushes]
    message = pb.ReplicateResponse(frame=number, pushes=pushes)
    assert encode_pushes(number, frames) == message.SerializeToString()


@given(_UINT64, _UINT64, st.lists(_acks, max_size=4))
def test_acknowledgements_are_encoded_as_the_generated_class_would(
    live_frame: int, catch_up_frame: int, acks: list[pb.ReplicaAck]
) -> None:
    frames = [
        AckFrame(
            PartitionUid(each.uid),
            LeaderEpoch(each.leader_epoch),
            each.session,
            Offset(each.durable_end),
        )
        for each in acks
    ]
    message = pb.ReplicateRequest(live_frame=live_frame, catch_up_frame=catch_up_frame, acks=acks)
    assert encode_acks(live_frame, catch_up_frame, frames) == message.SerializeToString()


@given(_responses, _small_bytes)
def test_every_field_arrives(message: pb.ReplicateResponse, small_bytes: int) -> None:
    frame = decode_replicate_response(message.SerializeToString(), small_bytes=small_bytes)
    assert frame.number == message.frame
    assert [_frame(each, [each.records]) for each in message.pushes] == [
        PushFrame(
            push.uid,
            push.leader_epoch,
            push.session,
            push.start_offset,
            push.high_watermark,
            push.log_start_offset,
            [bytes(push.records)],
        )
        for push in frame.pushes
    ]
    assert frame.divergences == list(message.divergences)
    assert frame.refusals == list(message.refusals)


@given(st.binary(max_size=200), _small_bytes)
def test_any_bytes_are_read_as_the_generated_class_reads_them(
    data: bytes, small_bytes: int
) -> None:
    try:
        message = pb.ReplicateResponse.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidRequestError):
            decode_replicate_response(data, small_bytes=small_bytes)
    else:
        frame = decode_replicate_response(data, small_bytes=small_bytes)
        assert frame.number == message.frame
        assert [push.uid for push in frame.pushes] == [push.uid for push in message.pushes]


def test_more_partitions_than_can_be_are_refused() -> None:
    data = pb.ReplicateResponse(
        pushes=[pb.ReplicaPush() for _ in range(PARTITIONS_MAX + 1)]
    ).SerializeToString()
    with pytest.raises(InvalidRequestError):
        decode_replicate_response(data)


def test_a_message_of_tiny_fields_cannot_take_much_time() -> None:
    tiny = b"\x08\x00" * wire.FIELDS_MAX
    for data in (tiny, wire.length_prefix(2, len(tiny)) + tiny):
        with pytest.raises(InvalidRequestError, match="too many fields"):
            decode_replicate_response(data)

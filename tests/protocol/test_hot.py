"""The hand-written messages are the generated ones, byte for byte and field for field."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol import hot, wire
from odradek.protocol.errors import (
    InvalidRequestError,
    OffsetOutOfRangeError,
    error_from_proto,
    error_to_proto,
)
from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionIndex,
    ProducerId,
    TopicId,
    TopicName,
)
from odradek.v1 import broker_pb2, error_pb2

_INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
_INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
_UINT32 = st.integers(0, (1 << 32) - 1)
_UINT64 = st.integers(0, (1 << 64) - 1)
_BYTES = st.binary(max_size=300)
_NOTHING_IS_SMALL = -1
_SMALL_BYTES = (_NOTHING_IS_SMALL, hot.SMALL_BYTES)
_small_bytes = st.sampled_from(_SMALL_BYTES)
"""By hand, or as small messages are."""
_TEXT = st.text(max_size=150)

_produce_requests = st.builds(
    broker_pb2.ProduceRequest,
    correlation_id=_UINT64,
    acks=st.sampled_from([broker_pb2.ACKS_ALL, broker_pb2.ACKS_LEADER]),
    timeout_ms=_UINT32,
    transactional_id=_TEXT,
    partitions=st.lists(
        st.builds(
            broker_pb2.ProducePartition,
            topic_id=_BYTES,
            topic=_TEXT,
            partition=_INT32,
            leader_epoch=_INT32,
            records=_BYTES,
        ),
        max_size=4,
    ),
)
_errors = st.builds(
    error_pb2.Error,
    code=st.sampled_from([3, 6, 74, 1000]),
    message=st.text(min_size=1, max_size=20),
    field=_TEXT,
    suggestions=st.lists(_TEXT, max_size=2),
)
_fetch_responses = st.builds(
    broker_pb2.FetchResponse,
    throttle_ms=_UINT32,
    partitions=st.lists(
        st.builds(
            broker_pb2.FetchedPartition,
            subscription_id=_UINT64,
            error=st.none() | _errors,
            records=_BYTES,
            high_watermark=_INT64,
            last_stable_offset=_INT64,
            log_start_offset=_INT64,
            aborted=st.lists(
                st.builds(broker_pb2.AbortedTransaction, producer_id=_INT64, first_offset=_INT64),
                max_size=3,
            ),
            diverging_epoch=st.none()
            | st.builds(broker_pb2.EpochEnd, leader_epoch=_INT32, end_offset=_INT64),
            leader_id=_INT32,
            leader_epoch=_INT32,
        ),
        max_size=4,
    ),
)


def _produce_frame(message: broker_pb2.ProduceRequest) -> hot.ProduceFrame:
    return hot.ProduceFrame(
        message.correlation_id,
        hot.Acks(message.acks or broker_pb2.ACKS_ALL),
        message.timeout_ms,
        message.transactional_id,
        [
            hot.ProducePartitionFrame(
                TopicId(each.topic_id),
                TopicName(each.topic),
                PartitionIndex(each.partition),
                LeaderEpoch(each.leader_epoch),
                memoryview(each.records),
            )
            for each in message.partitions
        ],
    )


def _fetched(
    each: broker_pb2.FetchedPartition, parts: int = 1
) -> hot.FetchedPartitionFrame[list[bytes]]:
    cut = len(each.records) // parts
    return hot.FetchedPartitionFrame(
        subscription_id=each.subscription_id,
        records=[each.records[:cut], each.records[cut:]],
        error=error_from_proto(each.error) if each.HasField("error") else None,
        high_watermark=Offset(each.high_watermark),
        last_stable_offset=Offset(each.last_stable_offset),
        log_start_offset=Offset(each.log_start_offset),
        aborted=[
            hot.AbortedTransaction(ProducerId(one.producer_id), Offset(one.first_offset))
            for one in each.aborted
        ],
        diverging_epoch=hot.EpochEnd(
            LeaderEpoch(each.diverging_epoch.leader_epoch), Offset(each.diverging_epoch.end_offset)
        )
        if each.HasField("diverging_epoch")
        else None,
        leader_id=NodeId(each.leader_id),
        leader_epoch=LeaderEpoch(each.leader_epoch),
    )


def _generic(frame: hot.FetchedPartitionFrame[Any]) -> tuple[Any, ...]:
    """Make two frames comparable: exceptions compare by identity, parts are not one view."""
    error = None if frame.error is None else error_to_proto(frame.error)
    fields = {name: getattr(frame, name) for name in frame.__struct_fields__}
    fields |= {
        "records": b"".join([frame.records])
        if isinstance(frame.records, memoryview)
        else b"".join(frame.records),
        "error": error,
        "aborted": list(frame.aborted),
        "records_start": 0,
    }
    return tuple(fields.values())


@given(_produce_requests)
def test_a_produce_request_is_encoded_as_the_generated_class_does(message: Any) -> None:
    assert hot.encode_produce_request(_produce_frame(message)) == message.SerializeToString()


@given(_produce_requests)
def test_a_produce_request_of_the_generated_class_is_decoded(message: Any) -> None:
    data = message.SerializeToString()
    assert hot.decode_produce_request(data) == _produce_frame(message)
    frame = hot.decode_produce_request(data, small_bytes=_NOTHING_IS_SMALL)
    assert frame == _produce_frame(message)
    assert all(
        cast("memoryview", each.records).obj is data for each in frame.partitions
    )  # nothing was copied


@given(_fetch_responses, st.integers(1, 3))
def test_a_fetch_response_is_encoded_as_the_generated_class_does(message: Any, parts: int) -> None:
    encoded = hot.encode_fetch_response(
        [_fetched(each, parts) for each in message.partitions], message.throttle_ms
    )
    assert encoded == message.SerializeToString()


@given(_fetch_responses, _small_bytes)
def test_a_fetch_response_of_the_generated_class_is_decoded(message: Any, small_bytes: int) -> None:
    frame = hot.decode_fetch_response(message.SerializeToString(), small_bytes=small_bytes)
    assert frame.throttle_ms == message.throttle_ms
    for each in frame.partitions:
        whole = cast("bytes", each.records.obj)
        assert whole[each.records_start :][: len(each.records)] == each.records
    assert [_generic(each) for each in frame.partitions] == [
        _generic(_fetched(each)) for each in message.partitions
    ]


@given(st.binary(max_size=60), _small_bytes)
def test_whatever_the_generated_class_refuses_is_refused(data: bytes, small_bytes: int) -> None:
    try:
        broker_pb2.ProduceRequest.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidRequestError):
            hot.decode_produce_request(data, small_bytes=small_bytes)
    try:
        broker_pb2.FetchResponse.FromString(data)
    except DecodeError:
        with pytest.raises(InvalidRequestError):
            hot.decode_fetch_response(data, small_bytes=small_bytes)


@given(_produce_requests, st.data(), _small_bytes)
def test_damaged_requests_read_as_the_generated_class_reads_them(
    message: Any, data: st.DataObject, small_bytes: int
) -> None:
    flipped = bytearray(message.SerializeToString() or b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(flipped[: data.draw(st.integers(0, len(flipped)))])
    try:
        expected = broker_pb2.ProduceRequest.FromString(damaged)
    except DecodeError:
        expected = None
    if expected is None or expected.acks not in {0, 1, 2}:
        with pytest.raises(InvalidRequestError):
            hot.decode_produce_request(damaged, small_bytes=small_bytes)
    else:
        frame = hot.decode_produce_request(damaged, small_bytes=small_bytes)
        assert frame == _produce_frame(expected)


@given(_fetch_responses, st.data(), _small_bytes)
def test_damaged_responses_read_as_the_generated_class_reads_them(
    message: Any, data: st.DataObject, small_bytes: int
) -> None:
    flipped = bytearray(message.SerializeToString() or b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] = data.draw(st.integers(0, 255))
    try:
        expected = broker_pb2.FetchResponse.FromString(bytes(flipped))
    except DecodeError:
        with pytest.raises(InvalidRequestError):
            hot.decode_fetch_response(bytes(flipped), small_bytes=small_bytes)
        return
    frame = hot.decode_fetch_response(bytes(flipped), small_bytes=small_bytes)
    assert frame.throttle_ms == expected.throttle_ms
    assert len(frame.partitions) == len(expected.partitions)
    for ours, theirs in zip(frame.partitions, expected.partitions, strict=True):
        assert ours.subscription_id == theirs.subscription_id
        assert bytes(ours.records) == theirs.records
        assert ours.high_watermark == theirs.high_watermark
        assert (ours.error is None) == (not theirs.HasField("error"))


@pytest.mark.parametrize(
    "unknown",
    [
        wire.varint(wire.tag(99, 0)) + wire.varint(1 << 40),
        wire.varint(wire.tag(99, 1)) + bytes(8),
        wire.varint(wire.tag(99, 2)) + wire.varint(3) + b"abc",
        wire.varint(wire.tag(99, 5)) + bytes(4),
        wire.varint(wire.tag(99, 3))
        + wire.integer_field(7, 7)
        + wire.varint(wire.tag(5, 3))
        + wire.varint(wire.tag(5, 4))
        + wire.varint(wire.tag(99, 4)),
    ],
    ids=["varint", "fixed64", "bytes", "fixed32", "group"],
)
def test_fields_of_a_newer_release_are_skipped(unknown: bytes) -> None:
    request = broker_pb2.ProduceRequest(correlation_id=7, timeout_ms=3)
    data = unknown + request.SerializeToString() + unknown
    for small_bytes in _SMALL_BYTES:
        assert hot.decode_produce_request(data, small_bytes=small_bytes) == _produce_frame(request)


def test_acks_of_a_newer_release_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        hot.decode_produce_request(wire.integer_field(2, 9))
    assert (caught.value.field, caught.value.value) == ("acks", "9")


def test_an_error_arrives_as_the_same_class_with_its_fields() -> None:
    sent = OffsetOutOfRangeError("offset 3 is below 10", field="offset", value=3, limit=10)
    data = hot.encode_fetch_response(
        [hot.FetchedPartitionFrame(subscription_id=5, records=(), error=sent)]
    )
    (received,) = hot.decode_fetch_response(data).partitions
    assert isinstance(received.error, OffsetOutOfRangeError)
    assert received.error.limit == "10"
    assert received.subscription_id == 5


def test_a_small_message_cannot_take_much_memory() -> None:
    entry = wire.length_prefix(5, 0)
    accepted = hot.decode_produce_request(entry * hot.PARTITIONS_MAX)
    assert len(accepted.partitions) == hot.PARTITIONS_MAX
    with pytest.raises(InvalidRequestError) as caught:
        hot.decode_produce_request(entry * (hot.PARTITIONS_MAX + 1))
    assert caught.value.limit == str(hot.PARTITIONS_MAX)
    with pytest.raises(InvalidRequestError):
        hot.decode_fetch_response(wire.length_prefix(1, 0) * (hot.PARTITIONS_MAX + 1))


_VARINT = b"\x78\x00"  # of field 15, which no message has


def _holding(number: int, inner: bytes) -> bytes:
    return wire.length_prefix(number, len(inner)) + inner


@pytest.mark.parametrize(
    ("decode", "number"), [(hot.decode_produce_request, 5), (hot.decode_fetch_response, 1)]
)
@pytest.mark.parametrize(
    "unknown", [_VARINT, b"\x7d\x00\x00\x00\x00"], ids=["of a known type", "of another type"]
)
def test_a_message_of_tiny_fields_cannot_take_much_time(
    decode: Callable[[bytes], object], number: int, unknown: bytes
) -> None:
    nearly = wire.FIELDS_MAX // 4 - 10
    decode(
        b"".join(
            (
                unknown * nearly,
                _holding(number, unknown * nearly) * 2,
                b"\x7b",
                unknown * nearly,
                b"\x7c",
            )
        )
    )
    tiny = [
        unknown * wire.FIELDS_MAX,
        _holding(number, unknown * wire.FIELDS_MAX),
        _holding(number, unknown * 100) * (wire.FIELDS_MAX // 100),
        b"\x7b" + unknown * wire.FIELDS_MAX + b"\x7c",
    ]
    for data in tiny:
        with pytest.raises(InvalidRequestError, match="too many fields") as caught:
            decode(data)
        assert (caught.value.field, caught.value.limit) == ("message", str(wire.FIELDS_MAX))


def test_the_largest_legal_request_has_few_enough_fields() -> None:
    target = hot.ProducePartitionFrame(
        TopicId(b"i" * 16), TopicName("t"), PartitionIndex(1), LeaderEpoch(1), b"r"
    )
    frame = hot.ProduceFrame(1, hot.Acks.LEADER, 1, "x", [target] * hot.PARTITIONS_MAX)
    decoded = hot.decode_produce_request(hot.encode_produce_request(frame))
    assert len(decoded.partitions) == hot.PARTITIONS_MAX


@pytest.mark.parametrize(
    ("damaged", "is_message"),
    [
        (b"\x10" + b"\xff" * 9 + b"\x3d", True),  # an integer's bits beyond 64 are dropped
        (b"\x90\x80\x80\x80\x80\x80\x01\x05", False),  # a tag has five bytes at most
    ],
)
def test_integers_are_as_long_as_protobuf_lets_them_be(damaged: bytes, is_message: bool) -> None:  # noqa: FBT001
    if is_message:
        expected = broker_pb2.FetchResponse.FromString(damaged).throttle_ms
        for small_bytes in _SMALL_BYTES:
            frame = hot.decode_fetch_response(damaged, small_bytes=small_bytes)
            assert frame.throttle_ms == expected
        return
    with pytest.raises(DecodeError):
        broker_pb2.FetchResponse.FromString(damaged)
    for small_bytes in _SMALL_BYTES:
        with pytest.raises(InvalidRequestError):
            hot.decode_fetch_response(damaged, small_bytes=small_bytes)

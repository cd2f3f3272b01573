"""Batches survive the round trip, agree with aiokafka's reader, and damage has a typed error."""

import contextlib
import random
import struct
from typing import TypeAlias

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from odradek.protocol.errors import (
    BrokerError,
    CorruptMessageError,
    InvalidRecordError,
    InvalidTimestampError,
    RecordTooLargeError,
    UnsupportedCompressionTypeError,
    UnsupportedForMessageFormatError,
)
from odradek.protocol.record_batch import (
    HEADER_BYTES,
    BatchBuilder,
    BatchHeader,
    Codec,
    Header,
    compress,
    decode,
    next_sequence,
    split,
    stamp,
    stamp_log_append_time,
    stamp_producer,
    validate,
    verify,
)
from odradek.protocol.types import LeaderEpoch, Offset, ProducerEpoch, ProducerId

LIMIT = 1 << 20
NOW_MS = 1_700_000_000_000

Rows: TypeAlias = list[tuple[bytes | None, bytes | None, int, list[Header]]]

record_headers = st.lists(
    st.tuples(st.text(max_size=10), st.none() | st.binary(max_size=40)), max_size=4
)
records = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=40),
        st.none() | st.binary(max_size=400),
        st.integers(0, 2**42),
        record_headers,
    ),
    min_size=1,
    max_size=30,
)


def build(rows: Rows, codec: Codec = Codec.NONE) -> bytes:
    builder = BatchBuilder(LIMIT)
    for key, value, timestamp_ms, headers in rows:
        assert builder.append(key, value, timestamp_ms, headers) is not None
    return bytes(compress(builder.close(), codec))


def simple(count: int = 3, codec: Codec = Codec.NONE, value: bytes = b"value " * 20) -> bytes:
    return build([(b"k%d" % i, value, NOW_MS + i, []) for i in range(count)], codec)


def with_crc(batch: bytes | bytearray) -> bytes:
    """Make a damaged header believable."""
    return bytes(batch[:17]) + struct.pack(">I", crc32c(bytes(batch[21:]))) + bytes(batch[21:])


def patched(batch: bytes, at: int, fmt: str, value: int) -> bytes:
    changed = bytearray(batch)
    struct.pack_into(fmt, changed, at, value)
    return with_crc(changed)


@given(records, st.sampled_from(Codec), st.integers(0, 2**62), st.integers(0, 2**31 - 1))
def test_records_survive_the_round_trip(
    rows: Rows, codec: Codec, base_offset: int, epoch: int
) -> None:
    batch = bytearray(build(rows, codec))
    stamp(batch, Offset(base_offset), LeaderEpoch(epoch))
    header = verify(batch)
    assert (header.base_offset, header.leader_epoch) == (base_offset, epoch)
    assert header.record_count == len(rows)
    assert header.next_offset == base_offset + len(rows)
    assert header.max_timestamp == max(row[2] for row in rows)
    decoded = decode(batch)
    assert [(r.key, r.value, r.timestamp, r.headers) for r in decoded] == rows
    assert [r.offset for r in decoded] == [base_offset + i for i in range(len(rows))]


@given(records, st.sampled_from(Codec))
def test_another_reader_understands_our_batches(rows: Rows, codec: Codec) -> None:
    reader = DefaultRecordBatch(build(rows, codec))
    assert reader.validate_crc()
    assert [(r.key, r.value, r.timestamp, r.headers) for r in reader] == rows


@given(records, st.sampled_from(Codec))
def test_we_understand_another_writers_batches(rows: Rows, codec: Codec) -> None:
    writer = DefaultRecordBatchBuilder(2, codec, 0, 7, 1, 5, LIMIT)
    for i, (key, value, timestamp_ms, headers) in enumerate(rows):
        writer.append(i, timestamp_ms, key, value, headers)
    batch = bytes(writer.build())
    header = validate(batch, LIMIT)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 1, 5)
    assert [(r.key, r.value, r.timestamp, r.headers) for r in decode(batch)] == rows


@given(
    values=st.lists(st.none() | st.binary(max_size=300), max_size=60),
    batch_bytes=st.integers(100, 4000),
)
def test_append_many_equals_append(*, values: list[bytes | None], batch_bytes: int) -> None:
    one_by_one, bulk = BatchBuilder(batch_bytes), BatchBuilder(batch_bytes)
    expected = 0
    for value in values:
        if one_by_one.append(None, value, NOW_MS, []) is None:
            break
        expected += 1
    half = len(values) // 2
    taken = bulk.append_many(values[:half], NOW_MS)
    if taken == half:
        taken += bulk.append_many(values[half:], NOW_MS)
    assert taken == expected == bulk.record_count
    if expected:
        assert bulk.size_bytes == one_by_one.size_bytes
        assert bulk.close() == one_by_one.close()


def test_append_many_stops_at_what_is_not_bytes() -> None:
    builder = BatchBuilder(LIMIT)
    with pytest.raises(TypeError):
        builder.append_many([b"a", b"b", "c", b"d"], NOW_MS)  # type: ignore[list-item]
    assert builder.record_count == 2
    builder.append(None, b"e", NOW_MS, [])
    assert [r.value for r in decode(builder.close())] == [b"a", b"b", b"e"]


def test_a_full_batch_refuses_records_and_stays_within_its_size() -> None:
    builder = BatchBuilder(1000)
    while builder.append(b"key", b"v" * 50, NOW_MS, []) is not None:
        pass
    assert builder.append_many([b"v" * 50], NOW_MS) == 0
    batch = builder.close()
    assert len(batch) <= 1000 < len(batch) + 70
    assert validate(batch, 1000).record_count == builder.record_count


def test_the_first_record_always_fits() -> None:
    builder = BatchBuilder(100)
    assert builder.append(None, b"v" * 500, NOW_MS, []) is not None
    assert builder.append(None, b"v", NOW_MS, []) is None
    assert builder.size_bytes > 500


@pytest.mark.parametrize("timestamp_ms", [-1, 1 << 63])
@pytest.mark.parametrize("key", [None, b"k"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_timestamp_that_does_not_fit_is_refused(
    *, timestamp_ms: int, key: bytes | None, begun: bool
) -> None:
    builder = BatchBuilder(100)
    if begun:
        builder.append(key, b"before", NOW_MS, [])
    with pytest.raises(InvalidTimestampError):
        builder.append(key, b"", timestamp_ms, [])
    with pytest.raises(InvalidTimestampError):
        builder.append_many([b""], timestamp_ms)
    builder.append(key, b"after", NOW_MS, [])
    assert [r.timestamp for r in decode(builder.close())] == [NOW_MS] * (1 + begun)


@pytest.mark.parametrize("key", [None, b"k"])
def test_what_is_not_bytes_leaves_no_trace(key: bytes | None) -> None:
    builder = BatchBuilder(LIMIT)
    for value in ("text", 7):
        with pytest.raises(TypeError):
            builder.append(key, value, NOW_MS, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        builder.append(key, b"v", 1.5, [])  # type: ignore[arg-type]
    builder.append(key, b"v", NOW_MS, [])
    assert [(r.key, r.value) for r in decode(builder.close())] == [(key, b"v")]


def test_producer_fields_can_be_stamped_again() -> None:
    batch = bytearray(simple(4))
    stamp_producer(batch, ProducerId(9), ProducerEpoch(2), 2**31 - 2)
    header = validate(batch, LIMIT)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (9, 2, 2**31 - 2)
    assert header.last_sequence == 1
    assert next_sequence(header.last_sequence) == 2
    assert next_sequence(2**31 - 1) == 0


def test_log_append_time_goes_for_every_record() -> None:
    batch = bytearray(simple(3, Codec.ZSTD))
    stamp_log_append_time(batch, NOW_MS + 99)
    assert verify(batch).is_log_append_time
    assert {r.timestamp for r in decode(batch)} == {NOW_MS + 99}


def test_transactional_batches_say_so() -> None:
    builder = BatchBuilder(LIMIT, transactional=True)
    builder.append(None, b"v", NOW_MS, [])
    batch = builder.close(ProducerId(1), ProducerEpoch(0), 0)
    assert validate(batch, LIMIT).is_transactional


@pytest.mark.parametrize("codec", [c for c in Codec if c is not Codec.NONE])
def test_what_compression_cannot_shrink_stays_plain(codec: Codec) -> None:
    batch = build([(None, random.Random(1).randbytes(300), NOW_MS, [])])
    assert compress(batch, codec) is batch


def test_split_cuts_concatenated_batches() -> None:
    batches = [simple(1), simple(2, Codec.LZ4), simple(3)]
    assert [bytes(view) for view in split(b"".join(batches))] == batches
    assert list(split(b"")) == []


@pytest.mark.parametrize("cut", [1, 11, 60, 61, 100, -1])
def test_a_truncated_batch_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptMessageError):
        list(split((simple() + simple())[: len(simple()) + cut % len(simple())]))
    for check in (verify, decode, lambda b: validate(b, LIMIT)):
        with pytest.raises(CorruptMessageError) as error:
            check(simple()[:cut])
        assert error.value.field == "batch_length"
        assert error.value.limit


@pytest.mark.parametrize("length", [-(2**31), -13, -12, -1, 0, 48, 2**31 - 1])
def test_an_impossible_length_is_corrupt(length: int) -> None:
    batch = patched(simple(), 8, ">i", length)
    with pytest.raises(CorruptMessageError):
        list(split(batch))
    with pytest.raises(CorruptMessageError):
        verify(batch)


def test_every_flipped_bit_under_the_crc_is_found() -> None:
    batch = simple(1)
    for at in range(17, len(batch)):
        damaged = bytearray(batch)
        damaged[at] ^= 0x10
        # A flipped codec bit may be refused by name; all else is found by the CRC.
        with pytest.raises(BrokerError):
            verify(damaged)
    with pytest.raises(CorruptMessageError) as error:
        verify(batch[:-1] + b"?")
    assert error.value.field == "crc"


def test_another_magic_is_refused() -> None:
    for magic in (0, 1, 3, -1):
        with pytest.raises(UnsupportedForMessageFormatError) as error:
            verify(patched(simple(), 16, ">b", magic))
        assert (error.value.value, error.value.limit) == (str(magic), "2")


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_refused(codec: Codec) -> None:
    with pytest.raises(UnsupportedCompressionTypeError) as error:
        verify(patched(simple(), 21, ">h", codec))
    assert error.value.value == str(codec)


def test_an_oversized_batch_names_both_sizes() -> None:
    batch = simple()
    assert validate(batch, len(batch))
    with pytest.raises(RecordTooLargeError) as error:
        validate(batch, len(batch) - 1)
    assert (error.value.value, error.value.limit) == (str(len(batch)), str(len(batch) - 1))


@pytest.mark.parametrize(
    ("at", "fmt", "value", "field"),
    [
        (57, ">i", 0, "record_count"),
        (57, ">i", -1, "record_count"),
        (57, ">i", 4, "last_offset_delta"),
        (23, ">i", 7, "last_offset_delta"),
        (21, ">h", 0x20, "attributes"),
        (21, ">h", 0x08, "attributes"),
        (21, ">h", 0x10, "producer_id"),
        (43, ">q", 5, "producer_id"),
    ],
)
def test_contradictions_in_the_header_are_refused(
    at: int, fmt: str, value: int, field: str
) -> None:
    with pytest.raises(InvalidRecordError) as error:
        validate(patched(simple(), at, fmt, value), LIMIT)
    assert error.value.field == field


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.LZ4, Codec.GZIP, Codec.SNAPPY])
def test_decompression_is_bounded(codec: Codec) -> None:
    batch = simple(1, codec, value=bytes(3 << 20))
    assert len(batch) < 300_000
    assert decode(batch)[0].value == bytes(3 << 20)
    with pytest.raises(CorruptMessageError) as error:
        decode(batch, records_bytes_max=1 << 20)
    assert error.value.limit == str(1 << 20)


def test_a_zstd_bomb_is_refused() -> None:
    bomb = bytes(cramjam.zstd.compress(bytes(256 << 20)))
    assert len(bomb) < 20_000
    batch = bytearray(simple(1)[:HEADER_BYTES] + bomb)
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    with pytest.raises(CorruptMessageError):
        decode(patched(bytes(batch), 21, ">h", Codec.ZSTD))


@given(st.binary(max_size=200))
def test_garbage_gets_typed_errors(garbage: bytes) -> None:
    for check in (verify, decode, lambda b: list(split(b)) and verify(b)):
        try:
            check(garbage)
        except BrokerError:
            continue
        assert garbage == b""


def forged(payload: bytes, count: int, attributes: int = 0) -> bytes:
    """Garbage records under a flawless header and CRC: only the record decoder can object."""
    head = BatchHeader.parse(simple(1))._replace(
        batch_length=HEADER_BYTES - 12 + len(payload),
        attributes=attributes,
        record_count=count,
        last_offset_delta=max(count - 1, 0),
    )
    return with_crc(head.pack() + payload)


@settings(max_examples=400)
@given(
    payload=st.binary(max_size=300),
    count=st.integers(-1, 2**31 - 1),
    codec=st.sampled_from(Codec),
    prefixed=st.booleans(),
    as_view=st.booleans(),
)
def test_forged_records_get_typed_errors(
    *, payload: bytes, count: int, codec: Codec, prefixed: bool, as_view: bool
) -> None:
    if prefixed:  # one good record first
        payload = simple(1)[HEADER_BYTES:] + payload
    batch = forged(payload, count, codec)
    with contextlib.suppress(CorruptMessageError):  # never another one, never a crash
        decode(memoryview(batch) if as_view else batch, records_bytes_max=1 << 20)


@pytest.mark.parametrize("ending", [b"\xff" * 20, b"\x80" * 9, b"\x00" * 5 + b"\x02"])
def test_numbers_that_run_off_the_end_do_not_crash(ending: bytes) -> None:
    # Sizes around the allocator's mmap threshold end exactly at a page: an overread would fault.
    for size in range(135_000, 135_000 + 4200, 7):
        with pytest.raises(CorruptMessageError):
            decode(forged(bytes(size) + ending, 1))
    endless_headers = b"\x0e\x00\x00\x00\x01\x01" + b"\xfe\xff\xff\xff\x0f"
    with pytest.raises(CorruptMessageError):
        decode(forged(endless_headers, 1))


def test_offsets_outside_the_batch_are_damage() -> None:
    writer = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, LIMIT)
    writer.append(0, NOW_MS, None, b"v", [])
    writer.append(50, NOW_MS, None, b"v", [])
    with pytest.raises(CorruptMessageError, match="offsets"):
        decode(patched(bytes(writer.build()), 23, ">i", 1))


def test_compacted_batches_with_gaps_are_intact() -> None:
    writer = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, LIMIT)
    writer.append(0, NOW_MS, None, b"first", [])
    writer.append(50, NOW_MS, None, b"last", [])
    batch = bytes(writer.build())
    assert verify(batch).next_offset == 51
    assert [r.offset for r in decode(batch)] == [0, 50]
    with pytest.raises(InvalidRecordError):
        validate(batch, LIMIT)

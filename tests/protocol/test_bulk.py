"""A batch of values has the bytes the record codec makes, however they come."""

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol.record_batch import BatchBuilder
from odradek.protocol.types import ProducerEpoch, ProducerId

_moments = st.integers(min_value=0, max_value=1 << 42)
_any_record = st.tuples(
    st.none() | st.binary(max_size=80),
    st.none() | st.binary(max_size=80),
    st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=70)), max_size=2),
)
_at_once = st.lists(st.binary(max_size=70), min_size=1, max_size=200)
_some_bytes = st.none() | st.binary(max_size=70)
_keyed_at_once = st.lists(st.tuples(_some_bytes, _some_bytes), min_size=1, max_size=100)


class Codec:
    """The codec itself, with the calls of a builder."""

    def __init__(self, batch_bytes: int, *, transactional: bool = False) -> None:
        self.count = 0
        self.codec = DefaultRecordBatchBuilder(2, 0, int(transactional), 7, 1, 42, batch_bytes + 1)

    def append(self, key: Any, value: Any, timestamp_ms: int, headers: Any) -> int | None:
        added = self.codec.append(self.count, timestamp_ms, key, value, headers)
        if added is None:
            return None
        self.count += 1
        return int(added.size)


@given(
    batch_bytes=st.integers(min_value=100, max_value=9000),
    transactional=st.booleans(),
    begins_with_a_value=st.booleans(),
    steps=st.lists(st.tuples(_moments, _any_record | _at_once), min_size=1, max_size=6),
)
def test_the_bytes_are_those_the_codec_makes(
    *,
    batch_bytes: int,
    transactional: bool,
    begins_with_a_value: bool,
    steps: list[tuple[int, Any]],
) -> None:
    codec = Codec(batch_bytes, transactional=transactional)
    builder = BatchBuilder(batch_bytes, transactional=transactional)
    first = (None, b"value", []) if begins_with_a_value else (b"key", b"value", [("h", b"")])
    for moment, step in [(1_700_000_000_000, first), *steps]:
        if isinstance(step, tuple):
            key, value, headers = step
            expected = codec.append(key, value, moment, headers)
            assert builder.append(key, value, moment, headers) == expected
        else:
            taken = builder.append_many(step, moment)
            for value in step[:taken]:
                assert codec.append(None, value, moment, []) is not None
            assert taken == len(step) or codec.append(None, step[taken], moment, []) is None
        assert codec.codec.size() == builder.size_bytes
        assert codec.count == builder.record_count
    assert builder.close(ProducerId(7), ProducerEpoch(1), 42) == codec.codec.build()


@given(
    batch_bytes=st.integers(min_value=100, max_value=9000),
    steps=st.lists(st.tuples(_moments, _keyed_at_once | _any_record), min_size=1, max_size=6),
)
def test_keyed_records_at_once_have_the_bytes_the_codec_makes(
    *, batch_bytes: int, steps: list[tuple[int, Any]]
) -> None:
    codec, builder = Codec(batch_bytes), BatchBuilder(batch_bytes)
    for moment, step in steps:
        if isinstance(step, tuple):
            expected = codec.append(step[0], step[1], moment, step[2])
            assert builder.append(step[0], step[1], moment, step[2]) == expected
        else:
            keys, values = [key for key, _ in step], [value for _, value in step]
            taken = builder.append_many(values, moment, keys)
            for key, value in step[:taken]:
                assert codec.append(key, value, moment, []) is not None
            assert (
                taken == len(step)
                or codec.append(step[taken][0], step[taken][1], moment, []) is None
            )
        assert codec.codec.size() == builder.size_bytes
        assert codec.count == builder.record_count
    assert builder.close(ProducerId(7), ProducerEpoch(1), 42) == codec.codec.build()


def test_keyed_records_at_once_may_be_long_and_many() -> None:
    codec, builder = Codec(1 << 24), BatchBuilder(1 << 24)
    lengths = (0, 1, 63, 64, 5000, 8191, 8192, 100_000)
    records: list[tuple[bytes, bytes | None]] = [
        (bytes(key), bytes(value)) for key in lengths for value in lengths
    ]
    records += [(b"%d" % number, None) for number in range(17_000)]
    for key, value in records:
        codec.append(key, value, 5, [])
    keys = [key for key, _ in records]
    assert builder.append_many([value for _, value in records], 5, keys) == len(records)
    assert builder.close(ProducerId(7), ProducerEpoch(1), 42) == codec.codec.build()


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("value_bytes", [0, 1, 62, 63, 100])
def test_offset_deltas_grow_longer(*, value_bytes: int, at_once: bool) -> None:
    codec, builder = Codec(1 << 21), BatchBuilder(1 << 21)
    values = [b"v" * value_bytes] * 17_000
    for value in values:
        codec.append(None, value, 5, [])
    if at_once:
        assert builder.append_many(values, 5) == len(values)
    else:
        for value in values:
            assert builder.append(None, value, 5, []) is not None
    assert builder.close(ProducerId(7), ProducerEpoch(1), 42) == codec.codec.build()

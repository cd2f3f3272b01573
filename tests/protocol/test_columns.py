"""Both ways to read a batch, by columns and by the codec, agree on every batch."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.record_batch import (
    BatchBuilder,
    BatchHeader,
    Codec,
    Columns,
    compress,
    decode,
    decode_columns,
    stamp,
    stamp_log_append_time,
)
from odradek.protocol.record_batch.columns import COLUMN_RECORDS_MIN, _equal_records
from odradek.protocol.record_batch.header import HEADER_BYTES, crc_of
from odradek.protocol.record_batch.reader import open_batch
from odradek.protocol.types import LeaderEpoch, Offset

NOW_MS = 1_700_000_000_000

Row = tuple[bytes | None, bytes | None, int, list[tuple[str, bytes | None]]]


def built(rows: list[Row], *, base_offset: int = 5) -> bytearray:
    builder = BatchBuilder(1 << 24, transactional=False)
    for key, value, age_ms, headers in rows:
        assert builder.append(key, value, NOW_MS + age_ms, headers) is not None
    batch = bytearray(builder.close())
    stamp(batch, Offset(base_offset), LeaderEpoch(3))
    return batch


def by_codec(batch: bytes) -> list[tuple[object, ...]]:
    return [
        (r.offset, -1 if r.timestamp is None else r.timestamp, r.key, r.value, list(r.headers))
        for r in decode(batch)
    ]


def by_columns(columns: Columns) -> list[tuple[object, ...]]:
    records = [columns.record(index) for index in range(len(columns))]
    return [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in records]


def is_read_by_columns(batch: bytes) -> bool:
    return _equal_records(open_batch(batch, 0, len(batch))) is not None


_field = st.one_of(st.none(), st.binary(max_size=3), st.just(b"four"), st.just(bytes(200)))
_rows = st.lists(
    st.tuples(
        _field,
        _field,
        st.integers(-70, 70),
        st.sampled_from([[], [], [("h", b"x")]]),
    ),
    min_size=1,
    max_size=20,
)
_equal_rows: st.SearchStrategy[list[Row]] = st.builds(
    lambda key, value, ages_ms: [(key, value, age_ms, []) for age_ms in ages_ms],
    _field,
    _field,
    st.lists(st.integers(0, 63), min_size=1, max_size=200),
)


@given(
    st.one_of(_rows, _equal_rows),
    st.binary(max_size=40),
    st.sampled_from(list(Codec)),
    st.sampled_from([1, COLUMN_RECORDS_MIN]),
)
def test_both_ways_give_the_same(
    rows: list[Row], around: bytes, codec: Codec, records_min: int
) -> None:
    batch = bytes(compress(built(rows), codec))
    columns = decode_columns(
        around + batch + around, len(around), len(batch), column_records_min=records_min
    )
    assert by_columns(columns) == by_codec(batch)


@given(_equal_rows, st.randoms(use_true_random=False))
def test_damage_that_passes_the_crc_is_read_alike_or_refused(
    rows: list[Row], chance: random.Random
) -> None:
    batch = built(rows)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(HEADER_BYTES, len(batch))
        batch[at] = chance.choice([0, 1, 2, 0x7F, 0x80, 0xFF, batch[at] ^ 1, batch[at] + 2 & 0xFF])
    batch[:HEADER_BYTES] = BatchHeader.parse(batch)._replace(crc=crc_of(batch)).pack()
    damaged = bytes(batch)
    try:
        expected = by_codec(damaged)
    except CorruptMessageError:
        with pytest.raises(CorruptMessageError):
            decode_columns(damaged, 0, len(damaged), column_records_min=1)
    else:
        columns = decode_columns(damaged, 0, len(damaged), column_records_min=1)
        assert by_columns(columns) == expected


@pytest.mark.parametrize("count", [1, 31, 32, 64, 65, 8192, 8193, 9000])
def test_records_of_equal_sizes_need_no_codec(count: int) -> None:
    rows: list[Row] = [(b"key%06d" % n, b"value%06d" % n, n % 60, []) for n in range(count)]
    batch = bytes(built(rows))
    assert is_read_by_columns(batch)
    assert by_columns(decode_columns(batch, 0, len(batch))) == by_codec(batch)


@pytest.mark.parametrize(
    "rows",
    [
        [(None, b"a", 0, []), (None, b"bb", 0, [])],
        [(None, b"a", 0, [("h", b"")])] * 3,
        [(None, b"a", 0, []), (None, b"b", 100, [])],
    ],
    ids=["sizes", "headers", "long timestamp deltas"],
)
def test_others_go_through_the_codec(rows: list[Row]) -> None:
    assert not is_read_by_columns(bytes(built(rows)))


def test_the_time_of_appending_goes_for_every_record() -> None:
    batch = built([(None, b"a", 1, []), (None, b"b", 2, [])])
    stamp_log_append_time(batch, NOW_MS + 99)
    assert decode_columns(bytes(batch), 0, len(batch)).timestamps == [NOW_MS + 99] * 2


def test_a_claimed_count_costs_no_memory() -> None:
    batch = built([(None, b"a", 0, [])])
    header = BatchHeader.parse(batch)._replace(
        record_count=(1 << 31) - 1, last_offset_delta=(1 << 31) - 2
    )
    batch[:HEADER_BYTES] = header.pack()
    batch[:HEADER_BYTES] = header._replace(crc=crc_of(batch)).pack()
    with pytest.raises(CorruptMessageError):
        decode_columns(bytes(batch), 0, len(batch))

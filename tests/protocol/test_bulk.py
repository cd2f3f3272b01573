"""A batch made in bulk has the bytes the record codec makes, record by record."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol.record_batch import BatchBuilder
from odradek.protocol.types import ProducerEpoch, ProducerId

_moments = st.integers(min_value=0, max_value=1 << 42)
_one_by_one = st.tuples(
    st.none() | st.binary(max_size=80),
    st.none() | st.binary(max_size=80),
    st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=70)), max_size=2),
)
_at_once = st.lists(st.binary(max_size=70), min_size=1, max_size=200)


@given(
    batch_bytes=st.integers(min_value=100, max_value=9000),
    transactional=st.booleans(),
    steps=st.lists(st.tuples(_moments, _one_by_one | _at_once), min_size=1, max_size=6),
)
def test_bulk_makes_the_bytes_the_codec_makes(
    *,
    batch_bytes: int,
    transactional: bool,
    steps: list[tuple[int, Any]],
) -> None:
    codec = BatchBuilder(batch_bytes, transactional=transactional)
    bulk = BatchBuilder(batch_bytes, transactional=transactional)
    first = b"begins in bulk"
    codec.append(None, first, 1_700_000_000_000, [])
    assert bulk.append_many([first], 1_700_000_000_000) == 1
    for moment, step in steps:
        if isinstance(step, tuple):
            key, value, headers = step
            assert codec.append(key, value, moment, headers) == bulk.append(
                key, value, moment, headers
            )
        else:
            taken = bulk.append_many(step, moment)
            for value in step[:taken]:
                assert codec.append(None, value, moment, []) is not None
            assert taken == len(step) or codec.append(None, step[taken], moment, []) is None
        assert codec.size_bytes == bulk.size_bytes
    identity = (ProducerId(7), ProducerEpoch(1), 42)
    assert codec.close(*identity) == bulk.close(*identity)


@pytest.mark.parametrize("value_bytes", [0, 1, 62, 63, 100])
def test_bulk_goes_on_where_offset_deltas_grow_longer(value_bytes: int) -> None:
    codec, bulk = BatchBuilder(1 << 20), BatchBuilder(1 << 20)
    values = [b"v" * value_bytes] * 8300
    for value in values:
        codec.append(None, value, 5, [])
    assert bulk.append_many(values, 5) == len(values)
    assert codec.close() == bulk.close()

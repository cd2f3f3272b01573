"""Values sent one by one share a list and a timestamp; nobody can tell from the batch."""

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.client.producing.ledger import Ledger
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.protocol.record_batch import HEADER_BYTES, BatchBuilder, decode
from odradek.protocol.types import PartitionIndex, TopicName

LIMIT_BYTES = 1 << 20
START_NS = 1_700_000_000_000_250_500  # no step ends exactly with a millisecond
START_MS = START_NS // 1_000_000

Step: TypeAlias = int | tuple[bytes | None, bytes]
"""Microseconds that pass, or a key and a value."""


def batch_in(ledger: Ledger, *, batch_bytes: int = LIMIT_BYTES) -> ProducerBatch:
    builder = BatchBuilder(batch_bytes)
    return ProducerBatch(TopicName("t"), PartitionIndex(0), ledger, builder, 0.0, 9.0)


def ledger_with(room_bytes: int = LIMIT_BYTES) -> Ledger:
    ledger = Ledger(LIMIT_BYTES)
    ledger.quick_until_bytes = room_bytes
    return ledger


def gather(batch: ProducerBatch, value: bytes, now_us: int) -> int | None:
    """As the producer does: ask, begin the next millisecond, ask again."""
    now_s = now_us / 1e6
    index = batch.gather(value, now_s)
    if index is None:
        now_ms, since_ns = divmod(START_NS + now_us * 1000, 1_000_000)
        batch.begin_gathering(now_ms, now_s + (1_000_000 - since_ns) / 1e9)
        index = batch.gather(value, now_s)
    return index


def append(batch: ProducerBatch, key: bytes | None, value: bytes, now_us: int) -> int | None:
    size_bytes = batch.settle().append(key, value, (START_NS + now_us * 1000) // 1_000_000, [])
    if size_bytes is not None:
        batch.ledger.used_bytes += size_bytes
    return size_bytes


@given(
    batch_bytes=st.integers(min_value=200, max_value=5000),
    room_bytes=st.integers(min_value=0, max_value=6000),
    steps=st.lists(
        st.integers(min_value=0, max_value=1500)
        | st.tuples(st.none() | st.binary(max_size=8), st.binary(max_size=200)),
        max_size=60,
    ),
)
def test_records_keep_their_order_index_and_millisecond(
    *, batch_bytes: int, room_bytes: int, steps: list[Step]
) -> None:
    ledger = ledger_with(room_bytes)
    batch = batch_in(ledger, batch_bytes=batch_bytes)
    now_us = 0
    expected: list[tuple[bytes | None, bytes, int]] = []
    for step in steps:
        if isinstance(step, int):
            now_us += step
            continue
        key, value = step
        index = gather(batch, value, now_us) if key is None and expected else None
        if index is not None:
            assert index == len(expected)
        elif append(batch, key, value, now_us) is None:
            continue
        expected.append((key, value, (START_NS + now_us * 1000) // 1_000_000))
    if not expected:
        return
    batch.seal()
    assert ledger.used_bytes == batch.charged_bytes, "frames are counted as they are"
    batch.build()
    assert len(batch.data) == batch.charged_bytes + HEADER_BYTES
    assert len(batch.data) <= batch_bytes or len(expected) == 1
    records = decode(batch.data)
    assert [(each.key, each.value, each.timestamp) for each in records] == expected
    batch.succeed(0, -1)
    assert ledger.used_bytes == 0


def test_a_millisecond_ends_when_the_clock_says_so() -> None:
    batch = batch_in(ledger_with())
    append(batch, None, b"first", 0)
    assert gather(batch, b"early", 749) == 1
    assert batch.gathered_ms == START_MS
    assert batch.gather(b"late", 750e-6) is None
    assert gather(batch, b"late", 750) == 2
    assert batch.gathered_ms == START_MS + 1


def test_what_is_gathered_counts_in_the_ledger_at_once() -> None:
    ledger = ledger_with(room_bytes=1000)
    batch = batch_in(ledger)
    append(batch, None, b"first", 0)
    gathered = 0
    while gather(batch, bytes(90), 0) is not None:
        gathered += 1
    assert gathered >= 8, "nearly all of the room is used"
    assert ledger.used_bytes <= 1000 + 90 + 28, "by one record at most more"


def test_many_batches_take_no_more_room_than_their_values_need() -> None:
    ledger = ledger_with()
    batches = [batch_in(ledger) for _ in range(100)]
    for batch in batches:
        append(batch, None, b"first", 0)
        assert gather(batch, b"second", 0) == 1
    assert ledger.used_bytes <= 100 * 2 * (6 + 28)


def test_nobody_who_waits_for_room_is_overtaken() -> None:
    ledger = ledger_with()
    batch = batch_in(ledger)
    append(batch, None, b"first", 0)
    assert gather(batch, b"second", 0) == 1
    ledger.quick_until_bytes = 0  # as `Room.enter` does
    assert gather(batch, b"third", 0) is None


def test_what_was_gathered_outlives_an_interrupted_settling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = batch_in(ledger_with())
    append(batch, None, b"first", 0)
    assert gather(batch, b"second", 0) == 1

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BatchBuilder, "append_many", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batch.settle()
    batch.seal()
    batch.build()
    assert [record.value for record in decode(batch.data)] == [b"first", b"second"]


def test_the_size_of_an_open_batch_includes_what_was_gathered() -> None:
    batch = batch_in(ledger_with())
    append(batch, None, b"first", 0)
    before_bytes = batch.size_bytes
    gather(batch, bytes(100), 0)
    assert batch.size_bytes > before_bytes + 100
    batch.seal()
    batch.build()
    assert len(decode(batch.data)) == 2

"""The idempotence window, rule by rule, and against a model."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.producers import BATCHES_RETAINED, Duplicate, ProducerStates
from odradek.protocol.errors import InvalidProducerEpochError, OutOfOrderSequenceNumberError
from odradek.protocol.record_batch import BatchHeader, next_sequence
from odradek.protocol.types import LeaderEpoch, Offset, ProducerEpoch, ProducerId

NOW_MS = 1_700_000_000_000
HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS
LAST = 2**31 - 1


def header(
    sequence: int, count: int = 1, *, offset: int = 0, epoch: int = 0, pid: int = 1
) -> BatchHeader:
    return BatchHeader(
        base_offset=Offset(offset),
        batch_length=100,
        leader_epoch=LeaderEpoch(0),
        magic=2,
        crc=0,
        attributes=0,
        last_offset_delta=count - 1,
        base_timestamp=NOW_MS,
        max_timestamp=NOW_MS,
        producer_id=ProducerId(pid),
        producer_epoch=ProducerEpoch(epoch),
        base_sequence=sequence,
        record_count=count,
    )


def states(*headers: BatchHeader) -> ProducerStates:
    made = ProducerStates()
    for item in headers:
        assert made.check(item) is None
        made.appended(item, NOW_MS)
    return made


def original_offset(answer: Duplicate | None) -> Offset | None:
    assert answer is not None
    return answer.original.base_offset if answer.original else None


def test_the_next_in_sequence_is_appended() -> None:
    log = states(header(0, 3, offset=0), header(3, 2, offset=3))
    assert log.check(header(5)) is None


def test_a_gap_is_out_of_order() -> None:
    log = states(header(0, 3))
    for sequence in (4, 5, 1000, 2**30):
        with pytest.raises(OutOfOrderSequenceNumberError) as error:
            log.check(header(sequence))
        assert (error.value.value, error.value.limit) == (str(sequence), "3")


def test_a_duplicate_gets_the_original_offset() -> None:
    log = states(*(header(2 * i, 2, offset=100 + 2 * i) for i in range(5)))
    for i in range(5):
        assert original_offset(log.check(header(2 * i, 2))) == 100 + 2 * i


def test_a_duplicate_older_than_the_window_has_no_offset() -> None:
    log = states(*(header(i, offset=i) for i in range(BATCHES_RETAINED + 2)))
    assert original_offset(log.check(header(0))) is None
    assert original_offset(log.check(header(1))) is None
    assert original_offset(log.check(header(2))) == 2


def test_a_batch_cut_differently_is_out_of_order() -> None:
    log = states(header(0, 4), header(4, 4, offset=4))
    for sequence, count in ((4, 2), (6, 2), (2, 4), (4, 5)):
        with pytest.raises(OutOfOrderSequenceNumberError):
            log.check(header(sequence, count))


def test_sequences_wrap_to_zero() -> None:
    log = states(header(LAST - 2, 2, offset=10), header(LAST, 3, offset=12))
    assert log.check(header(2)) is None
    assert original_offset(log.check(header(LAST, 3))) == 12
    assert original_offset(log.check(header(LAST - 2, 2))) == 10
    assert original_offset(log.check(header(LAST - 5, 2))) is None
    with pytest.raises(OutOfOrderSequenceNumberError):
        log.check(header(3))


def test_an_unknown_producer_may_start_anywhere() -> None:
    assert ProducerStates().check(header(77, epoch=4)) is None


def test_a_lower_epoch_is_fenced() -> None:
    log = states(header(0, epoch=2))
    with pytest.raises(InvalidProducerEpochError) as error:
        log.check(header(1, epoch=1))
    assert (error.value.value, error.value.limit) == ("1", "2")


def test_a_new_epoch_starts_at_zero() -> None:
    log = states(header(0), header(1, offset=1))
    with pytest.raises(OutOfOrderSequenceNumberError):
        log.check(header(2, epoch=1))
    fresh = header(0, epoch=1, offset=2)
    assert log.check(fresh) is None
    log.appended(fresh, NOW_MS)
    assert original_offset(log.check(header(0, epoch=1))) == 2
    assert log.check(header(1, epoch=1)) is None


def test_batches_without_producer_leave_no_trace() -> None:
    log = states(header(-1, pid=-1), header(-1, pid=-1))
    assert len(log) == 0


def test_producers_do_not_disturb_each_other() -> None:
    log = states(header(0, pid=1), header(0, pid=2, offset=1), header(1, pid=1, offset=2))
    assert log.check(header(2, pid=1)) is None
    assert log.check(header(1, pid=2)) is None


def test_a_silent_producer_expires_after_a_day() -> None:
    log = states(header(0, pid=1))
    for hour in range(1, 25):
        assert log.expire(NOW_MS + hour * HOUR_MS) == 0
    log.appended(header(0, pid=2, offset=1), NOW_MS + DAY_MS)
    assert log.expire(NOW_MS + DAY_MS + 1) == 1
    assert log.check(header(500, pid=1)) is None
    with pytest.raises(OutOfOrderSequenceNumberError):
        log.check(header(500, pid=2))


@pytest.mark.parametrize("booted_ms", [0, NOW_MS + 30 * HOUR_MS])
def test_a_restart_counts_neither_down_time_nor_the_clock_of_another_boot(booted_ms: int) -> None:
    log = states(header(0, pid=1))
    assert log.expire(NOW_MS + 20 * HOUR_MS) == 0
    restarted = ProducerStates.restore(log.snapshot())
    assert restarted.expire(booted_ms) == 0
    assert restarted.expire(booted_ms + 20 * HOUR_MS) == 0
    assert original_offset(restarted.check(header(0, pid=1))) == 0
    assert restarted.expire(booted_ms + 25 * HOUR_MS) == 1


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 5)), max_size=40))
def test_a_restored_snapshot_decides_alike(steps: list[tuple[int, int, int]]) -> None:
    log, sequences, offset = ProducerStates(), dict.fromkeys(range(1, 5), LAST - 4), 0
    epochs = dict.fromkeys(range(1, 5), 0)
    for pid, bump, count in steps:
        if bump == 3:
            epochs[pid] += 1
            sequences[pid] = 0
        item = header(sequences[pid], count, offset=offset, epoch=epochs[pid], pid=pid)
        log.appended(item, NOW_MS + offset)
        sequences[pid] = next_sequence(sequences[pid], count)
        offset += count
    restored = ProducerStates.restore(log.snapshot())
    assert restored.snapshot() == log.snapshot()
    assert len(restored) == len(log)


@given(st.integers(0, 2**32), st.integers(0, LAST))
def test_each_batch_is_in_the_log_once_and_in_order(seed: int, first: int) -> None:
    """A producer with five in flight over a network that loses, repeats and reorders requests."""
    rng = random.Random(seed)
    total = 30
    sequences = [next_sequence(first, i) for i in range(total)]
    states_, log = ProducerStates(), list[int]()
    acked: dict[int, Offset] = {}
    while len(acked) < total:
        window = [i for i in range(total) if i not in acked][:5]
        window = [i for i in window if i < min(window) + 5]
        # The first batch of a producer must arrive first: an unknown producer may start anywhere.
        i = rng.choice(window) if log else 0
        item = header(sequences[i], offset=len(log))
        try:
            answer = states_.check(item)
        except OutOfOrderSequenceNumberError:
            continue
        if answer is None:
            states_.appended(item, NOW_MS)
            log.append(i)
            offset = item.base_offset
        else:
            assert answer.original is not None, "a batch in flight never leaves the window"
            offset = answer.original.base_offset
        if rng.random() < 0.6:  # the answer arrives
            acked[i] = offset
    assert log == list(range(total))
    assert acked == {i: i for i in range(total)}

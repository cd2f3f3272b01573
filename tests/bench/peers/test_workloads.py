from collections.abc import Callable, Sequence

import pytest

from bench.peers.workloads import produce_and_consume_kib, produce_kib, produce_small
from tests.bench.peers.fakes import MemoryStream


async def test_every_record_produced_is_consumed() -> None:
    stream = MemoryStream()
    figures = [figure async for figure in produce_and_consume_kib(stream, 0.01)]
    assert [(each.workload, each.unit) for each in figures] == [
        ("produce 1 KiB", "MB/s"),
        ("consume 1 KiB", "MB/s"),
    ]
    assert {len(value) for value in stream.values} == {1024}
    assert len(stream.values) == 4_000 + 2_000, "the warm-up comes before"


async def test_a_consumer_that_shows_something_else_has_no_figure() -> None:
    class Cutting(MemoryStream):
        async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
            await super().consume(count, lambda value: see(value[:-1]))

    with pytest.raises(AssertionError, match="gave"):
        _ = [figure async for figure in produce_and_consume_kib(Cutting(), 0.001)]


async def test_who_is_busy_too_long_is_asked_for_no_further_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything, cut = MemoryStream(), MemoryStream()
    _ = [figure async for figure in produce_kib(everything, 0.2)]
    clock = iter((0.0, 0.0, 5.0, 5.0))  # started, first call begins, and ends 5 s later
    monkeypatch.setattr("bench.peers.workloads.time.perf_counter", lambda: next(clock))
    (figure,) = [figure async for figure in produce_kib(cut, 0.2)]
    assert (everything.calls, cut.calls) == (1 + 4, 1 + 1)
    assert figure.value == pytest.approx(20_000 * 1024 / 1e6 / 5)


async def test_small_records_are_produced_one_by_one() -> None:
    class OneByOne(MemoryStream):
        async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
            self.values.extend(values)

        async def produce_many(self, values: Sequence[bytes]) -> None:
            raise AssertionError(len(values))

    stream = OneByOne()
    _ = [figure async for figure in produce_small(stream, 0.001)]
    assert {len(value) for value in stream.values} == {100}
    assert len(stream.values) == 2_000 + 2_000

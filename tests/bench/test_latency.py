"""Which windows of a run count as quiet."""

from pathlib import Path

import pytest

from bench import host
from bench.host import Processors
from bench.latency import Run
from bench.pacing import WARM_UP_RECORDS

WINDOW = 5_000


def test_a_window_is_quiet_when_the_host_took_next_to_nothing_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of the first window 1 of 1,000 ticks was stolen, of the second 6, of the third 5.
    read = iter([Processors(10, 1000), Processors(11, 2000), Processors(17, 3000)])
    later = Processors(22, 4000)
    monkeypatch.setattr(Processors, "now", lambda: next(read, later))
    run = Run()
    for number in range(WARM_UP_RECORDS + 3 * WINDOW + 1):
        run.add(float(number))
    first, third = run.quiet_windows()
    assert (first[0], len(first)) == (WARM_UP_RECORDS, WINDOW)
    assert (third[0], len(third)) == (WARM_UP_RECORDS + 2 * WINDOW, WINDOW)
    assert run.measured_s[0] == WARM_UP_RECORDS


def test_a_window_that_did_not_end_is_none() -> None:
    run = Run()
    for number in range(WARM_UP_RECORDS + WINDOW):
        run.add(float(number))
    assert not list(run.quiet_windows())


def test_what_the_host_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(host, "_STAT", stat)
    stat.write_text("cpu  10 1 20 60 5 0 2 2 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    before = Processors.now()
    stat.write_text("cpu  50 1 20 60 5 0 2 12 9 0\n")
    assert Processors.now().stolen_share(before) == 0.2

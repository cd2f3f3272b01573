"""Two threads sync the value log: neither may take for done what the other has only begun."""

import os
import threading
from pathlib import Path

import pytest

from odradek.node.storage import value_log
from odradek.node.storage.value_log import ValueLog


def test_a_sync_waits_for_the_names_another_threads_sync_is_busy_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reclaimer syncs the directory, too: whoever acknowledges must not take it for done."""
    log = ValueLog(tmp_path, 10_000, 1 << 20)
    begun: list[Path] = []

    def while_it_runs(directory: Path) -> None:
        begun.append(directory)
        if len(begun) == 1:
            log.sync()

    monkeypatch.setattr(value_log, "sync_directory", while_it_runs)
    log.append(b"x")
    log.sync_directory()
    assert len(begun) == 2
    log.sync()
    assert len(begun) == 2, "nothing is new"


def test_a_sync_waits_for_the_segments_another_threads_sync_is_busy_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reclaimer syncs before it unlinks: a sealed segment is on its hands then."""
    log = ValueLog(tmp_path, 10_000, 1 << 20)
    log.append(b"x")
    log.seal()
    begun, go_on = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", slow)
    reclaimer = threading.Thread(target=log.sync)
    acknowledger = threading.Thread(target=log.sync)
    reclaimer.start()
    assert begun.wait(10)
    acknowledger.start()
    acknowledger.join(0.1)
    assert acknowledger.is_alive(), "it would acknowledge what is not on disk"
    go_on.set()
    reclaimer.join(10)
    acknowledger.join(10)
    assert not acknowledger.is_alive()

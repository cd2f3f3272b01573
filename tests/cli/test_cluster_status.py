"""`odradek cluster status` shows how far replicas on their way are."""

import pytest

from odradek.client.administration.descriptions import (
    PartitionDescription,
    Reassignment,
    ReplicaProgress,
)
from odradek.client.cli.cluster import _print_moves


def _move(partition: int, *progress: ReplicaProgress) -> Reassignment:
    described = PartitionDescription(partition, 1, 1, (1, 2), (1,), adding=(2,))
    return Reassignment("t", described, progress)


def test_who_lacks_most_is_first(capsys: pytest.CaptureFixture[str]) -> None:
    _print_moves(
        [
            _move(0, ReplicaProgress(2, 10_000, 0)),
            _move(1, ReplicaProgress(2, 8_000_000, 2_000_000)),
            _move(2),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split() for line in lines if line.startswith("t-")]
    assert shown == [
        ["t-1", "2", "━" * 15 + "·" * 5, "75", "%", "6.0", "MB", "8.0", "MB"],
        ["t-0", "2", "━" * 20, "100", "%", "10.0", "kB", "10.0", "kB"],
    ]


def test_nothing_is_shown_when_nothing_moves(capsys: pytest.CaptureFixture[str]) -> None:
    _print_moves([])
    assert not capsys.readouterr().out


def test_many_moves_are_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    _print_moves([_move(n, ReplicaProgress(2, 100, n)) for n in range(25)])
    shown = capsys.readouterr()
    assert sum(line.startswith("t-") for line in shown.out.splitlines()) == 20
    assert "5 replicas more" in shown.err


def test_an_empty_log_is_there_at_once() -> None:
    assert ReplicaProgress(2, 0, 0).share == 1.0

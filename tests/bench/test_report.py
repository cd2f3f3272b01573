import json

import pytest

from bench.report import Figure, as_json, median_of, show


def test_a_figure_of_several_runs_is_their_median() -> None:
    figure = median_of(
        (9.0, 2.0, 40.0, 3.0, 2.5), workload="p99", unit="ms", goal=3.0, smaller_is_better=True
    )
    assert (figure.value, figure.span, figure.reaches_goal) == (3.0, "2 to 40", True)
    (kept,) = json.loads(as_json([figure]))["figures"]
    assert kept["runs"] == [9.0, 2.0, 40.0, 3.0, 2.5], "JSON keeps them all, in their order"


def test_the_table_shows_the_range_of_runs_and_nothing_for_a_single_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show(
        [
            median_of((81.0, 120.0), workload="produce", unit="MB/s", goal=80),
            Figure(workload="restart", value=0.5, unit="s"),
        ]
    )
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert rows == [
        ["produce", "100", "81 to 120", ">= 80", "MB/s"],
        ["restart", "0.5", "", "", "s"],
    ]

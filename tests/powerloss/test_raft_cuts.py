"""A controller's disk after power cuts: nothing promised is missing, planted mistakes are seen."""

from pathlib import Path

import pytest

from tests.powerloss.explorer import explore, record
from tests.powerloss.raft_check import check_raft
from tests.powerloss.tracer import Tracer, materialise

PROGRAM = "tests.powerloss.raft_program"


def test_nothing_promised_is_missing_after_any_power_cut(tracer: Tracer, tmp_path: Path) -> None:
    for turn in range(3):  # the second and third start from what a cut has left
        recording = record(tracer, PROGRAM, str(tracer.root), str(turn), "200")
        last = explore(recording, tmp_path / "cut", check_raft, seed=turn, count=100)
        materialise(last.tree, tracer.root)


@pytest.mark.parametrize("mistake", ["unsynced", "renamed"])
def test_a_planted_mistake_is_found(tracer: Tracer, tmp_path: Path, mistake: str) -> None:
    recording = record(tracer, PROGRAM, str(tracer.root), "0", "100", mistake)
    with pytest.raises(Exception, match="after a power cut"):
        explore(recording, tmp_path / "cut", check_raft, seed=0, count=100)

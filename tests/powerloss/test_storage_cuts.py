"""A node's storage after power cuts: nothing promised is missing, and planted mistakes are seen."""

from pathlib import Path

import pytest

from tests.powerloss.explorer import explore, record
from tests.powerloss.storage_check import check_storage
from tests.powerloss.tracer import Tracer, materialise

PROGRAM = "tests.powerloss.storage_program"


def test_nothing_promised_is_missing_after_any_power_cut(tracer: Tracer, tmp_path: Path) -> None:
    for turn in range(3):  # the second and third start from what a cut has left
        recording = record(tracer, PROGRAM, str(tracer.root), str(turn), "300")
        last = explore(recording, tmp_path / "cut", check_storage, seed=turn, count=12)
        materialise(last.tree, tracer.root)
        tracer.reboot()


@pytest.mark.parametrize("mistake", ["early", "unsynced"])
def test_a_planted_mistake_is_found(tracer: Tracer, tmp_path: Path, mistake: str) -> None:
    recording = record(tracer, PROGRAM, str(tracer.root), "0", "150", mistake)
    with pytest.raises(AssertionError):
        explore(recording, tmp_path / "cut", check_storage, seed=0, count=40)

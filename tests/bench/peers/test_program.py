import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import report
from bench.peers import __main__ as program
from bench.peers.__main__ import available
from bench.peers.system import Durability
from tests.bench.peers.fakes import BrokenSystem


def test_a_peer_that_cannot_run_here_is_left_out_with_the_reason() -> None:
    said = io.StringIO()
    systems = available(["redpanda"], 1, Console(file=said))
    assert [system.name for system in systems] == ["Odradek"]
    assert "redpanda is left out: its server comes as" in said.getvalue()


def test_who_fails_is_named_in_the_table_s_stead_and_the_program_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = BrokenSystem("A", {Durability.CACHE: "as it comes"}, [])
    monkeypatch.setattr(program, "available", lambda *_: {broken: "1.0"})
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.peers", "--json"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert "A, no fsync: start failed: OSError: no room" in str(ended.value.code)
    (told,) = json.loads(capsys.readouterr().out)["failed"]
    assert (told["system"], told["task"]) == ("A", "start")
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["failed"] == [told]


@pytest.mark.cluster
def test_a_stopped_comparison_leaves_no_process() -> None:
    command = (sys.executable, "-m", "bench.peers", "--only", "redpanda", "--scale", "0.01")
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert any("Odradek" in line for line in running.stderr), "the first figure"
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        assert len(children) == 2, "a controller and a node"
        running.send_signal(signal.SIGTERM)
        assert "every server was ended" in running.stderr.read()
    assert running.returncode == 1
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []

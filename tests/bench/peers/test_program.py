import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.peers.__main__ import available


def test_a_peer_that_cannot_run_here_is_left_out_with_the_reason() -> None:
    said = io.StringIO()
    systems = available(["redpanda"], Console(file=said))
    assert [system.name for system in systems] == ["Odradek"]
    assert "redpanda is left out: its server comes as" in said.getvalue()


@pytest.mark.cluster
def test_a_stopped_comparison_leaves_no_process() -> None:
    command = (sys.executable, "-m", "bench.peers", "--only", "redpanda", "--scale", "0.01")
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        assert any("Odradek" in line for line in program.stderr), "the first figure"
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        assert len(children) == 2, "a controller and a node"
        program.send_signal(signal.SIGTERM)
        assert "every server was ended" in program.stderr.read()
    assert program.returncode == 1
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []

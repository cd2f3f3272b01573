"""Configuration: every mistake at once, each naming its key."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from odradek.controller.command import app
from odradek.controller.config import load_config
from odradek.program.settings import ConfigError

MINIMAL: dict[str, Any] = {"id": 1, "data": Path("data")}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ID", "DATA", "PEER", "LISTEN", "CLUSTER_ID", "SESSION_TIMEOUT_S"):
        monkeypatch.delenv(f"ODRADEK_CONTROLLER_{name}", raising=False)


def test_defaults() -> None:
    config = load_config(MINIMAL)
    assert config.listen == "0.0.0.0:7080"
    assert (config.session_timeout_s, config.disconnect_grace_s) == (6.0, 0.2)
    assert config.others == {}


def test_peers_may_name_this_controller_too() -> None:
    peers = ["1=a:7080", "2=b:7080", "3=c:7080"]
    assert load_config(MINIMAL | {"peer": peers}).others == {2: "b:7080", 3: "c:7080"}
    assert load_config(MINIMAL | {"peer": peers[1:]}).others == {2: "b:7080", 3: "c:7080"}


def test_flags_win_over_environment_and_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "controller.toml"
    file.write_text('id = 7\ndata = "from-file"\ncluster_id = "file"\nlisten = "h:1"\n')
    monkeypatch.setenv("ODRADEK_CONTROLLER_DATA", "from-environment")
    monkeypatch.setenv("ODRADEK_CONTROLLER_CLUSTER_ID", "environment")
    monkeypatch.setenv("ODRADEK_CONTROLLER_PEER", "7=a:1, 8=b:1, 9=c:1")
    config = load_config({"cluster_id": "flag", "data": None}, file)
    assert (config.id, config.data, config.cluster_id) == (7, Path("from-environment"), "flag")
    assert config.listen == "h:1"
    assert config.others == {8: "b:1", 9: "c:1"}


def test_the_file_holds_peers_as_a_table(tmp_path: Path) -> None:
    file = tmp_path / "controller.toml"
    file.write_text('id = 1\ndata = "d"\n[peer]\n2 = "b:1"\n3 = "c:1"\n')
    assert load_config({}, file).others == {2: "b:1", 3: "c:1"}


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"id": -1, "listen": "nowhere", "session_timeout_s": "soon"})
    lines = str(caught.value).splitlines()
    assert [line.split()[0] for line in lines] == [
        "--id",
        "--data",
        "--listen",
        "--session-timeout-s",
    ]
    assert all("ODRADEK_CONTROLLER_" in line for line in lines)


def test_relations_are_reported_beside_other_mistakes() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            {
                "id": 1,
                "peer": ["2=a:1"],
                "bootstrap": True,
                "rejoin": True,
                "disconnect_grace_s": 7.0,
                "heartbeat_interval_s": "3",
            }
        )
    told = {line.split()[0]: line for line in str(caught.value).splitlines()}
    assert told.keys() == {
        *("--data", "--peer", "--rejoin", "--disconnect-grace-s", "--heartbeat-interval-s"),
    }
    assert "2 controllers" in told["--peer"]
    assert told["--rejoin"].endswith("excludes --bootstrap")
    assert told["--heartbeat-interval-s"].endswith(
        "3.0 is more than a third of session_timeout_s = 6.0"
    )


def test_a_relation_to_a_wrong_field_is_not_judged() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            {
                "id": "x",
                "data": "d",
                "peer": ["2=a:1"],
                "session_timeout_s": "soon",
                "disconnect_grace_s": 7.0,
                "heartbeat_interval_s": 3.0,
            }
        )
    keys = [line.split()[0] for line in str(caught.value).splitlines()]
    assert keys == ["--id", "--session-timeout-s"]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"peer": ["2=b:1"]}, "2 controllers (this one included)"),
        ({"peer": ["2"]}, "--peer"),
        ({"peer": ["2=b:0", "3=c:1"]}, "--peer"),
        ({"peer": ["2=b:1", "2=c:1"]}, "controller 2 has two addresses"),
        ({"peer": ["x=b:1", "3=c:1"]}, "--peer"),
        ({"bootstrap": True, "rejoin": True}, "--rejoin"),
        ({"heartbeat_interval_s": 3.0}, "--heartbeat-interval-s"),
        ({"disconnect_grace_s": 7.0}, "--disconnect-grace-s"),
        ({"cluster_id": "no spaces"}, "--cluster-id"),
        ({"log_level": "loud"}, "--log-level"),
        ({"colour": "red"}, "colour: no such setting"),
    ],
)
def test_a_mistake_names_its_key(given: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(MINIMAL | given)
    assert key in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_config(MINIMAL, tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("id = = 1")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_config(MINIMAL, broken)


def test_the_command_explains_wrong_settings_and_exits_with_2() -> None:
    flags = ["--id", "1", "--peer", "2=b:1", "--session-timeout-s", "soon"]
    outcome = CliRunner().invoke(app, flags)
    assert outcome.exit_code == 2
    _, *mistakes = outcome.stderr.splitlines()
    assert [each.split()[0] for each in mistakes] == ["--data", "--peer", "--session-timeout-s"]
    assert mistakes[-1].endswith("a valid number, not 'soon'")
    assert "--help" not in outcome.stderr


def test_help_names_every_flag() -> None:
    outcome = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0
    for flag in ("--id", "--data", "--listen", "--peer", "--cluster-id", "--bootstrap"):
        assert flag in outcome.stdout
    assert re.search(r"--session-timeout-s +FLOAT", outcome.stdout)

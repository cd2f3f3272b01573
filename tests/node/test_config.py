"""Flags, environment and file; all mistakes at once."""

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from odradek.node.command import app
from odradek.node.config import load_config
from odradek.program.settings import ConfigError

GOOD: dict[str, Any] = {"id": 3, "controllers": "a:1,b:2", "data": Path("d")}


def test_defaults_and_controllers_by_commas() -> None:
    config = load_config(GOOD)
    assert config.controllers == ("a:1", "b:2")
    assert config.listen == "0.0.0.0:7070"
    assert config.connections_max == 10_000


def test_flags_win_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text('rack = "file"\nconnections_max = 1\ntail_cache_bytes = 5\n')
    monkeypatch.setenv("ODRADEK_NODE_RACK", "environment")
    monkeypatch.setenv("ODRADEK_NODE_CONNECTIONS_MAX", "2")
    config = load_config({**GOOD, "rack": "flag"}, file)
    assert (config.rack, config.connections_max, config.tail_cache_bytes) == ("flag", 2, 5)


def test_all_mistakes_are_reported_at_once_each_naming_its_key(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("shutdown_grace_s = -1\nno_such = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config({"controllers": "a:1,nowhere", "connections_max": 0}, file)
    text = str(caught.value)
    for key in ("--id", "--data", "--controllers", "--connections-max", "--shutdown-grace-s"):
        assert key in text
    assert "'nowhere' is not HOST:PORT" in text
    assert "no_such: no such setting" in text


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        (
            "ODRADEK_NODE_CONECTIONS_MAX",
            "no such setting; did you mean ODRADEK_NODE_CONNECTIONS_MAX?",
        ),
        ("ODRADEK_NODE_XYZZY", "ODRADEK_NODE_XYZZY: no such setting"),
        ("odradek_node_prot", "ODRADEK_NODE_PROT: no such setting"),
        ("ODRADEK_NODE_PORT", "ODRADEK_NODE_PORT: no such setting"),
    ],
)
def test_a_mistyped_variable_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, variable: str, told: str
) -> None:
    monkeypatch.setenv(variable, "7071")
    with pytest.raises(ConfigError) as caught:
        load_config(GOOD)
    assert told in str(caught.value)
    with pytest.raises(ConfigError, match=r"(?s)--connections-max.*ODRADEK_NODE_"):
        load_config({**GOOD, "connections_max": 0})


def test_a_mistyped_key_of_the_file_gets_the_near_one(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text("conections_max = 1\n")
    with pytest.raises(ConfigError, match=r"^conections_max: .*; did you mean connections_max\?$"):
        load_config(GOOD, file)


def test_variables_of_others_are_no_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "ODRADEK_NODE_CONFIG": "node.toml",
        "ODRADEK_CONTROLLER_PEER": "1=a:1",
        "ODRADEK_BOOTSTRAP": "a:1",
        "ODRADEK_NODES": "3",
        # What Kubernetes gives every container beside Services of these names.
        "ODRADEK_NODE_SERVICE_HOST": "10.0.0.1",
        "ODRADEK_NODE_SERVICE_PORT": "7070",
        "ODRADEK_NODE_SERVICE_PORT_GRPC": "7070",
        "ODRADEK_NODE_PORT": "tcp://10.0.0.1:7070",
        "ODRADEK_NODE_PORT_7070_TCP": "tcp://10.0.0.1:7070",
        "ODRADEK_NODE_PORT_7070_TCP_ADDR": "10.0.0.1",
        "ODRADEK_NODE_0_SERVICE_HOST": "10.0.0.2",
    }.items():
        monkeypatch.setenv(variable, value)
    assert load_config(GOOD).id == 3


@pytest.mark.parametrize("advertise", ["0.0.0.0:5", "h:0", "h", ":5", "h:70000"])
def test_an_address_nobody_could_dial_is_refused(advertise: str) -> None:
    with pytest.raises(ConfigError, match="advertise"):
        load_config({**GOOD, "advertise": advertise})


def test_what_is_advertised() -> None:
    assert load_config({**GOOD, "advertise": "h:5"}).advertised_address(7) == "h:5"
    assert load_config({**GOOD, "listen": "10.0.0.1:0"}).advertised_address(7) == "10.0.0.1:7"
    name, _, port = load_config(GOOD).advertised_address(7).rpartition(":")
    assert name != "0.0.0.0"
    assert port == "7"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"= broken", "is not TOML"),
        (b'rack = "\xff"', "is not TOML"),
        (None, "there is no file"),
    ],
    ids=["not TOML", "no text", "no file"],
)
def test_a_file_that_cannot_be_read_hides_no_other_mistake(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--config: [^\n]*node\.toml[^\n]*$") as alone:
        load_config(GOOD, file)
    assert told in str(alone.value)
    with pytest.raises(ConfigError) as caught:
        load_config({**GOOD, "connections_max": 0, "rack": 256 * "r"}, file)
    config, rack, connections_max = str(caught.value).splitlines()
    assert told in config
    assert config.endswith("; what follows is judged without it")
    assert rack.startswith("--rack")
    assert connections_max.startswith("--connections-max")


def test_a_directory_is_no_file_of_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: .* cannot be read: Is a directory"):
        load_config(GOOD, tmp_path)


def test_the_command_names_every_mistake_and_ends_with_2() -> None:
    result = CliRunner().invoke(app, ["--controllers", "x"])
    assert result.exit_code == 2
    assert "--id" in result.output
    assert "'x' is not HOST:PORT" in result.output


def test_the_command_names_every_flag_that_is_no_number_with_its_value() -> None:
    flags = ["--id", "x", "--connections-max", "y", "--tail-cache-bytes", "z"]
    result = CliRunner().invoke(app, [*flags, "--shutdown-grace-s", "soon", "--data", "d"])
    assert result.exit_code == 2
    _, *mistakes = result.stderr.splitlines()
    told = {mistake.split()[0]: mistake for mistake in mistakes}
    assert told.keys() == {
        *("--id", "--controllers", "--connections-max", "--tail-cache-bytes"),
        "--shutdown-grace-s",
    }
    assert told["--id"].endswith("Input should be a valid integer, not 'x'")
    assert told["--connections-max"].endswith("a valid integer, not 'y'")
    assert told["--shutdown-grace-s"].endswith("a valid number, not 'soon'")


def test_help_tells_every_flag() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for flag in ("--id", "--controllers", "--data", "--advertise", "--replace", "--config"):
        assert flag in result.output
    assert re.search(r"--connections-max +INTEGER", result.output)
    assert re.search(r"--shutdown-grace-s +FLOAT", result.output)

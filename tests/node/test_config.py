"""Flags, environment and file; all mistakes at once."""

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


@pytest.mark.parametrize("content", ["= broken", None], ids=["not TOML", "no file"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "node.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"node\.toml"):
        load_config(GOOD, file)


def test_the_command_names_every_mistake_and_ends_with_2() -> None:
    result = CliRunner().invoke(app, ["--controllers", "x"])
    assert result.exit_code == 2
    assert "--id" in result.output
    assert "'x' is not HOST:PORT" in result.output


def test_help_tells_every_flag() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for flag in ("--id", "--controllers", "--data", "--advertise", "--replace", "--config"):
        assert flag in result.output

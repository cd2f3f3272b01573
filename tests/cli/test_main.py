"""The command as a shell meets it: quick, lazy, and plain about what is missing."""

import os
import subprocess
import sys

import pytest

ODRADEK = [sys.executable, "-m", "odradek.client.cli.main"]
SERVER = ("rocksdict", "pysyncobj", "uvloop", "odradek.node", "odradek.controller")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ODRADEK, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_names_every_command_and_every_exit_status() -> None:
    shown = run("--help", COLUMNS="100")
    assert shown.returncode == 0
    for command in (
        *("dev", "topics", "produce", "consume", "groups", "cluster", "bench"),
        *("node", "controller"),
    ):
        assert f"│ {command} " in shown.stdout
    assert "130 interrupted" in shown.stdout


def test_a_command_s_help_is_about_the_command() -> None:
    shown = run("consume", "--help", COLUMNS="100")
    assert "--exit-at-end" in shown.stdout
    assert "--install-completion" not in shown.stdout


@pytest.mark.parametrize("command", ["dev", "produce", "consume", "bench", "groups"])
def test_help_says_what_exit_statuses_mean(command: str) -> None:
    shown = " ".join(run(command, "--help", COLUMNS="100").stdout.split())
    assert "2 wrong usage or an illegal value; 3 no such topic" in shown


def test_help_of_a_server_says_that_ctrl_c_is_its_normal_end() -> None:
    shown = " ".join(run("dev", "--help", COLUMNS="100").stdout.split())
    assert "stops it cleanly: exit status 0" in shown
    everything = " ".join(run("--help", COLUMNS="100").stdout.split())
    assert "0 done, or a server stopped as asked" in everything


def test_help_imports_no_server() -> None:
    listing = (
        "import sys\n"
        "from odradek.client.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {SERVER!r} if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, timeout=30, check=True
    )
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("group", ["topics", "groups", "cluster"])
def test_a_group_of_commands_alone_says_which_there_are(group: str) -> None:
    shown = run(group, COLUMNS="100")
    assert shown.returncode == 2
    assert "Commands" in shown.stdout
    assert shown.stdout.strip() == run(group, "--help", COLUMNS="100").stdout.strip()


def test_a_mistyped_command_gets_the_near_one() -> None:
    refused = run("topcs", "list")
    assert refused.returncode == 2
    assert "Did you mean 'topics'?" in refused.stderr


def test_nobody_there() -> None:
    refused = run("cluster", "status", "--bootstrap", "127.0.0.1:1")
    assert refused.returncode == 4
    assert "odradek dev" in refused.stderr


def test_without_its_extra_the_command_says_how_to_install_it() -> None:
    without_typer = (
        "import sys\n"
        "sys.modules['typer'] = None\n"
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name: None if name == 'typer' else find(name)\n"
        "from odradek.client.cli.main import main\n"
        "main()"
    )
    refused = subprocess.run(
        [sys.executable, "-c", without_typer],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode == 1
    assert "pip install 'odradek[cli]'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("produce", "t", "--key-separator", ""),
        ("produce", "t", "--header", "novalue"),
        ("dev", "--controllers", "2"),
        ("consume", "t", "--from", "tomorrow"),
        ("consume", "t", "--format", "{valeu}"),
        ("topics", "create"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_dialled(arguments: tuple[str, ...]) -> None:
    refused = run(*arguments, ODRADEK_BOOTSTRAP="127.0.0.1:1")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr

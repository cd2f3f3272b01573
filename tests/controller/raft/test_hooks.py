"""The pinned pysyncobj has every private name we override, call, read or replace."""

import inspect
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import SyncObj, syncobj

from odradek.controller.raft import hooks
from tests.controller.raft.lab import Lab


def test_the_pinned_version_is_installed() -> None:
    assert version("pysyncobj") == hooks.PINNED_VERSION


@pytest.mark.parametrize(
    ("name", "parameters"), sorted({**hooks.OVERRIDDEN, **hooks.CALLED}.items())
)
def test_a_method_has_its_expected_signature(name: str, parameters: tuple[str, ...]) -> None:
    assert tuple(inspect.signature(getattr(SyncObj, name)).parameters)[1:] == parameters


@pytest.mark.parametrize("name", hooks.OVERRIDDEN)
def test_what_is_listed_as_overridden_is(name: str) -> None:
    core_class = type(Lab(1).cores[0])
    assert getattr(core_class, name) is not getattr(SyncObj, name)


@pytest.mark.parametrize("name", hooks.ATTRIBUTES)
def test_an_attribute_is_set_by_pysyncobj(name: str) -> None:
    source = inspect.getsource(SyncObj)
    assert f"self.{name.removeprefix('_SyncObj')} =" in source


@pytest.mark.parametrize("name", hooks.GLOBALS)
def test_a_global_exists(name: str) -> None:
    assert hasattr(syncobj, name)


def test_every_private_name_in_use_is_listed() -> None:
    package = Path(inspect.getfile(hooks)).parent
    listed = {*hooks.OVERRIDDEN, *hooks.CALLED, *hooks.ATTRIBUTES}
    import re

    for path in package.glob("*.py"):
        used = set(re.findall(r"_SyncObj__\w+", path.read_text()))
        assert used <= listed, path.name


def test_chance_is_injected() -> None:
    """Election timeouts come from the given generator, not from the module's."""
    core = Lab(1).cores[0]
    state = random.getstate()
    core._await_election()
    assert random.getstate() == state


def test_the_options_reach_pysyncobj() -> None:
    options: dict[str, Any] = {
        "heartbeat_interval_s": 0.11,
        "election_timeout_min_s": 0.41,
        "election_timeout_max_s": 0.72,
        "leader_contact_timeout_s": 1.3,
    }
    conf = Lab(1, **options, link_silence_timeout_s=4.5).cores[0].conf
    assert conf.appendEntriesPeriod == 0.11
    assert (conf.raftMinTimeout, conf.raftMaxTimeout) == (0.41, 0.72)
    assert conf.leaderFallbackTimeout == 1.3
    assert conf.connectionTimeout == 4.5
    impatient = Lab(1, **options, link_silence_timeout_s=0.5).cores[0].conf
    assert impatient.connectionTimeout == 0.72, "pysyncobj asserts that it is no less than this"

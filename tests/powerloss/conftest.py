"""A tracer for each test, compiled once."""

from pathlib import Path

import pytest

from tests.powerloss.tracer import Tracer, build_tracer


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tracer(tmp_path_factory.mktemp("tracer"))


@pytest.fixture
def tracer(library: Path, tmp_path: Path) -> Tracer:
    made = Tracer(library, tmp_path / "disk", tmp_path / "traces")
    made.prepare()
    return made

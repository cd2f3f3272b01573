"""House rules that no linter knows: sizes, names, and who may import what.

Source of the idea: TigerBeetle's `src/tidy.zig`.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("proto", "node", "controller", "client")
CODE_ROOTS = (*SOURCE_ROOTS, "tests", "bench", "examples")

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# Path -> why it is better whole.
LONG_FILES: dict[str, str] = {
    "proto/odradek/protocol/errors.py": "one class per code: a table written as classes",
    "node/odradek/node/storage/store.py": "all that knows RocksDB, which nothing else may import",
}

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}

# A library, and the only place that may import it.
SOLE_IMPORTERS = {
    "rocksdict": "node/odradek/node/storage/store.py",
    "pysyncobj": "controller/odradek/controller/raft/",
    "aiokafka": "proto/odradek/protocol/record_batch",
    "cramjam": "proto/odradek/protocol/record_batch",
}


def _files(*roots: str) -> Iterator[Path]:
    for root in roots:
        for path in sorted((ROOT / root).rglob("*.py")):
            if not re.search(r"_pb2(_grpc)?\.py$", path.name):
                yield path


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return frozenset(found)


def test_no_file_is_long_without_a_reason() -> None:
    long = {
        _name(path)
        for path in _files(*CODE_ROOTS)
        if len(path.read_text().splitlines()) > FILE_LINES_MAX
    }
    assert long - LONG_FILES.keys() == set(), "split it, or list it in LONG_FILES with a reason"
    assert LONG_FILES.keys() - long == set(), "no longer long: take it off the list"


def test_no_function_is_long() -> None:
    long = [
        f"{_name(path)}:{node.lineno} {node.name}"
        for path in _files(*CODE_ROOTS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_the_namespace_package_has_no_init() -> None:
    assert [root for root in SOURCE_ROOTS if (ROOT / root / "odradek/__init__.py").exists()] == []


def test_what_services_import_carries_its_types() -> None:
    packages = ("client/odradek/client", "client/odradek/testing")
    shared = ("proto/odradek/protocol", "proto/odradek/rpc", "proto/odradek/v1")
    assert [each for each in (*packages, *shared) if not (ROOT / each / "py.typed").exists()] == []


def test_module_names_say_something() -> None:
    assert [_name(path) for path in _files(*SOURCE_ROOTS) if path.stem in VAGUE_NAMES] == []


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_one_place_imports(library: str) -> None:
    importers = [_name(path) for path in _files(*SOURCE_ROOTS) if library in _imports(path)]
    assert [name for name in importers if not name.startswith(SOLE_IMPORTERS[library])] == []


def test_the_environment_is_left_to_the_settings_library() -> None:
    """But for the variable that all who speak gRPC share."""
    assert [
        _name(path)
        for path in _files(*SOURCE_ROOTS)
        if re.search(r"\bos\.(environ|getenv|putenv)\b", path.read_text())
    ] == ["proto/odradek/rpc/http2/tunnel.py"]


def test_nothing_is_left_for_later() -> None:
    pattern = re.compile(r"NotImplementedError|\bTODO\b|\bFIXME\b|mark\.skip|\bxfail\(")
    here = Path(__file__).resolve()
    assert [
        _name(path)
        for path in _files(*CODE_ROOTS)
        if path.resolve() != here and pattern.search(path.read_text())
    ] == []

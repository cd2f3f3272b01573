"""Runs programs under the tracer, and moves trees of files between memory and disk.

Problem: strace costs two context switches per call and prints data as text. Idea: a small library,
built here with the system's C compiler and loaded before the C library, that writes down what is
done below one directory. What it could miss (calls that do not go through the C library) would show
as a difference between the replayed trace and the real files: see `differences`.
"""

import hashlib
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.powerloss.disk import Disk, Tree
from tests.powerloss.operations import Opened, Renamed, Timed, decode_trace

_SOURCE = Path(__file__).with_name("shim.c")
# RocksDB writes its own log through the C library's streams, which are not followed.
_UNTRACED_NAMES = ("LOG", "LOCK")


def build_tracer(directory: Path) -> Path:
    """Compile the tracer, once for each version of its source; needs a C compiler.

    Returns:
        The library to load.
    """
    version = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    library = directory / f"powerloss-{version}.so"
    if not library.exists():
        directory.mkdir(parents=True, exist_ok=True)
        scratch = directory / f"{uuid.uuid4().hex}.so"
        command: list[str | Path] = [
            "cc",
            "-shared",
            "-fPIC",
            "-O2",
            "-o",
            scratch,
            _SOURCE,
            "-ldl",
            "-pthread",
        ]
        subprocess.run(command, check=True)
        scratch.rename(library)
    return library


@dataclass(frozen=True, slots=True)
class Tracer:
    """Where traced programs work, and what they leave.

    Attributes:
        library: See `build_tracer`.
        root: Changes below it are recorded.
        traces: Where the records go, a file for each process; not below `root`.
    """

    library: Path
    root: Path
    traces: Path

    def prepare(self) -> None:
        """Make the directories, and a boot id."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.traces.mkdir(parents=True, exist_ok=True)
        self.reboot()

    def reboot(self) -> None:
        """Give the machine another boot id, as every power cut does."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs in its environment to be traced."""
        return {
            "LD_PRELOAD": str(self.library),
            "ODRADEK_TRACE_ROOT": str(self.root),
            "ODRADEK_TRACE_LOG": str(self.traces),
            "ODRADEK_TRACE_BOOT_ID": str(self._boot_id),
        }

    def operations(self, pid: int) -> list[Timed]:
        """Return what a process has done so far below the root."""
        path = self.traces / f"{pid}.trace"
        return decode_trace(path.read_bytes(), str(self.root)) if path.exists() else []

    def forget(self, pid: int) -> None:
        """Remove the trace of a process that has ended."""
        (self.traces / f"{pid}.trace").unlink(missing_ok=True)

    @property
    def _boot_id(self) -> Path:
        return self.traces / "boot-id"


def scan(root: Path) -> Tree:
    """Read everything below a directory."""
    return {
        path.relative_to(root).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }


def materialise(tree: Tree, root: Path) -> None:
    """Make a directory hold exactly this."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, content in sorted(tree.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def subtree(tree: Tree, directory: str) -> Tree:
    """Return what lies below a directory of a tree, relative to it."""
    prefix = f"{directory}/"
    return {
        path.removeprefix(prefix): content
        for path, content in tree.items()
        if path.startswith(prefix)
    }


def differences(disk: Disk, real: Tree, operations: list[Timed]) -> list[str]:
    """Return the files whose replayed content is not the real one: what the tracer missed.

    Of the last call of a killed process nobody knows whether it happened, nor of an opening after
    it: those files are left out.
    """
    replayed = disk.current()
    in_doubt = _touched_last(disk, operations)
    differing = [
        path
        for path in sorted(replayed.keys() | real.keys())
        if replayed.get(path, b"-") != real.get(path, b"-")
        and path not in in_doubt
        and not Path(path).name.startswith(_UNTRACED_NAMES)
    ]
    just_created = [path for path in differing if path not in replayed and real[path] == b""]
    return differing if len(differing) > 1 or not just_created else []


def _touched_last(disk: Disk, operations: list[Timed]) -> set[str]:
    if not operations:
        return set()
    last = operations[-1].operation
    match last:
        case Renamed(old, new):
            return {old, new}
        case Opened():
            return set()
        case _ if hasattr(last, "path"):
            return {last.path}
        case _ if hasattr(last, "fd"):
            return disk.paths_of(last.fd)
        case _:
            return set()

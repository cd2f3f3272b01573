"""Wall clocks that can be set off by hours, one per process, through a preloaded library.

Needs a C compiler; `Clocks.build` says so by returning None, and clock faults are then left out.
"""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final, Self

_SOURCE: Final = Path(__file__).with_name("clock.c")
_SECONDS: Final = struct.Struct("=q")


class Clocks:
    """The wall clocks of the processes of a run."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._directory = directory
        self._library = library

    @classmethod
    def build(cls, directory: Path) -> Self | None:
        """Compile the library into a directory; None where there is no compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return None
        directory.mkdir(parents=True, exist_ok=True)
        library = directory / "clock.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        return cls(directory, library)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment that gives a process a clock of this name; right at first."""
        path = self._path(name)
        if not path.exists():
            path.write_bytes(_SECONDS.pack(0))
        return {"CHAOS_CLOCK": str(path), "LD_PRELOAD": str(self._library)}

    def set(self, name: str, ahead_s: int) -> None:
        """Set a clock, also of a running process, so many seconds ahead of the right time."""
        with self._path(name).open("r+b") as file:
            file.write(_SECONDS.pack(ahead_s))

    def _path(self, name: str) -> Path:
        return self._directory / f"clock-{name.replace(' ', '-')}"

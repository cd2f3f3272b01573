"""What a traced program has told the world.

Idea: a file below the traced root, so that the trace orders its lines among the program's writes
and syncs. A power cut does not take back what was said.
"""

import os
from pathlib import Path

PROMISES = "promises"


class Promises:
    """The open file of promises; the program kills itself when it has made enough.

    Args:
        root: The traced directory.
        count_max: So many lines, then SIGKILL.
    """

    def __init__(self, root: Path, count_max: int) -> None:
        self._fd = os.open(root / PROMISES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._left = count_max

    def make(self, *words: object) -> None:
        """Say a line."""
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), 9)


def parse_promises(content: bytes) -> list[list[str]]:
    """Return the words of each complete line."""
    return [line.decode().split() for line in content.split(b"\n")[:-1]]

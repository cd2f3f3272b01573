"""Replaces a file again and again, until it kills itself: `small_program ROOT SEED N [mistake]`.

What it promises it has made durable, unless told to forget a step: `no_file_sync`,
`no_directory_sync`, or `early`, which promises before the last step.
"""

import os
import sys
from pathlib import Path

from tests.powerloss.promises import Promises


def replace(path: Path, content: bytes, mistake: str) -> None:
    """Give a file a new content, atomically and, but for the mistake, durably."""
    scratch = path.with_suffix(".tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(descriptor, content)
    if mistake != "no_file_sync":
        os.fsync(descriptor)
    os.close(descriptor)
    scratch.rename(path)
    if mistake != "no_directory_sync":
        descriptor = os.open(path.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def main() -> None:
    """Replace the file and say so, until killed."""
    root, count = Path(sys.argv[1]), int(sys.argv[3])
    mistake = sys.argv[4] if len(sys.argv) > 4 else ""
    promises = Promises(root, count)
    for number in range(count + 1):
        if mistake == "early":
            promises.make(number)
        replace(root / "number", b"%d" % number, mistake)
        promises.make(number)


if __name__ == "__main__":
    main()

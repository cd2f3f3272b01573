"""Directories that are still there after a power cut.

Problem: a new directory is an entry of its parent, and until the parent is synced a power cut may
take it away with all that was synced inside (POSIX promises no more). Idea: whoever makes one syncs
the parent before anything rests on it.
"""

import os
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Make a directory and its parents where they are missing, durably."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_directory(made.parent)


def sync_directory(directory: Path) -> None:
    """Make creations, renames and deletions in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The few operations on files that raft needs, so that a simulated disk can stand in.

Problem: what survives a power loss is exactly what was synced, and renames only once the directory
was. Idea: a narrow interface whose simulated twin forgets everything else; the real one is thin.

Invariant: `replace_file` is atomic and durable: after a crash the path holds the old or the new
content, never neither, and after it returned the new.
"""

import fcntl
import os
from pathlib import Path
from typing import Protocol

from crc32c import crc32c

from odradek.controller.raft.interface import DataDirectoryError

_CHECKSUM_BYTES = 4


class File(Protocol):
    """A file open for reading and writing at explicit offsets."""

    def read(self) -> bytes:
        """Return the whole content."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data`; not durable before `sync`."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file; not durable before `sync`."""
        ...

    def sync(self) -> None:
        """Make content and size durable."""
        ...

    def close(self) -> None:
        """Release the file; implies nothing about durability."""
        ...


class FileSystem(Protocol):
    """Files by path. Every method may raise OSError, which ends the process."""

    def exists(self, path: Path) -> bool:
        """Tell whether there is a file."""
        ...

    def open(self, path: Path) -> File:
        """Open a file, created empty if need be."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically; durable after `sync_directory`."""
        ...

    def remove(self, path: Path) -> None:
        """Delete a file if it exists."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and deletions in a directory durable."""
        ...


class OsFile:
    """A file of the operating system."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> bytes:
        """Return the whole content."""
        size = os.fstat(self._descriptor).st_size
        pieces: list[bytes] = []
        offset = 0
        while offset < size and (piece := os.pread(self._descriptor, size - offset, offset)):
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data`; not durable before `sync`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written

    def truncate(self, size: int) -> None:
        """Cut the file; not durable before `sync`."""
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        """Make content and size durable."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Release the file; implies nothing about durability."""
        os.close(self._descriptor)


class OsFileSystem:
    """The operating system's files."""

    def exists(self, path: Path) -> bool:
        """Tell whether there is a file."""
        return path.exists()

    def open(self, path: Path) -> File:
        """Open a file, created empty if need be."""
        return OsFile(path)

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically; durable after `sync_directory`."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Delete a file if it exists."""
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents where they are missing, durably.

        Without the syncs a power cut may take a new directory away, with all that was synced in it.
        """
        missing = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for made in missing:
            self.sync_directory(made.parent)

    def sync_directory(self, path: Path) -> None:
        """Make creations, renames and deletions in a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary(path: Path) -> Path:
    """Name the file that will replace `path`."""
    return path.with_name(path.name + ".tmp")


def replace_file(files: FileSystem, path: Path, content: bytes) -> None:
    """Give `path` a new content, atomically and durably."""
    scratch = temporary(path)
    files.remove(scratch)
    file = files.open(scratch)
    try:
        file.write_at(0, content)
        file.sync()
    finally:
        file.close()
    files.rename(scratch, path)
    files.sync_directory(path.parent)


def read_file(files: FileSystem, path: Path) -> bytes:
    """Return the content of an existing file."""
    file = files.open(path)
    try:
        return file.read()
    finally:
        file.close()


def seal(payload: bytes) -> bytes:
    """Precede a payload by its CRC-32C."""
    return crc32c(payload).to_bytes(_CHECKSUM_BYTES, "big") + payload


def unseal(content: bytes, what: str) -> bytes:
    """Return the payload behind a CRC-32C.

    Raises:
        DataDirectoryError: The checksum does not match.
    """
    payload = content[_CHECKSUM_BYTES:]
    if seal(payload) != content:
        raise DataDirectoryError(
            f"{what} is corrupt: its checksum does not match. Restore the data directory, or empty "
            "it and start with rejoin",
            field=what,
            value=f"{len(content)} bytes",
        )
    return payload


class DirectoryLock:
    """Keeps a second process out of the data directory, for as long as this one lives."""

    def __init__(self, directory: Path) -> None:
        OsFileSystem().make_directory(directory)
        self._descriptor = os.open(directory / "raft.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise DataDirectoryError(
                f"{directory} is in use by another process",
                field="data_directory",
                value=directory,
            ) from None

    def release(self) -> None:
        """Let the next process in."""
        os.close(self._descriptor)

"""What a traced process did to its files, and how the tracer wrote it down.

Pure: bytes in, values out. `shim.c` describes the records; paths come out relative to the root.
"""

import posixpath
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from os import O_TRUNC

_RECORD = struct.Struct("<IIiiQQQ")
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h
_FAILED = (1 << 64) - 1


class UntraceableError(Exception):
    """The process did something to its files that the tracer cannot follow."""


class _Kind(IntEnum):
    OPEN = 1
    CLOSE = 2
    WRITE = 3
    TRUNCATE = 4
    ALLOCATE = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    LINK = 9
    SYNC_BEGIN = 10
    SYNC_END = 11
    RESULT = 12
    UNSUPPORTED = 13


@dataclass(frozen=True, slots=True)
class Opened:
    """A file was opened for writing, created if need be; or a directory was opened."""

    fd: int
    path: str
    truncates: bool = False


@dataclass(frozen=True, slots=True)
class Closed:
    """A descriptor was closed."""

    fd: int


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes were written."""

    fd: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """The size was set."""

    fd: int
    size: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """Room was made up to `end`; the size is at least that."""

    fd: int
    end: int


@dataclass(frozen=True, slots=True)
class SyncBegan:
    """An fsync or fdatasync was called."""

    fd: int
    turn: int


@dataclass(frozen=True, slots=True)
class SyncEnded:
    """It returned."""

    turn: int
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Renamed:
    """A file took another name, and whatever had it lost it."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Linked:
    """A file took a further name."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Unlinked:
    """A name was removed, of a file or of an empty directory."""

    path: str


@dataclass(frozen=True, slots=True)
class MadeDirectory:
    """A directory was made."""

    path: str


Operation = (
    Opened
    | Closed
    | Wrote
    | Truncated
    | Allocated
    | SyncBegan
    | SyncEnded
    | Renamed
    | Linked
    | Unlinked
    | MadeDirectory
)


@dataclass(frozen=True, slots=True)
class Timed:
    """An operation and when it was made, in nanoseconds of the machine's monotonic clock."""

    time_ns: int
    operation: Operation


def decode_trace(trace: bytes, root: str) -> list[Timed]:
    """Read a trace; a record torn at its end was of an operation that never happened.

    Raises:
        UntraceableError: See there.
    """
    operations: list[Timed] = []
    for time_ns, operation in _decode(trace, root):
        if isinstance(operation, int):
            last = operations.pop()
            if (made := _as_far_as(last.operation, operation)) is not None:
                operations.append(Timed(last.time_ns, made))
        else:
            operations.append(Timed(time_ns, operation))
    return operations


def _decode(trace: bytes, root: str) -> Iterator[tuple[int, Operation | int]]:
    place = 0
    while place + _RECORD.size <= len(trace):
        size, kind, fd, flags, a, b, time_ns = _RECORD.unpack_from(trace, place)
        place += _RECORD.size
        payload = trace[place : place + size]
        place += size
        if place > len(trace):
            return
        yield time_ns, _operation(_Kind(kind), fd, flags, a, b, payload, root)


def _operation(  # noqa: C901, PLR0912, PLR0917 - a table
    kind: _Kind, fd: int, flags: int, a: int, b: int, payload: bytes, root: str
) -> Operation | int:
    paths = [] if kind is _Kind.WRITE else [_relative(path, root) for path in payload.split(b"\0")]
    match kind:
        case _Kind.OPEN:
            return Opened(fd, paths[0], bool(flags & O_TRUNC))
        case _Kind.CLOSE:
            return Closed(fd)
        case _Kind.WRITE:
            return Wrote(fd, a, payload)
        case _Kind.TRUNCATE:
            return Truncated(fd, a)
        case _Kind.ALLOCATE:
            if flags & ~_KEEP_SIZE:
                raise UntraceableError(f"fallocate with mode {flags}")
            return Allocated(fd, 0 if flags else a + b)
        case _Kind.RENAME:
            return Renamed(*paths)
        case _Kind.LINK:
            return Linked(*paths)
        case _Kind.UNLINK:
            return Unlinked(paths[0])
        case _Kind.MKDIR:
            return MadeDirectory(paths[0])
        case _Kind.SYNC_BEGIN:
            return SyncBegan(fd, a)
        case _Kind.SYNC_END:
            return SyncEnded(a, flags == 0)
        case _Kind.RESULT:
            return 0 if a == _FAILED else a
        case _Kind.UNSUPPORTED:
            raise UntraceableError(payload.decode())


def _as_far_as(operation: Operation, written_bytes: int) -> Operation | None:
    """Return what an operation did that failed, or wrote less than it was asked to."""
    if isinstance(operation, Wrote) and written_bytes:
        return replace(operation, data=operation.data[:written_bytes])
    return None


def _relative(path: bytes, root: str) -> str:
    relative = posixpath.relpath(path.decode(), root) if path else ""
    return "" if relative == "." else relative

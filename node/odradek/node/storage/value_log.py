"""Batch bytes in files of their own: appended once, read in place.

Problem: a store that keeps large values writes each of them twice, into its log and into a table,
and checksums them on both ways. Idea (WiscKey): append them to segments, files of some 64 MiB, and
let the store hold references of 20 bytes. A segment is only ever appended to, then read, then
unlinked as a whole; the store decides when.

Nothing orders a value's way to the disk and its reference's: `sync` here comes before the store's,
but the kernel may write either early. So a reference carries the CRC of all bytes, and an opening
checks those that may not have been synced (`value_recovery`).

Invariants: a segment's number is never used again, and a position in it only if nothing can refer
to what was there; a file stays open as long as a reader holds it, also when it is unlinked.

Source: Lu et al., WiscKey: Separating Keys from Values in SSD-Conscious Storage, FAST 2016.
Measured: `posix_fallocate` made appends slower on ext4 (unwritten extents are converted, in the
journal, at each sync); overwriting old segments made syncs faster, but there are none to overwrite
until something was deleted. Neither is done.
"""

import errno
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from crc32c import crc32c

from odradek.node.storage.directories import make_directory, sync_directory
from odradek.node.storage.page_window import Extent, PageWindow
from odradek.node.storage.segments import LogPoint, Place
from odradek.protocol.errors import CorruptMessageError, StorageError

_SUFFIX = ".values"
_OPEN_READERS_MAX = 128


class SegmentFile:
    """An open segment; its descriptor is closed when the last holder lets go."""

    __slots__ = ("__weakref__", "_fd", "_synced_writes", "_writes", "end", "number")

    def __init__(self, path: Path, number: int, flags: int) -> None:
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        weakref.finalize(self, os.close, self._fd)
        self.number = number
        self.end = 0
        """Where the next value goes."""
        self._writes = self._synced_writes = 0

    def append(self, value: bytes) -> Place:
        """Write a value behind the last one, unsynced.

        Raises:
            OSError: Nothing counts as written.
        """
        view, position = memoryview(value), self.end
        while view:  # a disk that is nearly full takes a part
            count = os.pwrite(self._fd, view, position)
            position += count
            view = view[count:]
        # Holds the GIL: at 18 GB/s a value takes microseconds, getting it back may take more.
        place = Place(self.number, self.end, len(value), crc32c(value, 0, 0))
        self._writes += 1
        self.end = position  # last: whoever sees it and then syncs has synced all before it
        return place

    def read(self, place: Place) -> bytes:
        """Return what lies at a place.

        Raises:
            CorruptMessageError: It is not what was written there, or cannot be read.
        """
        try:
            value = os.pread(self._fd, place.size_bytes, place.position)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            value = b""  # a sector is gone: as good as rotten, and mended like it
        if len(value) != place.size_bytes or crc32c(value, 0, 0) != place.crc:
            raise CorruptMessageError(
                f"segment {self.number} of the value log is damaged at byte {place.position}",
                field="crc",
                value=crc32c(value, 0, 0),
                limit=place.crc,
            )
        return value

    def sync(self) -> None:
        """Wait until everything appended before this call is on disk.

        Raises:
            StorageError: The state of what was appended is unknown, whatever the reason.
        """
        writes = self._writes
        if writes != self._synced_writes:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                raise StorageError(f"the value log cannot be synced: {error}") from error
            self._synced_writes = writes


class ValueLog:
    """The segments of a node.

    `append`, `undo` and `seal` belong to one thread at a time, the others to any.

    Args:
        directory: Made when missing.
        segment_bytes: A segment is sealed when the next value would exceed it.
        page_cache_bytes: The newest bytes stay in the kernel's page cache, older ones leave it.
    """

    def __init__(self, directory: Path, segment_bytes: int, page_cache_bytes: int) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._window = PageWindow(page_cache_bytes)
        make_directory(directory)
        sync_directory(directory.parent)  # always: whoever made it may have been killed here
        self._next_number = 1 + max(self.sizes_on_disk(), default=0)
        self._current: SegmentFile | None = None
        self._sealed_unsynced: list[SegmentFile] = []
        self._files_made = self._files_named = 0  # named: on disk, by a sync of the directory
        self._readers: OrderedDict[int, SegmentFile] = OrderedDict()
        self._lock = threading.Lock()
        self._syncing = threading.Lock()  # the group commit must wait for what another has begun

    @property
    def end(self) -> LogPoint:
        """Where the next value goes; a sync that begins afterwards covers all before it."""
        current = self._current
        if current is None:
            return LogPoint(self._next_number, 0)
        return LogPoint(current.number, current.end)

    def sizes_on_disk(self) -> dict[int, int]:
        """Return number and size of each segment in the directory."""
        return {int(path.stem): path.stat().st_size for path in self._directory.glob(f"*{_SUFFIX}")}

    def skip_to(self, number: int) -> None:
        """Use no number below this one for a new segment."""
        self._next_number = max(self._next_number, number)

    def create(self) -> SegmentFile:
        """Make a segment for a writer of its own, who syncs it and then `sync_directory`."""
        with self._lock:
            number, self._next_number = self._next_number, self._next_number + 1
        file = SegmentFile(self._path(number), number, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with self._lock:
            self._files_made += 1
        return file

    def append(self, value: bytes) -> Place:
        """Write a value to the current segment, unsynced.

        Raises:
            OSError: Nothing counts as written.
        """
        current = self._current
        if current is not None and current.end + len(value) > self._segment_bytes:
            self.seal()
            current = None
        if current is None:
            current = self._current = self.create()
        return current.append(value)

    def undo(self, place: Place) -> None:
        """Take back the last append: nothing refers to it, nor ever did."""
        if self._current is not None and self._current.number == place.segment:
            self._current.end = place.position

    def seal(self) -> None:
        """Let the next value begin a segment."""
        if self._current is not None:
            with self._lock:
                self._sealed_unsynced.append(self._current)
                self._current = None

    def sync(self) -> None:
        """Wait until everything appended before this call is on disk. Releases the GIL.

        Raises:
            StorageError: The state of what was appended is unknown.
        """
        with self._syncing:
            with self._lock:
                files, self._sealed_unsynced = self._sealed_unsynced, []
                if self._current is not None:
                    files.append(self._current)
            for file in files:
                end = LogPoint(file.number, file.end)  # more may come meanwhile
                file.sync()
                for extent in self._window.on_synced(end):
                    self._drop_pages(extent)
            if self._files_named < self._files_made:
                self.sync_directory()

    def sync_files(self, numbers: Iterable[int]) -> None:
        """Wait until segments of an earlier process are on disk: it may not have synced them."""
        for number in numbers:
            fd = os.open(self._path(number), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self.sync_directory()

    def sync_directory(self) -> None:
        """Wait until the new segments' names are on disk."""
        with self._lock:
            made = self._files_made
        sync_directory(self._directory)
        with self._lock:  # only now: another thread's sync must not take it for done
            self._files_named = max(self._files_named, made)

    def read(self, place: Place) -> bytes:
        """Return the value at a place.

        Raises:
            FileNotFoundError: The segment is gone: the value was removed, moved, or lost.
            CorruptMessageError: The value is damaged.
        """
        return self._reader(place.segment).read(place)

    def unlink(self, number: int) -> None:
        """Give a segment's room back, once its last reader is done with it."""
        with self._lock:
            self._readers.pop(number, None)
        self._path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all files; syncs nothing."""
        with self._lock:
            self._readers.clear()
            self._sealed_unsynced.clear()
            self._current = None

    def _drop_pages(self, extent: Extent) -> None:
        with suppress(OSError):  # advice: the segment may be gone, and nothing depends on it
            fd = os.open(self._path(extent.segment), os.O_RDONLY | os.O_CLOEXEC)
            try:
                size_bytes = extent.end - extent.begin
                os.posix_fadvise(fd, extent.begin, size_bytes, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def _reader(self, number: int) -> SegmentFile:
        with self._lock:
            file = self._readers.get(number)
            if file is None:
                file = self._readers[number] = SegmentFile(self._path(number), number, os.O_RDONLY)
                if len(self._readers) > _OPEN_READERS_MAX:
                    self._readers.popitem(last=False)
            else:
                self._readers.move_to_end(number)
            return file

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012}{_SUFFIX}"


def is_full(error: OSError) -> bool:
    """Whether a write failed for want of room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)

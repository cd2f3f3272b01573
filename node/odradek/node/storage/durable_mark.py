"""A small file that tells, after a start, whether synced data is missing.

Problem: point-in-time recovery keeps a prefix of the writes and silently drops what follows a bad
record. After a power loss that is the unsynced tail, which nobody was promised; after bit rot, or a
disk that lies about its cache, acknowledged data may be gone, and the store looks as healthy as
before. Idea: note, outside the store, how far a *completed* sync had come, of the store's log and
of the value log. A store that opens below the mark has lost data, and the replica must not count as
in sync; values behind the mark may be torn, and are checked.

The file holds two slots, each in a sector of its own, written in turn: a torn write damages one and
leaves the other. It is preallocated, so that a full disk cannot stop it.

Invariants: the sequence in the mark was captured before a sync that then succeeded; what an opening
found missing stays in the mark until the controller has been told, through any number of crashes.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from odradek.node.storage.directories import sync_directory
from odradek.node.storage.segments import LOG_BEGIN, LogPoint
from odradek.protocol.errors import StorageError

_MAGIC = b"ODRADEK3"
_MAGIC_STEM, _FORMAT = _MAGIC[:-1], _MAGIC[-1:]
_SLOT_BYTES = 4096
# Magic and format, counter, sequence, boot id, three flags, the value log's segment and position,
# the metadata version.
_FIELDS = struct.Struct(">8sQQ36s???QQQ")
_CRC = struct.Struct(">I")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Return what the kernel calls this boot: a changed one means that page caches are gone."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known to be on disk.

    Attributes:
        sequence: The store's sequence number before a sync that succeeded.
        boot_id: The boot during which it was written.
        clean_stop: It was the last act of an orderly stop.
        data_lost: An opening found synced data missing, and the controller does not know yet.
        pages_lost: An opening followed a crash of the machine, and the controller does not know.
        values_end: The value log's end before its sync that succeeded.
        metadata_version: What was acknowledged under an earlier version of the cluster's metadata
            is on disk, also when its topic had `flush=os` then.
    """

    sequence: int
    boot_id: str
    clean_stop: bool
    data_lost: bool = False
    pages_lost: bool = False
    values_end: LogPoint = LOG_BEGIN
    metadata_version: int = 0


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What this opening found, or an earlier one that could not tell the controller.

    Attributes:
        lost_data: Data once synced is missing: no replica here is in sync. All of it is, when the
            store was damaged and set aside.
        lost_pages: The machine went down without an orderly stop: unsynced appends are missing, so
            that no replica with `flush=os` is in sync.
        metadata_version: What was acknowledged under an earlier one is here all the same.
    """

    lost_data: bool
    lost_pages: bool
    metadata_version: int = 0


class MarkFile:
    """The file that holds the newest mark; blocking, used by one thread at a time.

    Raises:
        StorageError: The directory was written by a version with another layout.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            newest = max(map(self._read, (0, 1)), key=lambda slot: slot[0])
            if os.fstat(self._fd).st_size < 2 * _SLOT_BYTES:
                os.posix_fallocate(self._fd, 0, 2 * _SLOT_BYTES)
                os.fsync(self._fd)
                sync_directory(path.parent)
        except BaseException:
            os.close(self._fd)
            raise
        self._counter, self.mark = newest

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def write(self, mark: Mark) -> None:
        """Replace the mark, on disk when this returns."""
        self._counter += 1
        fields = _FIELDS.pack(
            _MAGIC,
            self._counter,
            mark.sequence,
            mark.boot_id.encode(),
            mark.clean_stop,
            mark.data_lost,
            mark.pages_lost,
            *mark.values_end,
            mark.metadata_version,
        )
        slot = self._counter % 2
        os.pwrite(self._fd, fields + _CRC.pack(zlib.crc32(fields)), slot * _SLOT_BYTES)
        os.fdatasync(self._fd)
        self.mark = mark

    def _read(self, slot: int) -> tuple[int, Mark | None]:
        data = os.pread(self._fd, _FIELDS.size + _CRC.size, slot * _SLOT_BYTES)
        if len(data) < _FIELDS.size + _CRC.size:
            return 0, None
        fields, (crc,) = data[: _FIELDS.size], _CRC.unpack_from(data, _FIELDS.size)
        magic, counter, sequence, boot_id, clean, data_lost, pages_lost, *end, version = (
            _FIELDS.unpack(fields)
        )
        if magic[:-1] == _MAGIC_STEM and magic != _MAGIC and magic[-1:].isdigit():
            raise StorageError(
                f"the data directory has format {magic[-1:].decode()}, "
                f"this version reads format {_FORMAT.decode()} only",
                field="format",
                value=magic[-1:].decode(),
                limit=_FORMAT.decode(),
            )
        if magic != _MAGIC or crc != zlib.crc32(fields):
            return 0, None
        boot_id, values_end = boot_id.rstrip(b"\0").decode(), LogPoint(*end)
        mark = Mark(sequence, boot_id, clean, data_lost, pages_lost, values_end, version)
        return counter, mark

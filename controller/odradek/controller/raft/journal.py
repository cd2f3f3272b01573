"""The log on disk, in the shape pysyncobj expects of a journal.

Problem: pysyncobj's journal is a memory map that is never synced, has no checksums and is rewritten
in place. Idea: append records with a CRC-32C; write and fdatasync many at once; compact by writing
a new file beside the old one. All entries since the base stay in memory, as raft reads them.

A record is: magic, CRC, length of the command, index, term, durable index at its writing, command.
The last but one tells a torn tail (writes that were under way when power failed; cut off) from a
damaged middle (entries that were synced and perhaps acknowledged; the journal refuses to open).
What was synced last has no record behind it: once nothing was added for `MARK_AFTER_S`, and when
the journal is closed, a file of its own, the *mark*, says how far the log is on disk. The last
entry, should it rot before that, counts as torn.

Invariants: indexes are consecutive; the first entry is the *base*, of which only index and term
matter (genesis, or the last entry of a snapshot); `durable_index` <= `last_index`; the commit index
never passes `durable_index`, so nothing is counted or applied before it is on this disk; nor does
the mark, which falls before the log does.
"""

import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

from crc32c import crc32c

from odradek.controller.raft.filesystem import (
    FileSystem,
    read_file,
    replace_file,
    seal,
    unseal,
)
from odradek.controller.raft.hard_state import HardStateFile
from odradek.controller.raft.interface import DataDirectoryError
from odradek.controller.raft.messages import NO_OP, Entry
from odradek.protocol.types import ControllerId

_MAGIC = b"\xf0ODR"
_HEADER = struct.Struct("<4sIIQQQ")
_CHECKED_FROM = 8  # the CRC covers what follows it

MARK_AFTER_S = 0.5
"""Two syncs more, of which a busy log needs none and a quiet one only the first time."""

GENESIS = Entry(NO_OP, 1, 0)
"""The entry every journal begins with; equal everywhere, as pysyncobj's core assumes."""


class Journal:
    """The log and, through `HardStateFile`, the term and vote: all that pysyncobj's core stores."""

    def __init__(self, files: FileSystem, path: Path, hard_state: HardStateFile) -> None:
        self._files = files
        self._path = path
        self._hard_state = hard_state
        self._mark_path = path.with_name(path.name + ".mark")
        self._marked = _read_mark(files, self._mark_path)
        self._file = files.open(path)
        content = self._file.read()
        self._entries, self._sizes, end = _recover(content, self._marked)
        if end < len(content):
            self._file.truncate(end)
            self._file.sync()
        self._end = end
        self._unwritten = bytearray()
        self.durable_index = self._entries[-1].log_index if self._entries else 0
        self._quiet_since_s = float("-inf")
        self._quiet_index = self.durable_index
        self._commit_index = self._entries[0].log_index if self._entries else 0

    # What raft asks, by index.

    @property
    def first_index(self) -> int:
        """The base; entries after it can be read."""
        return self._entries[0].log_index

    @property
    def last_index(self) -> int:
        """The latest entry, durable or not."""
        return self._entries[-1].log_index

    @property
    def size_bytes(self) -> int:
        """The file's size, with what is still to be written."""
        return self._end + len(self._unwritten)

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry; None outside of the log."""
        if not self._entries or not self.first_index <= index <= self.last_index:
            return None
        return self._entries[index - self.first_index].term

    def read(self, index: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from `index` on, at least one if there is one, of about `bytes_max`."""
        assert index > self.first_index, "the base has no content"
        taken: list[Entry] = []
        size = 0
        for place in range(index - self.first_index, len(self._entries)):
            entry = self._entries[place]
            size += len(entry.command)
            if taken and size > bytes_max:
                break
            taken.append(entry)
        return tuple(taken)

    def sync(self) -> None:
        """Make every entry durable; one fdatasync however many there are."""
        if not self._unwritten:
            return
        self._file.write_at(self._end, bytes(self._unwritten))
        self._file.sync()
        self._end += len(self._unwritten)
        self._unwritten.clear()
        self.durable_index = self.last_index

    def mark_when_quiet(self, now_s: float) -> None:
        """Note how far the log is on disk, once nothing was added for a while."""
        if self.last_index != self._quiet_index:
            self._quiet_index, self._quiet_since_s = self.last_index, now_s
        elif self._marked < self.durable_index and now_s - self._quiet_since_s >= MARK_AFTER_S:
            self._mark(self.durable_index)

    def _mark(self, index: int) -> None:
        replace_file(self._files, self._mark_path, seal(index.to_bytes(8, "big")))
        self._marked = index

    def truncate_from(self, index: int) -> None:
        """Drop the entries from `index` on, durably: new ones must never mix with old ones."""
        assert index > self._commit_index, "committed entries are never truncated"
        self.sync()
        if self._marked >= index:
            self._mark(index - 1)
        keep = index - self.first_index
        self._end -= sum(self._sizes[keep:])
        del self._entries[keep:], self._sizes[keep:]
        self._file.truncate(self._end)
        self._file.sync()
        self.durable_index = self.last_index

    def rebase(self, index: int, term: int) -> None:
        """Begin the log at a snapshot's last entry, keeping what follows it if the log agrees."""
        if self.term_at(index) == term:
            self._rewrite(self._entries[index - self.first_index :])
        else:
            self._rewrite([Entry(NO_OP, index, term)])
        self._commit_index = max(self._commit_index, index)

    def drop_before(self, index: int) -> None:
        """Forget the entries before `index`, which a durable snapshot covers."""
        if index > self.first_index:
            self._rewrite(self._entries[index - self.first_index :])

    def _rewrite(self, entries: Sequence[Entry]) -> None:
        durable = entries[-1].log_index
        if self._marked > durable:
            self._mark(durable)
        records = [_record(entry, durable) for entry in entries]
        content = b"".join(records)
        replace_file(self._files, self._path, content)
        self._file.close()
        self._file = self._files.open(self._path)
        self._entries = list(entries)
        self._sizes = [len(record) for record in records]
        self._end = len(content)
        self._unwritten.clear()
        self.durable_index = durable

    # pysyncobj's journal, by position.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry; not durable before `sync`."""
        assert not self._entries or idx == self.last_index + 1, "indexes are consecutive"
        entry = Entry(command, idx, term)
        record = _record(entry, self.durable_index)
        self._entries.append(entry)
        self._sizes.append(len(record))
        self._unwritten += record

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        return self._entries[place]

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Hold back commitment until this disk has the entries.

        The index is not stored: after a restart the leader tells it again.
        """
        if raftCommitIndex > self.durable_index:
            self.sync()
        self._commit_index = max(self._commit_index, raftCommitIndex)

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        """Return what is known to be committed when the log is opened: its base."""
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: ControllerId | None) -> None:  # noqa: N802, N803
        """Enter a term or vote, durably."""
        self._hard_state.vote(term, votedForNodeId)

    def getCurrentTerm(self) -> int:  # noqa: N802
        """Return the latest term seen."""
        return self._hard_state.state.term

    def getVotedForNodeId(self) -> ControllerId | None:  # noqa: N802
        """Return whom this controller voted for in that term."""
        return self._hard_state.state.voted_for

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Do nothing: everything is stored when it happens."""

    def _destroy(self) -> None:
        if self._marked < self.durable_index:
            self._mark(self.durable_index)
        self._file.close()


def _record(entry: Entry, durable_index: int) -> bytes:
    body = (
        _HEADER.pack(_MAGIC, 0, len(entry.command), entry.log_index, entry.term, durable_index)[
            _CHECKED_FROM:
        ]
        + entry.command
    )
    return _MAGIC + struct.pack("<I", crc32c(body)) + body


def _parse(content: bytes, offset: int) -> tuple[Entry, int, int] | None:
    """Return the record at an offset as (entry, size, durable index), or None if there is none."""
    if offset + _HEADER.size > len(content):
        return None
    magic, crc, length, index, term, durable = _HEADER.unpack_from(content, offset)
    size = _HEADER.size + length
    body = content[offset + _CHECKED_FROM : offset + size]
    if magic != _MAGIC or len(body) != size - _CHECKED_FROM or crc32c(body) != crc:
        return None
    return Entry(content[offset + _HEADER.size : offset + size], index, term), size, durable


def _read_mark(files: FileSystem, path: Path) -> int:
    """Return up to which index the log is on disk for certain; 0 when nobody has noted it yet.

    Raises:
        DataDirectoryError: The file is corrupt.
    """
    if not files.exists(path):
        return 0
    return int.from_bytes(unseal(read_file(files, path), path.name), "big")


def _recover(content: bytes, marked: int) -> tuple[list[Entry], list[int], int]:
    """Return the entries, their sizes, and where the valid part ends.

    Args:
        content: Of the file.
        marked: Up to this index the log was on disk for certain.

    Raises:
        DataDirectoryError: Entries are missing that were durable once.
    """
    entries: list[Entry] = []
    sizes: list[int] = []
    end = 0
    while (parsed := _parse(content, end)) is not None:
        entries.append(parsed[0])
        sizes.append(parsed[1])
        end += parsed[1]
    if any(after.log_index != before.log_index + 1 for before, after in pairwise(entries)):
        raise DataDirectoryError("the journal has a gap", field="raft.journal")
    missing = entries[-1].log_index + 1 if entries else GENESIS.log_index
    place = content.find(_MAGIC, end + 1)
    while place >= 0:
        later = _parse(content, place)
        marked = marked if later is None else max(marked, later[2])
        place = content.find(_MAGIC, place + 1)
    if marked >= missing:
        raise DataDirectoryError(
            f"the journal is damaged at byte {end}: entry {missing} was on disk and cannot be "
            "read. Restore the data directory, or empty it and start with rejoin",
            field="raft.journal",
            value=missing,
        )
    return entries, sizes, end

"""Segments are written once, read in place, and gone when they are unlinked."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from odradek.node.storage.segments import LogPoint
from odradek.node.storage.value_log import SegmentFile, ValueLog, is_full
from odradek.protocol.errors import CorruptMessageError, StorageError


def test_values_are_read_back_across_segments_and_processes(tmp_path: Path) -> None:
    log = ValueLog(tmp_path / "values", 10_000, 1 << 20)
    values = [os.urandom(3000 + i) for i in range(10)]
    places = [log.append(value) for value in values]
    assert [place.segment for place in places] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert log.end == LogPoint(4, len(values[-1]))
    assert [log.read(place) for place in places] == values
    log.sync()
    log.close()
    again = ValueLog(tmp_path / "values", 10_000, 1 << 20)
    assert [again.read(place) for place in places] == values
    assert again.append(b"x" * 100).segment == 5, "an old segment is never continued"
    assert again.sizes_on_disk()[1] == sum(map(len, values[:3]))
    again.close()


def test_what_was_taken_back_is_overwritten(tmp_path: Path) -> None:
    log = ValueLog(tmp_path, 10_000, 1 << 20)
    kept = log.append(b"a" * 100)
    log.sync()
    refused = log.append(b"b" * 100)
    log.undo(refused)
    assert log.end == LogPoint(1, 100)
    again = log.append(b"c" * 100)
    assert again.point == refused.point
    assert (log.read(kept), log.read(again)) == (b"a" * 100, b"c" * 100)
    with pytest.raises(CorruptMessageError, match="segment 1"):
        log.read(refused)
    log.close()


def test_an_unlinked_segment_is_gone_for_newcomers_only(tmp_path: Path) -> None:
    log = ValueLog(tmp_path, 10_000, 1 << 20)
    place = log.append(b"a" * 100)
    log.seal()
    reader = log._reader(place.segment)
    log.unlink(place.segment)
    with pytest.raises(FileNotFoundError):
        log.read(place)
    assert reader.read(place) == b"a" * 100
    assert log.append(b"b").segment == 2
    log.close()


def test_readers_share_a_bounded_number_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("odradek.node.storage.value_log._OPEN_READERS_MAX", 3)
    log = ValueLog(tmp_path, 10, 1 << 20)
    places = [log.append(bytes([i]) * 10) for i in range(10)]
    for place in places * 2:
        assert log.read(place)[0] == place.segment - 1
        assert len(log._readers) <= 3
    log.close()


def test_a_sync_covers_what_was_appended_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ValueLog(tmp_path, 1000, 1 << 20)
    synced: list[int] = []
    fdatasync = os.fdatasync

    def counted(fd: int) -> None:
        synced.append(fd)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    log.append(b"a" * 600)
    log.sync()
    assert len(synced) == 1
    log.sync()
    assert len(synced) == 1, "nothing new"
    refused = log.append(b"b" * 100)
    log.sync()
    log.undo(refused)
    log.append(b"c" * 100)
    log.sync()
    assert len(synced) == 3, "the same position, other bytes"
    log.append(b"d" * 600)  # a new segment; the sealed one is clean
    log.append(b"e" * 600)  # another one
    log.sync()
    assert len(synced) == 5
    log.close()


def refusing(code: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_full_disk_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ValueLog(tmp_path, 1000, 1 << 20)
    log.append(b"a" * 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refusing(errno.ENOSPC))
        with pytest.raises(OSError, match="space") as error:
            log.append(b"b" * 100)
    assert is_full(error.value)
    place = log.append(b"c" * 100)
    assert place.position == 100
    assert log.read(place) == b"c" * 100
    log.close()


def test_a_sector_that_cannot_be_read_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ValueLog(tmp_path, 1000, 1 << 20)
    place = log.append(b"a" * 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refusing(errno.EIO))
        with pytest.raises(CorruptMessageError, match="damaged at byte 0"):
            log.read(place)
    log.close()


def test_a_failed_sync_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: the kernel forgets which pages it could not write."""
    log = ValueLog(tmp_path, 1000, 1 << 20)
    log.append(b"a" * 100)
    monkeypatch.setattr(os, "fdatasync", refusing(errno.ENOSPC))
    with pytest.raises(StorageError, match="synced"):
        log.sync()
    log.close()


def test_a_writer_of_its_own_has_its_own_number(tmp_path: Path) -> None:
    log = ValueLog(tmp_path, 1000, 1 << 20)
    assert log.append(b"a").segment == 1
    file = log.create()
    assert isinstance(file, SegmentFile)
    place = file.append(b"moved")
    assert place.segment == 2
    assert log.read(place) == b"moved"
    log.seal()
    assert log.append(b"b").segment == 3
    log.close()

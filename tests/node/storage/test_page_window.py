"""The newest bytes of the value log stay in the page cache; what leaves it was synced before."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.page_window import STEP_BYTES, Extent, PageWindow
from odradek.node.storage.segments import LogPoint
from odradek.node.storage.value_log import ValueLog

MIB = 1 << 20


def test_nothing_leaves_a_window_that_is_not_full() -> None:
    window = PageWindow(3 * MIB)
    assert not window.on_synced(LogPoint(1, MIB))
    assert not window.on_synced(LogPoint(1, 3 * MIB))


def test_the_oldest_bytes_leave() -> None:
    window = PageWindow(2 * MIB)
    assert window.on_synced(LogPoint(1, 3 * MIB)) == [Extent(1, 0, MIB)]
    assert not window.on_synced(LogPoint(1, 4 * MIB - 1))
    assert window.on_synced(LogPoint(1, 5 * MIB)) == [Extent(1, MIB, 3 * MIB)]


def test_the_end_of_a_segment_leaves_with_it() -> None:
    window = PageWindow(MIB)
    window.on_synced(LogPoint(1, MIB + 5))
    assert window.on_synced(LogPoint(2, 2 * MIB)) == [Extent(1, 0, MIB + 5), Extent(2, 0, MIB)]


def test_what_was_taken_back_is_not_counted_twice() -> None:
    window = PageWindow(2 * MIB)
    window.on_synced(LogPoint(1, 2 * MIB))
    assert not window.on_synced(LogPoint(1, MIB))
    assert window.on_synced(LogPoint(1, 3 * MIB)) == [Extent(1, 0, MIB)]


@given(
    st.integers(0, 5 * MIB),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3 * MIB)), max_size=30),
)
def test_each_byte_leaves_once_and_never_the_newest(
    bytes_max: int, steps: list[tuple[bool, int]]
) -> None:
    """Whatever the segments' sizes, the window ends at the log's end and keeps to its bound."""
    window, end = PageWindow(bytes_max), LogPoint(1, 0)
    sizes: dict[int, int] = {}
    left: dict[int, int] = {}
    for is_new_segment, grown_bytes in steps:
        end = LogPoint(end.segment + 1, 0) if is_new_segment else end
        end = end._replace(position=end.position + grown_bytes)
        sizes[end.segment] = end.position
        for extent in window.on_synced(end):
            assert extent.begin == left.get(extent.segment, 0)
            assert extent.begin % STEP_BYTES == 0
            assert extent.end % STEP_BYTES == 0 or extent.end == sizes[extent.segment]
            assert all(left.get(n) == sizes[n] for n in sizes if n < extent.segment)
            left[extent.segment] = extent.end
        held_bytes = sum(sizes.values()) - sum(left.values())
        assert min(bytes_max, sum(sizes.values())) <= held_bytes < bytes_max + STEP_BYTES


def test_a_value_log_drops_only_what_it_has_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to drop what is dirty, the kernel writes it, and may tell nobody that this failed."""
    events: list[str] = []
    sync, advise = os.fdatasync, os.posix_fadvise

    def noting_sync(descriptor: int) -> None:
        events.append("sync")
        sync(descriptor)

    def noting_advice(descriptor: int, begin: int, size_bytes: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        events.append(f"drop {begin} to {begin + size_bytes}")
        advise(descriptor, begin, size_bytes, advice)

    monkeypatch.setattr(os, "fdatasync", noting_sync)
    monkeypatch.setattr(os, "posix_fadvise", noting_advice)
    log = ValueLog(tmp_path, 64 * MIB, MIB)
    places = [log.append(bytes([i]) * MIB) for i in range(3)]
    assert not events
    log.sync()
    assert events == ["sync", f"drop 0 to {2 * MIB}"]
    assert [log.read(place)[0] for place in places] == [0, 1, 2]


def test_dropping_survives_a_segment_that_is_gone(tmp_path: Path) -> None:
    log = ValueLog(tmp_path, MIB, 0)
    first = log.append(b"x" * MIB)
    log.append(b"y" * MIB)
    log.unlink(first.segment)
    log.sync()

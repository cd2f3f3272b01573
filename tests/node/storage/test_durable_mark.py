"""The mark survives torn writes and never invents progress."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.durable_mark import Mark, MarkFile, read_boot_id

BOOT = "0f1e2d3c-0000-4000-8000-000000000000"


def test_the_newest_mark_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    for sequence in range(1, 6):
        file = MarkFile(path)
        previous = Mark(sequence - 1, BOOT, True, data_lost=True, pages_lost=False)
        assert file.mark == (previous if sequence > 1 else None)
        file.write(Mark(sequence, BOOT, False))
        file.write(Mark(sequence, BOOT, True, data_lost=True, pages_lost=False))
        file.close()


def test_a_torn_write_leaves_the_mark_before(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    file = MarkFile(path)
    file.write(Mark(10, BOOT, False))
    file.write(Mark(20, BOOT, False))
    slot = file._counter % 2
    file.close()
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"\xff" * 12, slot * 4096 + 20)
    os.close(fd)
    file = MarkFile(path)
    assert file.mark == Mark(10, BOOT, False)
    file.write(Mark(30, BOOT, False))
    file.close()
    file = MarkFile(path)
    assert file.mark == Mark(30, BOOT, False)
    file.close()


@given(content=st.binary(max_size=9000))
def test_garbage_is_no_mark(content: bytes, tmp_path_factory: object) -> None:
    path = Path(tmp_path_factory.mktemp("mark")) / "mark"  # type: ignore[attr-defined]
    path.write_bytes(content)
    file = MarkFile(path)
    assert file.mark is None
    file.close()


def test_the_kernel_names_its_boot() -> None:
    assert len(read_boot_id()) == 36
    assert read_boot_id() == read_boot_id()

"""The tracer sees what programs do, and the explorer finds the classical mistakes by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.powerloss.disk import Disk
from tests.powerloss.explorer import Cut, explore, record
from tests.powerloss.operations import UntraceableError
from tests.powerloss.tracer import Tracer, differences, scan

PROGRAM = "tests.powerloss.small_program"

ALL_CALLS = """
import os, sys
from pathlib import Path
root = Path(sys.argv[1])
(root / "d" / "e").mkdir(parents=True)
with (root / "d" / "text").open("w") as file:
    for number in range(5000):
        file.write(f"line {number}")
with (root / "d" / "text").open("a") as file:
    file.write("more")
fd = os.open(root / "raw", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x" * 10000, 5000)
os.writev(fd, [b"one", b"two", b"three"])
os.pwritev(fd, [b"four", b"five"], 100)
os.ftruncate(fd, 7000)
os.posix_fallocate(fd, 0, 9000)
os.lseek(fd, 10, os.SEEK_SET)
os.write(fd, b"in the middle")
os.fsync(fd)
os.close(fd)
os.link(root / "raw", root / "linked")
os.rename(root / "d" / "text", root / "text")
os.replace(root / "raw", root / "d" / "raw")
(root / "gone").write_bytes(b"gone")
(root / "gone").unlink()
(root / "d" / "e").rmdir()
"""

MAPS = """
import mmap, os, sys
fd = os.open(sys.argv[1] + "/mapped", os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 4096)
mmap.mmap(fd, 4096)
"""

COPIES_BOOT_ID = """
import sys
with open(sys.argv[1] + "/boot", "w") as copy:
    copy.write(open("/proc/sys/kernel/random/boot_id").read())
"""


def run(tracer: Tracer, program: str) -> int:
    command = [sys.executable, "-c", program, str(tracer.root)]
    child = subprocess.Popen(command, env=os.environ | tracer.environment)
    assert child.wait(30) == 0
    return child.pid


def test_the_replayed_trace_is_the_real_directory(tracer: Tracer) -> None:
    operations = tracer.operations(run(tracer, ALL_CALLS))
    disk = Disk({})
    disk.apply_all(each.operation for each in operations)
    assert disk.current() == scan(tracer.root)
    assert differences(disk, scan(tracer.root), operations) == []


def test_what_was_missed_is_noticed(tracer: Tracer) -> None:
    operations = tracer.operations(run(tracer, ALL_CALLS))
    disk = Disk({})
    disk.apply_all(each.operation for each in operations)
    (tracer.root / "text").write_bytes(b"changed behind its back")
    (tracer.root / "new").write_bytes(b"new")
    assert differences(disk, scan(tracer.root), operations) == ["new", "text"]


def test_a_shared_mapping_is_refused(tracer: Tracer) -> None:
    pid = run(tracer, MAPS)
    with pytest.raises(UntraceableError, match="mmap"):
        tracer.operations(pid)


def test_a_program_lives_in_the_boot_it_is_given(tracer: Tracer) -> None:
    told = []
    for _ in range(2):
        run(tracer, COPIES_BOOT_ID)
        told.append((tracer.root / "boot").read_text())
        tracer.reboot()
    assert told[0] != told[1]


def check_number(cut: Cut, directory: Path) -> None:
    promised = [int(number) for [number] in cut.promises]
    path = directory / "number"
    content = path.read_bytes() if path.exists() else b""
    stored = int(content) if content.isdigit() else -1
    assert stored >= max(promised, default=-1), f"{promised[-1]} was promised, {content!r} is left"


def test_a_correct_program_is_not_blamed(tracer: Tracer, tmp_path: Path) -> None:
    recording = record(tracer, PROGRAM, str(tracer.root), "0", "20")
    explore(recording, tmp_path / "cut", check_number, seed=0, count=300)


@pytest.mark.parametrize("mistake", ["no_file_sync", "no_directory_sync", "early"])
def test_a_mistake_is_found(tracer: Tracer, tmp_path: Path, mistake: str) -> None:
    recording = record(tracer, PROGRAM, str(tracer.root), "0", "20", mistake)
    with pytest.raises(AssertionError, match="was promised"):
        explore(recording, tmp_path / "cut", check_number, seed=0, count=300)

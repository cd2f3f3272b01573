"""A process killed while it appends loses nothing that it acknowledged."""

import signal
import subprocess
import sys
from pathlib import Path

from odradek.node.storage import RecoveryReport
from odradek.protocol.record_batch import decode
from odradek.protocol.types import PartitionUid
from tests.node.storage.batches import append, batch, opened, read_all
from tests.node.storage.crash_child import PARTITIONS

ROOT = Path(__file__).parents[3]
ACKS_BEFORE_KILL = 400


def append_until_killed(directory: Path) -> dict[int, int]:
    """Return the acknowledged end of each partition."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.node.storage.crash_child", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    acknowledged: dict[int, int] = {}
    assert child.stdout is not None
    with child:
        lines = iter(child.stdout)
        for _ in range(ACKS_BEFORE_KILL):
            _, uid, end = next(lines).split()
            acknowledged[int(uid)] = int(end)
        child.send_signal(signal.SIGKILL)
        for line in lines:
            if line.endswith("\n"):
                _, uid, end = line.split()
                acknowledged[int(uid)] = int(end)
    assert child.returncode == -signal.SIGKILL
    return acknowledged


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    for _ in range(3):  # the third recovers what two crashes left
        acknowledged = append_until_killed(tmp_path)
        assert len(acknowledged) == PARTITIONS
        async with opened(tmp_path) as storage:
            assert storage.recovered == RecoveryReport(lost_data=False, lost_pages=False)
            for uid, end in acknowledged.items():
                log = storage.log(PartitionUid(uid))
                assert log.log_end_offset >= end
                offsets = [record.offset for b in await read_all(log) for record in decode(b)]
                assert offsets == list(range(log.log_end_offset))
                last = log.log_end_offset - 2
                again = append(log, batch(2, producer_id=uid, producer_epoch=0, base_sequence=last))
                assert (again.base_offset, again.is_duplicate) == (last, True)

"""What a node's storage must hold after a power cut, given what it had promised."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from odradek.node.storage import PartitionLog, Storage
from odradek.node.storage.keys import Table
from odradek.protocol.record_batch import BatchHeader, decode, verify
from odradek.protocol.types import LeaderEpoch, PartitionUid
from tests.node.storage.batches import append, batch, opened, read_all
from tests.powerloss.explorer import Cut
from tests.powerloss.storage_program import OPTIONS, PARTITIONS, value_at


@dataclass(slots=True)
class Expected:
    """One partition as far as it was promised.

    Attributes:
        batches: Base offset -> (end, epoch) of what must be there, unless below the log start.
        end: The log ends here or later.
        cut_to: (offset, epoch): from the offset on there is nothing of this epoch or an older one.
        start: The log starts here or later, and at most at `start_max`.
        start_max: The largest log start asked for.
        note: The small value is at least this.
        dropped: These partitions are gone.
    """

    batches: dict[int, tuple[int, int]] = field(default_factory=dict)
    end: int = 0
    cut_to: list[tuple[int, int]] = field(default_factory=list)
    start: int = 0
    start_max: int = 0
    note: int = 0
    dropped: list[int] = field(default_factory=list)

    def on_promise(self, kind: str, *numbers: int) -> None:
        """Take one promise into account."""
        match kind:
            case "appended":
                base, end, epoch = numbers
                self.batches[base] = (end, epoch)
                self.end = end
            case "truncating":
                self._forget_beyond(numbers[0])
            case "truncated":
                self._forget_beyond(numbers[0])
                self.cut_to.append((numbers[0], numbers[1]))
            case "advancing":
                self.start_max = max(self.start_max, numbers[0])
            case "advanced":
                self.start = max(self.start, numbers[0])
            case "dropped":
                self.dropped.append(numbers[0])
            case "noted":
                self.note = numbers[0]
            case _:
                raise AssertionError(kind)

    def _forget_beyond(self, offset: int) -> None:
        self.batches = {base: known for base, known in self.batches.items() if known[0] <= offset}
        self.end = min(self.end, max((end for end, _ in self.batches.values()), default=0))


def expected_of(promises: list[list[str]]) -> dict[int, Expected]:
    """Return what was promised of each partition."""
    expected = {uid: Expected() for uid in range(PARTITIONS)}
    for kind, uid, *numbers in promises:
        expected[int(uid)].on_promise(kind, *map(int, numbers))
    return expected


def check_storage(cut: Cut, directory: Path) -> None:
    """Open the storage of a cut disk and compare."""
    asyncio.run(_check(cut.promises, directory / "data"))


async def _check(promises: list[list[str]], directory: Path) -> None:
    async with opened(directory, OPTIONS) as storage:
        assert not storage.recovered.lost_data, "an honest power cut lost nothing that was synced"
        assert storage.recovered.lost_pages or not promises, "the machine went down unasked"
        for uid, expected in expected_of(promises).items():
            note = storage.table(Table.REPLICA).get(PartitionUid(uid), b"note")
            assert int(note or b"0") >= expected.note
            for gone in map(PartitionUid, expected.dropped):
                assert storage.log(gone).log_end_offset == 0, f"{gone} was dropped"
                assert storage.log(gone).log_start_offset == 0
            await _check_log(storage, PartitionUid(uid), expected)


async def _check_log(storage: Storage, uid: PartitionUid, expected: Expected) -> None:
    log = storage.log(uid)
    assert expected.start <= log.log_start_offset <= expected.start_max
    assert log.log_end_offset >= expected.end, f"{uid}: ends at {log.log_end_offset}: {expected}"
    stored = [verify(each) for each in await read_all(log)]
    for before, after in pairwise(stored):
        assert after.base_offset == before.next_offset
        assert after.leader_epoch >= before.leader_epoch
    epochs: dict[int, int] = {header.base_offset: header.leader_epoch for header in stored}
    for base, (end, epoch) in expected.batches.items():
        if end > log.log_start_offset:
            assert epochs.get(base) == epoch, f"{uid}: the batch at {base} of epoch {epoch} is lost"
    for end, epoch in expected.cut_to:
        back = [base for base, of in epochs.items() if base >= end and of <= epoch]
        assert not back, f"{uid}: {back} of epoch {epoch} came back after a truncation to {end}"
    await _check_contents(log, uid)
    await _check_window(storage, log, uid, stored)


async def _check_contents(log: PartitionLog, uid: PartitionUid) -> None:
    for data in await read_all(log):
        header = BatchHeader.parse(data)
        for record in decode(data):
            assert record.value is not None
            size = len(record.value)
            right = value_at(uid, header.leader_epoch, header.base_offset, size)
            assert bytes(record.value) == right


async def _check_window(
    storage: Storage, log: PartitionLog, uid: PartitionUid, stored: list[BatchHeader]
) -> None:
    """The producer's last batch is known as a duplicate, and the log takes the next one."""
    if stored:
        last = stored[-1]
        again = batch(
            last.next_offset - last.base_offset,
            producer_id=uid,
            producer_epoch=0,
            base_sequence=last.base_sequence,
        )
        assert append(log, again, last.leader_epoch).is_duplicate
    end, epoch = log.log_end_offset, LeaderEpoch(log.leader_epochs.latest + 1)
    more = batch(1, producer_id=uid, producer_epoch=0, base_sequence=end)
    await storage.group_commit.when_durable(append(log, more, epoch).position)
    assert log.log_end_offset == end + 1

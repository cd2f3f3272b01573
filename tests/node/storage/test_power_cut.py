"""Power cuts: files keep what was synced, and of the rest any part or something else entirely."""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from odradek.node.storage import RecoveryReport, Storage, StorageOptions, StoreOptions
from odradek.protocol.errors import CorruptMessageError, StorageError
from odradek.protocol.types import Offset, PartitionUid
from tests.node.storage.batches import (
    NOW_MS,
    UID,
    append,
    append_patiently,
    base_offsets,
    batch,
    copy_as_after_power_loss,
    opened,
    read_all,
)

NOTHING_LOST = RecoveryReport(lost_data=False, lost_pages=False)
OPTIONS = StorageOptions(
    reserve_bytes=0,
    tail_cache_bytes=0,
    store=StoreOptions(memtable_bytes=4 << 20, inline_bytes_max=0, segment_bytes=200_000),
)
UIDS = [PartitionUid(uid) for uid in (1, 2, 3)]
SEEDS = range(10)


def segment_files(directory: Path) -> list[Path]:
    return sorted((directory / "store" / "values").iterdir())


def write_ahead_log(directory: Path) -> Path:
    return max((directory / "store").glob("*.log"), key=lambda path: path.name)


@dataclass
class Written:
    """What a storage was given, and what of it was promised to stay."""

    batches: dict[PartitionUid, list[bytes]] = field(
        default_factory=lambda: {uid: [] for uid in UIDS}
    )
    promised: dict[PartitionUid, int] = field(default_factory=dict)
    synced_sizes: dict[str, int] = field(default_factory=dict)
    synced_log_bytes: int = 0

    async def some(self, storage: Storage, chance: random.Random, count: int) -> None:
        for _ in range(count):
            uid = chance.choice(UIDS)
            value = chance.randbytes(chance.choice((100, 9_000, 30_000)))
            await append_patiently(storage, uid, batch(value=value))
            (stored,) = await storage.log(uid).read(Offset(storage.log(uid).log_end_offset - 1), 1)
            self.batches[uid].append(stored)

    def note_synced(self, storage: Storage, directory: Path) -> None:
        self.promised = {uid: storage.log(uid).log_end_offset for uid in UIDS}
        self.synced_sizes = {path.name: path.stat().st_size for path in segment_files(directory)}
        self.synced_log_bytes = write_ahead_log(directory).stat().st_size


def tear(path: Path, synced_bytes: int, chance: random.Random) -> None:
    """Do to a file's unsynced end what a power cut may do."""
    content = bytearray(path.read_bytes())
    begin = chance.randrange(synced_bytes, len(content) + 1)
    match chance.randrange(5):
        case 0:
            pass
        case 1:
            del content[begin:]
        case 2:  # the length was written, the pages were not
            content[begin:] = bytes(len(content) - begin)
        case 3:  # one page was not
            end = min(begin + 4096, len(content))
            content[begin:end] = bytes(end - begin)
        case _:  # as if the blocks had belonged to another file
            content[begin:] = chance.randbytes(len(content) - begin)
    path.write_bytes(content)


def cut_power(source: Path, target: Path, written: Written, chance: random.Random) -> None:
    shutil.copytree(source, target)
    for path in segment_files(target):
        synced_bytes = written.synced_sizes.get(path.name, 0)
        if path.stat().st_size > synced_bytes:
            if synced_bytes == 0 and chance.random() < 0.2:
                path.unlink()  # its name was never synced
            else:
                tear(path, synced_bytes, chance)
    if chance.random() < 0.5:  # references are lost, bytes may have survived
        log = write_ahead_log(target)
        content = log.read_bytes()
        size = chance.randrange(written.synced_log_bytes, len(content) + 1)
        log.write_bytes(content[:size] + bytes(len(content) - size))


async def check(storage: Storage, written: Written) -> None:
    assert storage.recovered == NOTHING_LOST
    for uid in UIDS:
        log = storage.log(uid)
        assert log.log_end_offset >= written.promised[uid], "what was durable stays"
        assert await read_all(log) == written.batches[uid][: log.log_end_offset]


@pytest.mark.parametrize("mark_interval_s", [0, 60], ids=["fresh mark", "old mark"])
async def test_a_power_cut_costs_only_what_was_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark_interval_s: float
) -> None:
    monkeypatch.setattr("odradek.node.storage.storage._MARK_INTERVAL_S", mark_interval_s)
    written, chance = Written(), random.Random(1)
    async with opened(tmp_path / "live", OPTIONS) as storage:
        await written.some(storage, chance, 40)
        await storage.group_commit.when_durable(storage.group_commit.appended)
        await storage.group_commit.pause()
        written.note_synced(storage, tmp_path / "live")
        await written.some(storage, chance, 20)
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "copy")
        storage.group_commit.resume()
    ends = set()
    for seed in SEEDS:
        chance = random.Random(seed)
        directory = tmp_path / f"{seed}"
        cut_power(tmp_path / "copy", directory, written, chance)
        async with opened(directory, OPTIONS) as storage:
            await check(storage, written)
            ends.add(tuple(storage.log(uid).log_end_offset for uid in UIDS))
            # The machine may go down again before anything else happens.
            copy_as_after_power_loss(directory, tmp_path / f"{seed}-again")
        async with opened(tmp_path / f"{seed}-again", OPTIONS) as storage:
            await check(storage, written)
            uid = chance.choice(UIDS)
            end = storage.log(uid).log_end_offset
            position = await append_patiently(storage, uid, batch(value=bytes(20_000)))
            await storage.group_commit.when_durable(position)
            assert base_offsets(await storage.log(uid).read(Offset(end), 1)) == [end]
        async with opened(tmp_path / f"{seed}-again", OPTIONS) as storage:
            assert storage.recovered == NOTHING_LOST
            assert storage.log(uid).log_end_offset == end + 1
            assert len(await read_all(storage.log(uid))) == end + 1
        shutil.rmtree(directory)
        shutil.rmtree(tmp_path / f"{seed}-again")
    assert len(ends) > 4, "the cuts differ"


async def test_a_later_batch_that_survived_goes_with_the_torn_one(tmp_path: Path) -> None:
    async with opened(tmp_path / "live", OPTIONS) as storage:
        log = storage.log(UID)
        await storage.group_commit.when_durable(append(log, batch(value=bytes(20_000))).position)
        await storage.group_commit.pause()
        (segment,) = segment_files(tmp_path / "live")
        synced_bytes = segment.stat().st_size
        append(log, batch(value=bytes(20_000)))
        append(log, batch(value=bytes(30_000)))
        append(log, batch())
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "cut")
        storage.group_commit.resume()
    (segment,) = segment_files(tmp_path / "cut")
    content = bytearray(segment.read_bytes())
    content[synced_bytes + 7] ^= 1
    segment.write_bytes(content)
    async with opened(tmp_path / "cut", OPTIONS) as storage:
        assert storage.recovered == NOTHING_LOST
        log = storage.log(UID)
        assert base_offsets(await read_all(log)) == [0]
        assert append(log, batch(2)).base_offset == 1


async def test_synced_bytes_that_are_missing_are_lost_data_and_nothing_is_cut(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, OPTIONS) as storage:
        log = storage.log(UID)
        for _ in range(3):
            append(log, batch(value=bytes(20_000)))
    (segment,) = segment_files(tmp_path)
    content = segment.read_bytes()
    segment.write_bytes(content[:-100])
    async with opened(tmp_path, OPTIONS) as storage:
        assert storage.recovered == RecoveryReport(lost_data=True, lost_pages=False)
        log = storage.log(UID)
        assert log.log_end_offset == 3, "acknowledged data is never cut"
        assert base_offsets(await log.read(Offset(0), 1)) == [0]
        with pytest.raises(CorruptMessageError, match="uid 7, offset 2"):
            await log.read(Offset(2), 1)
    segment.write_bytes(content)
    async with opened(tmp_path, OPTIONS) as storage:
        assert storage.recovered.lost_data, "nobody has been told"
        await storage.recovery_told()
    segment.unlink()
    async with opened(tmp_path, OPTIONS) as storage:
        assert storage.recovered == RecoveryReport(lost_data=True, lost_pages=False)
        with pytest.raises(CorruptMessageError, match=r"uid 7, offset 0: segment 1 .* gone"):
            await storage.log(UID).read(Offset(0), 1)


async def test_rot_below_the_mark_is_not_cut(tmp_path: Path) -> None:
    async with opened(tmp_path / "live", OPTIONS) as storage:
        log = storage.log(UID)
        for _ in range(3):
            append(log, batch(value=bytes(20_000)))
    (segment,) = segment_files(tmp_path / "live")
    content = bytearray(segment.read_bytes())
    content[30_000] ^= 1
    segment.write_bytes(content)
    async with opened(tmp_path / "live", OPTIONS) as storage:
        log = storage.log(UID)
        assert log.log_end_offset == 3
        with pytest.raises(CorruptMessageError, match="uid 7, offset 1"):
            await log.read(Offset(1), 1)
        assert base_offsets(await log.read(Offset(2), 1)) == [2]


async def test_a_directory_of_another_format_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path, OPTIONS) as storage:
        append(storage.log(UID), batch())
    mark = tmp_path / "durable.mark"
    mark.write_bytes(mark.read_bytes().replace(b"ODRADEK3", b"ODRADEK1"))
    with pytest.raises(StorageError, match="format 1, this version reads format 3") as error:
        async with opened(tmp_path, OPTIONS):
            pass
    assert (error.value.field, error.value.value) == ("format", "1")


async def test_torn_batches_take_their_idempotence_with_them(tmp_path: Path) -> None:
    def numbered(sequence: int) -> bytes:
        return batch(value=bytes(20_000), producer_id=5, producer_epoch=0, base_sequence=sequence)

    async with opened(tmp_path / "live", OPTIONS) as storage:
        log = storage.log(UID)
        await storage.group_commit.when_durable(append(log, numbered(0)).position)
        await storage.group_commit.pause()
        append(log, numbered(1))
        log.snapshot_producers(NOW_MS)
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "cut")
        storage.group_commit.resume()
    (segment,) = segment_files(tmp_path / "cut")
    segment.write_bytes(segment.read_bytes()[:-1])
    async with opened(tmp_path / "cut", OPTIONS) as storage:
        log = storage.log(UID)
        assert log.log_end_offset == 1
        again = append(log, numbered(1))
        assert (again.base_offset, again.is_duplicate) == (1, False)


async def test_an_opening_that_did_not_come_to_the_cut_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "live", OPTIONS) as storage:
        log = storage.log(UID)
        await storage.group_commit.when_durable(append(log, batch(value=bytes(20_000))).position)
        await storage.group_commit.pause()
        append(log, batch(value=bytes(20_000)))
        copy_as_after_power_loss(tmp_path / "live", tmp_path / "cut")
        storage.group_commit.resume()
    (segment,) = segment_files(tmp_path / "cut")
    segment.write_bytes(segment.read_bytes()[:-1])

    async def fail(_: Storage) -> None:
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "_cut_torn_logs", fail)
        with pytest.raises(KeyError):
            await opened(tmp_path / "cut", OPTIONS).__aenter__()
    async with opened(tmp_path / "cut", OPTIONS) as storage:
        assert storage.recovered == NOTHING_LOST
        assert storage.log(UID).log_end_offset == 1

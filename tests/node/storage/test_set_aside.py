"""A store that cannot be read is put out of the way whole, and whoever asks is told."""

from pathlib import Path
from typing import Any

import pytest

from odradek.node.storage import StoreOptions
from odradek.node.storage import storage as storage_module
from odradek.node.storage import store as store_module
from odradek.node.storage.set_aside import why_condemned
from odradek.node.storage.store import DamagedStoreError, DamagedTableError, Store
from odradek.protocol.errors import StorageError
from odradek.protocol.types import PartitionUid
from tests.node.storage.batches import append_patiently, batch, opened, read_all, refuse, until
from tests.powerloss.bit_flips import flip
from tests.powerloss.tracer import scan

UID = PartitionUid(1)


async def fill(directory: Path) -> list[bytes]:
    """Write a few batches and return them as they are stored."""
    async with opened(directory) as storage:
        for _ in range(10):
            await storage.group_commit.when_durable(await append_patiently(storage, UID, batch(2)))
        return await read_all(storage.log(UID))


def damage(directory: Path) -> bytes:
    """Flip a bit that RocksDB cannot open without; return the file as it was."""
    file = directory / "store" / "CURRENT"
    content = file.read_bytes()
    file.write_bytes(flip(content, 3, 0))
    return content


def moved(directory: Path) -> list[Path]:
    """Return the stores that were set aside."""
    return sorted(directory.glob("store.damaged-*"))


async def test_it_begins_empty_and_says_so_until_the_controllers_know(tmp_path: Path) -> None:
    await fill(tmp_path)
    damage(tmp_path)
    before = scan(tmp_path / "store")
    for _ in range(2):
        async with opened(tmp_path) as storage:
            assert storage.recovered.lost_data
            assert storage.has_set_aside
            assert storage.log(UID).log_end_offset == 0
    (aside,) = moved(tmp_path)
    assert {path: data for path, data in scan(aside).items() if "LOG" not in path} == {
        path: data for path, data in before.items() if "LOG" not in path
    }
    async with opened(tmp_path) as storage:
        await storage.recovery_told()
        await storage.group_commit.when_durable(await append_patiently(storage, UID, batch(1)))
    async with opened(tmp_path) as storage:
        assert not storage.recovered.lost_data
        assert storage.has_set_aside
        assert storage.log(UID).log_end_offset == 1
    aside.rename(tmp_path / "kept elsewhere")
    async with opened(tmp_path) as storage:
        assert not storage.has_set_aside


async def test_what_was_set_aside_can_be_repaired_and_put_back(tmp_path: Path) -> None:
    right = await fill(tmp_path)
    current = damage(tmp_path)
    async with opened(tmp_path) as storage:
        await storage.recovery_told()
    (aside,) = moved(tmp_path)
    (aside / "CURRENT").write_bytes(current)
    (tmp_path / "store").rename(tmp_path / "empty")
    aside.rename(tmp_path / "store")
    async with opened(tmp_path) as storage:
        assert not storage.recovered.lost_data
        assert not storage.has_set_aside
        assert await read_all(storage.log(UID)) == right


async def test_a_crash_before_the_store_is_renamed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    (tmp_path / "durable.mark").unlink()  # nothing else would tell
    damage(tmp_path)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "set_aside", crash)
        with pytest.raises(KeyboardInterrupt):
            await fill(tmp_path)
    async with opened(tmp_path) as storage:
        assert storage.recovered.lost_data
    assert len(moved(tmp_path)) == 1


async def test_a_store_in_use_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(StorageError, match="cannot be opened"):
            async with opened(tmp_path):
                pass
    assert not moved(tmp_path)


async def test_a_condemned_store_is_set_aside_by_the_next_opening(tmp_path: Path) -> None:
    ended: list[BaseException] = []
    async with opened(tmp_path, fatal=ended.append) as storage:
        storage.condemn(DamagedTableError("a block is unreadable"))
    assert len(ended) == 1
    async with opened(tmp_path) as storage:
        assert storage.recovered.lost_data
    (aside,) = moved(tmp_path)
    assert why_condemned(aside) is None, "it may come back once it was repaired"


class Rotten:
    """A handle that meets damage when it is closed."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def close(self) -> None:
        self._handle.close()
        raise RuntimeError("Corruption: block checksum mismatch")


async def test_damage_met_while_the_store_is_closed_condemns_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        storage._store._db = Rotten(storage._store._db)
    assert "block checksum mismatch" in (why_condemned(tmp_path / "store") or "")
    async with opened(tmp_path) as storage:
        assert storage.recovered.lost_data
    assert len(moved(tmp_path)) == 1


def test_damage_met_while_a_failed_opening_is_closed_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Store._open
    monkeypatch.setattr(Store, "_open", lambda store: Rotten(sound(store)))

    def vague(*_: object, **__: object) -> None:
        raise RuntimeError("Aborted")  # as after a background error

    monkeypatch.setattr(store_module, "BatchPlaces", vague)
    with pytest.raises(DamagedStoreError, match="Aborted"):
        Store(tmp_path, StoreOptions(), refuse)


async def test_damage_met_while_a_store_begins_afresh_ends_the_process(tmp_path: Path) -> None:
    ended: list[BaseException] = []
    async with opened(tmp_path, fatal=ended.append) as storage:
        store = storage._store
        store._db = Rotten(store._db)
        store._is_broken = True
        with pytest.raises(StorageError, match="damaged"):
            store.reopen()
    assert len(ended) == 1
    assert why_condemned(tmp_path / "store")


async def test_a_log_whose_index_cannot_be_read_condemns_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    ended: list[BaseException] = []
    async with opened(tmp_path, fatal=ended.append) as storage:

        def rotten(*_: object) -> bytes:
            raise DamagedTableError("a table of the store is damaged")

        monkeypatch.setattr(storage._store, "get", rotten)
        with pytest.raises(DamagedTableError):
            storage.log(UID)
    assert len(ended) == 1
    async with opened(tmp_path) as storage:
        assert storage.recovered.lost_data


async def test_room_that_cannot_be_reclaimed_for_damage_condemns_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    ended: list[BaseException] = []
    async with opened(tmp_path, fatal=ended.append) as storage:

        def rotten(*_: object) -> list[tuple[bytes, bytes]]:
            raise DamagedTableError("a table of the store is damaged")

        storage.drop(UID)
        monkeypatch.setattr(storage._store, "scan", rotten)
        await until(lambda: bool(ended))
    async with opened(tmp_path) as storage:
        assert storage.recovered.lost_data

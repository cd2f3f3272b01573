"""Flipped bits are noticed: no reader is given a wrong batch, or told less without a word."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from odradek.controller.raft.filesystem import OsFileSystem
from odradek.controller.raft.interface import DataDirectoryError
from odradek.controller.raft.storage import open_storage
from odradek.node.storage import StorageOptions
from odradek.node.storage import storage as storage_module
from odradek.node.storage.store import Store
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.types import ControllerId
from tests.node.storage.batches import append_patiently, batch, opened, read_all
from tests.powerloss.bit_flips import (
    DEFAULT_OPTIONS,
    UIDS,
    VALUE_LOG_OPTIONS,
    Outcome,
    damaged,
    fill,
    flip,
    outcome_of,
    places_of,
)
from tests.powerloss.raft_program import command_at, options
from tests.powerloss.storage_program import value_at
from tests.powerloss.tracer import materialise, scan

FLIPS = 60
TABLES_MAX = 4  # RocksDB's level0_file_num_compaction_trigger


@pytest.mark.parametrize("options", [DEFAULT_OPTIONS, VALUE_LOG_OPTIONS], ids=["inline", "values"])
async def test_a_flipped_bit_anywhere_is_never_served(
    tmp_path: Path, options: StorageOptions
) -> None:
    right = await fill(tmp_path / "data", 120, options)
    tree = scan(tmp_path / "data")
    chance = random.Random(1)
    outcomes: Counter[Outcome] = Counter()
    for _ in range(FLIPS):
        changed, where = damaged(tree, chance)
        try:
            outcomes[await outcome_of(changed, tmp_path / "copy", right, options)] += 1
        except Exception as error:
            error.add_note(f"a bit of {where} was flipped")
            raise
    assert outcomes[Outcome.FOUND_BY_READER], "batches are most of what there is"


async def test_a_flipped_bit_found_while_tables_are_rewritten_keeps_no_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_compactions = Store._rocksdb_options

    def without_compactions(store: Store) -> object:
        options = with_compactions(store)
        options.set_disable_auto_compactions(True)
        return options

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_rocksdb_options", without_compactions)
        right = await fill(tmp_path / "data", 120, DEFAULT_OPTIONS)
    tree = scan(tmp_path / "data")
    tables = [path for path in tree if path.endswith(".sst")]
    assert len(tables) >= TABLES_MAX, "each opening begins to rewrite them"
    outcomes: Counter[Outcome] = Counter()
    for path in tables:
        content = tree[path] or b""
        for position in range(60, len(content), len(content) // 4):
            changed = tree | {path: flip(content, position, 0)}
            outcomes[await outcome_of(changed, tmp_path / "copy", right, DEFAULT_OPTIONS)] += 1
    assert outcomes[Outcome.FOUND_BY_READER]
    assert outcomes[Outcome.REPORTED_LOST], "what an opening asks for is among them"


async def test_a_flipped_bit_in_what_rocksdb_needs_to_open_is_reported_as_lost_data(
    tmp_path: Path,
) -> None:
    right = await fill(tmp_path / "data", 120, DEFAULT_OPTIONS)
    tree = scan(tmp_path / "data")
    chance = random.Random(1)
    files = [path for path in tree if Path(path).name.startswith(("CURRENT", "MANIFEST"))]
    assert len(files) == 2
    for path in files * 5:
        content = tree[path] or b""
        changed = flip(content, chance.randrange(len(content)), chance.randrange(8))
        outcome = await outcome_of(tree | {path: changed}, tmp_path / "copy", right)
        assert outcome is Outcome.REPORTED_LOST


async def test_a_flipped_bit_in_any_copy_of_a_batch_is_never_served(tmp_path: Path) -> None:
    right = await fill(tmp_path / "data", 120)
    tree = scan(tmp_path / "data")
    found: set[Outcome] = set()
    for uid in UIDS:
        for stored in right[uid][:: len(right[uid]) // 4]:
            for path, position in places_of(tree, stored[-40:]):
                changed = tree | {path: flip(tree[path] or b"", position + 20, 3)}
                found.add(await outcome_of(changed, tmp_path / "copy", right))
    assert Outcome.FOUND_BY_READER in found


async def test_a_flipped_bit_in_a_synced_log_of_the_store_is_reported_as_lost_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recovery stops at the damage, as at a torn tail: only the mark tells the two apart."""
    monkeypatch.setattr(storage_module, "_MARK_INTERVAL_S", 0)
    [uid, *_] = UIDS
    async with opened(tmp_path / "data") as storage:
        for base in range(20):
            data = batch(1, value=value_at(uid, 0, base, 100))
            await storage.group_commit.when_durable(await append_patiently(storage, uid, data))
        right = {each: await read_all(storage.log(each)) for each in UIDS}
        tree = scan(tmp_path / "data")  # as a kill leaves it
    assert await outcome_of(tree, tmp_path / "copy", right) is Outcome.HARMLESS
    for stored in right[uid]:
        [(path, position)] = places_of(tree, stored[-40:])
        changed = tree | {path: flip(tree[path] or b"", position + 20, 3)}
        assert await outcome_of(changed, tmp_path / "copy", right) is Outcome.REPORTED_LOST


async def test_a_bit_flipped_while_the_storage_runs_is_found_by_the_reader(tmp_path: Path) -> None:
    await fill(tmp_path, 120)
    async with opened(tmp_path, VALUE_LOG_OPTIONS) as storage:
        for name, position in places_of(scan(tmp_path), value_at(UIDS[0], 0, 0, 0)):
            with (tmp_path / name).open("r+b") as file:
                file.seek(position)
                byte = file.read(1)
                file.seek(position)
                file.write(flip(byte, 0, 0))
        with pytest.raises(CorruptMessageError, match="partition uid 0, offset 0"):
            await read_all(storage.log(UIDS[0]))
        for uid in UIDS[1:]:
            assert await read_all(storage.log(uid))


def test_a_flipped_bit_on_a_controllers_disk_is_refused(tmp_path: Path) -> None:
    """But for the last entry: nothing on the disk tells a rotten one from a torn one."""
    data, files = tmp_path / "data", OsFileSystem()
    files.make_directory(data)
    with ThreadPoolExecutor(1) as executor:
        storage = open_storage(files, options(data), executor, unique_number=1)
        storage.hard_state.vote(1, ControllerId(2))
        for index in range(2, 60):
            storage.journal.add(command_at(index, 1), index, 1)
            storage.journal.sync()
        tree = scan(data)
        last_bytes = len(command_at(59, 1)) + 64
        for path, content in tree.items():
            chance = random.Random(path)
            end = len(content or b"") - (last_bytes if path.endswith("journal") else 0)
            for _ in range(100):
                changed = flip(content or b"", chance.randrange(end), chance.randrange(8))
                materialise(tree | {path: changed}, tmp_path / "copy")
                with pytest.raises(DataDirectoryError):
                    open_storage(files, options(tmp_path / "copy"), executor, unique_number=2)

"""Damage: single bits of files turned over, and what a storage may answer then."""

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path

from odradek.node.storage import Storage, StorageOptions, StoreOptions
from odradek.node.storage.store import DamagedTableError
from odradek.protocol.errors import CorruptMessageError
from odradek.protocol.types import PartitionUid
from tests.node.storage.batches import append_patiently, batch, opened, read_all
from tests.powerloss.disk import Tree
from tests.powerloss.storage_program import value_at
from tests.powerloss.tracer import materialise

UIDS = tuple(map(PartitionUid, range(3)))
DEFAULT_OPTIONS = StorageOptions(
    reserve_bytes=1 << 20,
    tail_cache_bytes=0,  # every read is from the disk
    store=StoreOptions(memtable_bytes=64 << 10),
)
"""Batches written one by one lie in RocksDB: in its log, then in its tables."""
VALUE_LOG_OPTIONS = replace(
    DEFAULT_OPTIONS,
    store=StoreOptions(
        memtable_bytes=64 << 10,
        value_bytes_min=1 << 10,
        inline_bytes_max=0,
        segment_bytes=64 << 10,
    ),
)
_UNREAD_NAMES = ("LOG", "LOCK", "OPTIONS", "IDENTITY", "rocksdict-config")

Contents = Mapping[PartitionUid, list[bytes]]


class Outcome(Enum):
    """What became of the damage."""

    HARMLESS = auto()
    """Every batch is as it was: the byte was of no use to anybody."""
    REPORTED_LOST = auto()
    """The opening says that synced data is missing; what it holds is right."""
    CONDEMNED = auto()
    """The process ends; the next opening says that synced data is missing, and begins empty."""
    FOUND_BY_READER = auto()
    """A reader was told that a batch is damaged; all others are right."""


async def fill(
    directory: Path, batches: int, options: StorageOptions = VALUE_LOG_OPTIONS
) -> Contents:
    """Write batches of many sizes, large and small, and return them as they are stored."""
    chance = random.Random(0)
    async with opened(directory, options) as storage:
        for _ in range(batches):
            uid = chance.choice(UIDS)
            end = storage.log(uid).log_end_offset
            data = batch(2, value=value_at(uid, 0, end, chance.choice((20, 300, 3000, 9000))))
            await storage.group_commit.when_durable(await append_patiently(storage, uid, data))
        return {uid: await read_all(storage.log(uid)) for uid in UIDS}


def flip(content: bytes, position: int, bit: int) -> bytes:
    """Return bytes with one bit turned over."""
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def places_of(tree: Tree, word: bytes) -> list[tuple[str, int]]:
    """Return (path, position) of the first occurrence of some bytes in every file."""
    return [
        (path, content.index(word)) for path, content in tree.items() if content and word in content
    ]


def damaged(tree: Tree, chance: random.Random) -> tuple[Tree, str]:
    """Turn over one bit of one file that is read again; return the tree and where it was."""
    files = [
        path
        for path, content in tree.items()
        if content and not Path(path).name.startswith(_UNREAD_NAMES)
    ]
    path = chance.choice(files)
    content = tree[path] or b""
    position, bit = chance.randrange(len(content)), chance.randrange(8)
    return tree | {path: flip(content, position, bit)}, f"{path}, byte {position}, bit {bit}"


async def outcome_of(
    tree: Tree, directory: Path, right: Contents, options: StorageOptions = VALUE_LOG_OPTIONS
) -> Outcome:
    """Open a damaged storage and read everything.

    Raises:
        AssertionError: A reader got something wrong, or too little, without being told.
    """
    materialise(tree, directory)
    ended: list[str] = []  # no more of the errors: they would keep the store open
    outcome = Outcome.CONDEMNED
    async with opened(directory, options, lambda error: ended.append(str(error))) as storage:
        with suppress(DamagedTableError):
            outcome = await _outcome_of(storage, right)
    assert bool(ended) == (outcome is Outcome.CONDEMNED), ended
    if ended:
        async with opened(directory, options) as storage:
            assert storage.recovered.lost_data
    return outcome


async def _outcome_of(storage: Storage, right: Contents) -> Outcome:
    outcome = Outcome.REPORTED_LOST if storage.recovered.lost_data else Outcome.HARMLESS
    for uid in UIDS:
        log, expected = storage.log(uid), right[uid]
        try:
            found = await read_all(log)
        except CorruptMessageError:
            outcome = Outcome.FOUND_BY_READER
            continue
        if outcome is Outcome.REPORTED_LOST:
            expected = expected[: len(found)]
        assert len(found) == len(expected), f"{uid}: {len(found)} batches of {len(expected)}"
        assert found == expected, f"{uid}: a wrong batch was served"
    return outcome

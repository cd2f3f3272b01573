"""The store is atomic, ordered and recovers a prefix of what was written."""

import errno
import os
import struct
import time
from pathlib import Path

import pytest

from odradek.node.storage.keys import Kind, offset_range
from odradek.node.storage.store import Mutation, Store
from odradek.node.storage.store_options import StoreOptions
from odradek.protocol.errors import StorageError, StorageFullError, ThrottledError
from odradek.protocol.types import Offset, PartitionUid
from tests.node.storage.batches import copy_as_after_power_loss, refuse

OPTIONS = StoreOptions(memtable_bytes=4 << 20)


def put(store: Store, **values: bytes) -> None:
    mutation = Mutation()
    for key, value in values.items():
        mutation.put(key.encode(), value)
    store.write(mutation)


def put_numbered(store: Store, number: int) -> None:
    mutation = Mutation()
    mutation.put(b"k" + struct.pack(">I", number), struct.pack(">I", number) * 25)
    mutation.put(b"l" + struct.pack(">I", number), b"second half of the same mutation")
    store.write(mutation)


def put_patiently(store: Store, uid: int, base: int, value: bytes) -> None:
    """Store a batch; RocksDB refuses while its memtables are on their way to the disk."""
    deadline_s = time.monotonic() + 30
    while True:
        mutation = Mutation()
        mutation.put_batch(PartitionUid(uid), Offset(base), value)
        try:
            store.write(mutation)
        except ThrottledError:
            assert time.monotonic() < deadline_s, "RocksDB never took it"
            store.sync()
        else:
            return


def numbers(store: Store) -> list[int]:
    firsts = [struct.unpack(">I", key[1:])[0] for key, _ in store.scan(b"k", b"l")]
    seconds = [struct.unpack(">I", key[1:])[0] for key, _ in store.scan(b"l", b"m")]
    assert firsts == seconds, "mutations are atomic"
    return firsts


class RocksDbError(Exception):
    """As the library raises them: with a text only."""


class BrokenHandle:
    """RocksDB after a disk error: every write fails with a text."""

    def __init__(self, handle: object, text: str) -> None:
        self._handle = handle
        self._text = text

    def __getattr__(self, name: str) -> object:
        return getattr(self._handle, name)

    def write(self, *_: object) -> None:
        raise RocksDbError(self._text)

    flush_wal = close = write


def test_values_are_ordered_and_ranges_half_open(tmp_path: Path) -> None:
    store = Store(tmp_path, OPTIONS, refuse)
    put(store, b=b"2", a=b"1", d=b"4", c=b"3")
    assert store.scan(b"a", b"d") == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert store.scan(b"a", b"z", 2) == [(b"a", b"1"), (b"b", b"2")]
    assert store.last_before(b"d", b"c") == (b"c", b"3")
    assert store.last_before(b"d", b"b") is None
    assert store.last_before(b"a", b"a") is None
    assert store.get(b"d") == b"4"
    assert store.get(b"e") is None
    mutation = Mutation()
    mutation.delete_range(b"a", b"c")
    mutation.delete(b"d")
    store.write(mutation)
    assert store.scan(b"a", b"z") == [(b"c", b"3")]
    store.close()


def test_batches_are_read_in_order_whole_and_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, OPTIONS, refuse)
    uid = PartitionUid(5)
    for other in (4, 5, 6):
        for base in (0, 10, 20):
            mutation = Mutation()
            mutation.put_batch(PartitionUid(other), Offset(base), bytes([other, base]) * 1000)
            store.write(mutation)
    all_batches = [bytes([5, base]) * 1000 for base in (0, 10, 20)]
    end = Offset(100)
    assert store.read_batches(uid, Offset(0), end, 1 << 20) == all_batches
    assert store.read_batches(uid, Offset(5), end, 1 << 20) == all_batches[1:]
    assert store.read_batches(uid, Offset(0), end, 4000) == all_batches[:2]
    assert store.read_batches(uid, Offset(0), end, 1) == all_batches[:1]
    assert store.read_batches(uid, Offset(0), Offset(20), 1 << 20) == all_batches[:2]
    assert store.read_batches(uid, Offset(21), end, 1 << 20) == []
    mutation = Mutation()
    mutation.delete_batches(uid, Offset(10))
    store.write(mutation)
    assert store.read_batches(uid, Offset(0), end, 1 << 20) == all_batches[:1]
    assert store.scan(*offset_range(Kind.INDEX, uid)) == []
    store.close()


def newest_log(directory: Path) -> Path:
    return max(directory.glob("*.log"), key=lambda path: path.name)


def written_end(log: Path) -> int:
    return len(log.read_bytes().rstrip(b"\0"))


def test_a_torn_log_loses_only_its_end(tmp_path: Path) -> None:
    store = Store(tmp_path / "live", OPTIONS, refuse)
    for number in range(100):
        put_numbered(store, number)
    previous = 99
    for cut in (1, 50, 200, 5000):
        copy_as_after_power_loss(tmp_path / "live", tmp_path / f"cut-{cut}")
        log = newest_log(tmp_path / f"cut-{cut}")
        os.truncate(log, written_end(log) - cut)
        torn = Store(tmp_path / f"cut-{cut}", OPTIONS, refuse)
        found = numbers(torn)
        assert found == list(range(len(found))), "a prefix, no holes"
        assert len(found) <= previous - (cut > 200) * 20
        assert torn.sequence == 2 * len(found)
        previous = len(found)
        put_numbered(torn, 1000)
        torn.close()
        again = Store(tmp_path / f"cut-{cut}", OPTIONS, refuse)
        assert numbers(again) == [*found, 1000]
        again.close()
    store.close()


def test_a_flipped_bit_in_the_log_leaves_no_hole(tmp_path: Path) -> None:
    store = Store(tmp_path / "live", OPTIONS, refuse)
    for number in range(100):
        put_numbered(store, number)
    store.sync()
    sequence = store.sequence
    copy_as_after_power_loss(tmp_path / "live", tmp_path / "rotten")
    log = newest_log(tmp_path / "rotten")
    content = bytearray(log.read_bytes())
    content[written_end(log) // 2] ^= 0x04
    log.write_bytes(content)
    rotten = Store(tmp_path / "rotten", OPTIONS, refuse)
    found = numbers(rotten)
    assert found == list(range(len(found)))
    assert 30 < len(found) < 70
    assert rotten.sequence < sequence, "what the durable mark goes by"
    rotten.close()
    store.close()


def test_recycled_logs_bring_nothing_back(tmp_path: Path) -> None:
    """A log file that is used again still holds old records behind its end."""
    store = Store(tmp_path / "live", OPTIONS, refuse)
    value = os.urandom(60_000)
    for number in range(500):  # 30 MB through memtables of 4: logs are recycled many times
        put_patiently(store, 1, number, value)
    store.sync()
    copy_as_after_power_loss(tmp_path / "live", tmp_path / "copy")
    copy = Store(tmp_path / "copy", OPTIONS, refuse)
    assert len(copy.read_batches(PartitionUid(1), Offset(0), Offset(999), 1 << 30)) == 500
    assert copy.sequence == store.sequence
    copy.close()
    store.close()


def test_a_write_stall_is_throttling(tmp_path: Path) -> None:
    store = Store(tmp_path, OPTIONS, refuse)
    store._db = BrokenHandle(store._db, "Result incomplete: Write stall")
    with pytest.raises(ThrottledError):
        put(store, a=b"1")
    assert not store.is_broken
    store._db = store._db._handle
    store.close()


def test_a_disk_error_is_fatal(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    store = Store(tmp_path, OPTIONS, failures.append)
    store._db = BrokenHandle(store._db, "IO error: Input/output error: While appending")
    with pytest.raises(StorageError):
        put(store, a=b"1")
    with pytest.raises(StorageError):
        store.sync()
    assert len(failures) == 2
    store._db = store._db._handle
    store.close()


def test_no_room_for_what_was_taken_already_is_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel forgets which pages it could not write: the next sync succeeds."""
    failures: list[BaseException] = []
    store = Store(tmp_path, OPTIONS, failures.append)
    put_patiently(store, 1, 0, os.urandom(100_000))

    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", no_room)
        with pytest.raises(StorageError):
            store.sync()
    assert len(failures) == 1
    store.close()


def test_after_a_full_disk_reopening_keeps_everything(tmp_path: Path) -> None:
    store = Store(tmp_path, OPTIONS, refuse)
    put(store, a=b"1")
    store._db = BrokenHandle(store._db, "IO error: No space left on device: While appending")
    with pytest.raises(StorageFullError):
        put(store, b=b"2")
    assert store.is_broken
    assert store.get(b"a") == b"1", "reads go on"
    with pytest.raises(StorageFullError):
        put(store, c=b"3")
    store.reopen()
    assert not store.is_broken
    put(store, d=b"4")
    assert store.scan(b"a", b"z") == [(b"a", b"1"), (b"d", b"4")]
    store.close()


def test_reclaiming_gives_room_back(tmp_path: Path) -> None:
    store = Store(tmp_path, OPTIONS, refuse)
    value = os.urandom(100_000)
    for base in range(100):
        for uid in (1, 2):
            put_patiently(store, uid, base, value)
    store.reclaim()
    before = store.batch_bytes_on_disk
    assert before > 19_000_000
    mutation = Mutation()
    mutation.delete_batches(PartitionUid(1))
    store.write(mutation)
    store.reclaim()
    assert store.batch_bytes_on_disk < 0.6 * before
    assert len(store.read_batches(PartitionUid(2), Offset(0), Offset(1000), 1 << 30)) == 100
    store.close()

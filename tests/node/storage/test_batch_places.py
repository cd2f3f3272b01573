"""Batches are where the model says, and the accounts agree, through reclaiming and reopening."""

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odradek.node.storage.keys import Kind, kind_range
from odradek.node.storage.segments import LogPoint, Segment
from odradek.node.storage.store import Mutation, Store
from odradek.node.storage.store_options import StoreOptions
from odradek.node.storage.value_recovery import live_places
from odradek.protocol.errors import StorageFullError, ThrottledError
from odradek.protocol.types import Offset, PartitionUid
from tests.node.storage.batches import refuse

OPTIONS = StoreOptions(
    memtable_bytes=4 << 20, value_bytes_min=1000, inline_bytes_max=0, segment_bytes=20_000
)
UID = PartitionUid(1)
END = Offset(1 << 40)
ALL = 1 << 30


@pytest.fixture(autouse=True)
def _every_segment_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odradek.node.storage.segments._SIZE_MIN_BYTES", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, OPTIONS, refuse)
    yield store
    store.close()


def put(store: Store, uid: PartitionUid, base: int, batch: bytes) -> None:
    while True:
        mutation = Mutation()
        mutation.put_batch(uid, Offset(base), batch)
        try:
            return store.write(mutation)
        except ThrottledError:
            store.reclaim()


def files(directory: Path) -> list[Path]:
    return sorted((directory / "values").iterdir())


def settle(store: Store) -> None:
    for _ in range(100):
        if not store.batches.has_garbage:
            return
        store.reclaim()
    raise AssertionError("reclaiming never comes to an end")


class Model:
    """What a store should hold."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.batches: dict[PartitionUid, dict[int, bytes]] = {}
        self.ends: Counter[PartitionUid] = Counter()
        self.store = Store(directory, OPTIONS, refuse)

    def append(self, uid: PartitionUid, size_bytes: int) -> None:
        base = self.ends[uid]
        batch = os.urandom(size_bytes)
        put(self.store, uid, base, batch)
        self.batches.setdefault(uid, {})[base] = batch
        self.ends[uid] = base + 1 + size_bytes % 3

    def truncate(self, uid: PartitionUid, back: int) -> None:
        end = Offset(max(0, self.ends[uid] - back))
        mutation = Mutation()
        mutation.delete_batches(uid, end)
        self.store.write(mutation)
        self.batches[uid] = {b: v for b, v in self.batches.get(uid, {}).items() if b < end}
        self.ends[uid] = end

    def advance(self, uid: PartitionUid, back: int) -> None:
        start = Offset(max(0, self.ends[uid] - back))
        mutation = Mutation()
        mutation.release_batches(uid, start)
        self.store.write(mutation)
        self.batches[uid] = {b: v for b, v in self.batches.get(uid, {}).items() if b >= start}

    def drop(self, uid: PartitionUid) -> None:
        mutation = Mutation()
        mutation.release_batches(uid)
        self.store.write(mutation)
        self.batches.pop(uid, None)
        del self.ends[uid]  # a replica may come back, and begins empty

    def replace(self, uid: PartitionUid, size_bytes: int) -> None:
        bases = list(self.batches.get(uid, {}))
        if bases:
            base = Offset(bases[size_bytes % len(bases)])
            batch = os.urandom(size_bytes)
            mutation = Mutation()
            mutation.delete_batches(uid, base, Offset(base + 1))
            mutation.put_batch(uid, base, batch)
            self.store.write(mutation)
            self.batches[uid][base] = batch

    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.directory, OPTIONS, refuse, LogPoint(0, 0))
        assert not self.store.batches.torn
        assert not self.store.batches.is_missing

    def check(self) -> None:
        for uid, batches in self.batches.items():
            if batches:  # else there may be released ones, which nobody asks for
                begin = Offset(min(batches))
                assert self.store.read_batches(uid, begin, END, ALL) == list(batches.values())
        rows = {
            int.from_bytes(key[1:], "big"): Segment.unpack(row)
            for key, row in self.store.scan(*kind_range(Kind.SEGMENT))
        }
        segments = self.store.batches._segments
        for number, segment in segments._segments.items():
            places = live_places(self.store, number)
            assert segment.live_bytes == sum(place.size_bytes for _, _, place in places)
            assert rows.get(number, segment) == segment, "a row is never stale"

    def check_room(self) -> None:
        """After everything was reclaimed at most half of the disk's bytes are garbage."""
        settle(self.store)
        self.check()
        for uid in map(PartitionUid, (1, 2, 3)):
            found = self.store.read_batches(uid, Offset(0), END, ALL)
            assert found == list(self.batches.get(uid, {}).values()), "nothing released is left"
        live = sum(
            len(batch)
            for batches in self.batches.values()
            for batch in batches.values()
            if len(batch) >= OPTIONS.value_bytes_min
        )
        on_disk = sum(path.stat().st_size for path in files(self.directory))
        assert on_disk <= 2 * live + OPTIONS.segment_bytes


uids = st.sampled_from([PartitionUid(uid) for uid in (1, 2, 3)])
actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), uids, st.integers(100, 9000)),
        st.tuples(st.just("append"), uids, st.integers(3000, 9000)),
        st.tuples(st.just("truncate"), uids, st.integers(0, 6)),
        st.tuples(st.just("advance"), uids, st.integers(0, 6)),
        st.tuples(st.just("replace"), uids, st.integers(100, 9000)),
        st.tuples(st.just("drop"), uids, st.just(0)),
        st.tuples(st.just("reclaim"), uids, st.just(0)),
        st.tuples(st.just("reopen"), uids, st.just(0)),
    ),
    min_size=10,
    max_size=40,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=actions)
def test_a_store_holds_what_the_model_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, PartitionUid, int]]
) -> None:
    model = Model(tmp_path_factory.mktemp("store"))
    for action, uid, argument in steps:
        match action:
            case "reclaim":
                model.store.reclaim()
            case "reopen":
                model.reopen()
            case "drop":
                model.drop(uid)
            case _:
                getattr(model, action)(uid, argument)
        model.check()
    model.check_room()
    model.reopen()
    model.check_room()
    model.store.close()


def test_small_batches_lie_beside_their_entries(store: Store, tmp_path: Path) -> None:
    put(store, UID, 0, bytes(999))
    assert files(tmp_path) == []
    put(store, UID, 1, bytes(1000))
    assert [path.stat().st_size for path in files(tmp_path)] == [1000]
    assert store.read_batches(UID, Offset(0), END, ALL) == [bytes(999), bytes(1000)]


def test_a_trickle_needs_one_fsync_and_a_flood_one_copy(tmp_path: Path) -> None:
    store = Store(tmp_path, StoreOptions(inline_bytes_max=50_000), refuse)
    for base in range(5):
        put(store, UID, base, bytes(20_000))
        store.sync()
    assert files(tmp_path) == []
    for base in range(5, 10):  # one commit
        put(store, UID, base, bytes(20_000))
    assert [path.stat().st_size for path in files(tmp_path)] == [60_000]
    store.sync()
    put(store, UID, 10, bytes(20_000))
    put(store, UID, 11, bytes(60_000))
    assert [path.stat().st_size for path in files(tmp_path)] == [120_000]
    assert list(map(len, store.read_batches(UID, Offset(0), END, ALL))) == [20_000] * 11 + [60_000]
    store.close()


class _SyncedMeanwhile(list[tuple[PartitionUid, Offset, bytes]]):
    """Batches of a mutation; the group commit syncs whenever somebody looks at them."""

    store: Store

    def __iter__(self) -> Iterator[tuple[PartitionUid, Offset, bytes]]:
        self.store.sync()
        return super().__iter__()


def test_a_sync_at_the_same_time_does_not_make_a_flood_a_trickle(tmp_path: Path) -> None:
    store = Store(tmp_path, StoreOptions(inline_bytes_max=50_000), refuse)
    mutation = Mutation()
    mutation.batches = _SyncedMeanwhile([(UID, Offset(0), bytes(60_000))])
    mutation.batches.store = store
    store.write(mutation)
    assert [path.stat().st_size for path in files(tmp_path)] == [60_000]
    store.close()


def test_a_dropped_partition_that_comes_back_begins_empty(store: Store) -> None:
    for base in range(300):
        put(store, UID, base, bytes(1500))
    mutation = Mutation()
    mutation.release_batches(UID)
    store.write(mutation)
    refusals = 0
    while True:
        mutation = Mutation()
        mutation.put_batch(UID, Offset(0), b"new")
        try:
            store.write(mutation)
        except ThrottledError:
            refusals += 1
            continue
        break
    assert refusals == 2, "each attempt removes some of the old ones"
    settle(store)
    assert store.read_batches(UID, Offset(0), END, ALL) == [b"new"]


def test_readers_find_what_is_moved_under_them(store: Store) -> None:
    """A thread reads all the while; neither moving nor unlinking disturbs it."""
    batches = {base: os.urandom(4000) for base in range(0, 200, 2)}
    for base in range(200):
        put(store, UID, base, batches.get(base, bytes(4000)))
    failures: list[BaseException] = []
    stop, reads = threading.Event(), 0

    def read() -> None:
        nonlocal reads
        try:
            while not stop.is_set():
                for base, batch in batches.items():
                    found = store.read_batches(UID, Offset(base), Offset(base + 1), ALL)
                    assert found == [batch]
                    reads += 1
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    numbers = set(store.batches._segments._segments)
    for base in range(1, 200, 2):
        mutation = Mutation()
        mutation.delete_batches(UID, Offset(base), Offset(base + 1))
        store.write(mutation)
        store.reclaim(0.3)
    settle(store)
    stop.set()
    reader.join(30)
    assert failures == []
    assert reads > 0
    assert numbers.isdisjoint(set(store.batches._segments._segments) - {max(numbers)})
    assert store.read_batches(UID, Offset(0), END, ALL) == list(batches.values())


def test_a_damaged_value_stays_where_it_is(store: Store, tmp_path: Path) -> None:
    for base in range(4):
        put(store, UID, base, bytes([base]) * 4000)
    store.batches._values.seal()
    (segment,) = files(tmp_path)
    content = bytearray(segment.read_bytes())
    content[13_000] ^= 1
    segment.write_bytes(content)
    mutation = Mutation()
    mutation.delete_batches(UID, Offset(0), Offset(2))
    store.write(mutation)
    settle(store)
    assert segment.exists(), "it holds the only copy, such as it is"
    assert store.read_batches(UID, Offset(2), Offset(3), ALL) == [bytes([2]) * 4000]


def test_a_full_value_log_refuses_without_a_trace(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, UID, 0, bytes(4000))

    def refuse_to_write(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse_to_write)
        with pytest.raises(StorageFullError):
            put(store, UID, 1, bytes(4000))
    assert store.is_broken
    assert store.read_batches(UID, Offset(0), END, ALL) == [bytes(4000)]
    with pytest.raises(StorageFullError):
        put(store, UID, 1, b"small")
    store.reopen()
    put(store, UID, 1, bytes([1]) * 4000)
    assert store.read_batches(UID, Offset(1), END, ALL) == [bytes([1]) * 4000]


def test_a_refused_write_is_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, UID, 0, bytes(4000))
    end = store.batches.end

    def stall(_: Mutation) -> None:
        raise ThrottledError

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write", stall)
        for size_bytes in (4000, 19_000):  # the second begins a segment
            mutation = Mutation()
            mutation.put_batch(UID, Offset(1), bytes(size_bytes))
            with pytest.raises(ThrottledError):
                store.write(mutation)
            assert store.batches.end in (end, LogPoint(end.segment + 1, 0))
    put(store, UID, 1, b"x" * 4000)
    assert store.read_batches(UID, Offset(0), END, ALL) == [bytes(4000), b"x" * 4000]
    store.reclaim()
    assert store.batches._segments[end.segment].live_bytes == 4000

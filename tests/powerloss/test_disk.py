"""The model of what a power cut leaves: never less than what was synced, and everything it may."""

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.powerloss.disk import PAGE_BYTES, Disk, Tree
from tests.powerloss.operations import (
    Closed,
    MadeDirectory,
    Opened,
    Operation,
    Renamed,
    SyncBegan,
    SyncEnded,
    Truncated,
    Unlinked,
    Wrote,
)

FD, OTHER_FD, ROOT_FD = 3, 4, 5
SYNC_FILE: tuple[Operation, ...] = (SyncBegan(FD, 1), SyncEnded(1, succeeded=True))
SYNC_ROOT: tuple[Operation, ...] = (
    Opened(ROOT_FD, ""),
    SyncBegan(ROOT_FD, 2),
    SyncEnded(2, succeeded=True),
)


def cuts(before: Tree, operations: Iterable[Operation], count: int = 400) -> list[Tree]:
    disk = Disk(before)
    disk.apply_all(operations)
    return [disk.cut(random.Random(seed)) for seed in range(count)]


def contents(before: Tree, *operations: Operation) -> set[bytes | None]:
    """Return what may be left of file `a`; None: nothing."""
    return {tree.get("a") for tree in cuts(before, operations)}


def test_what_was_synced_with_its_name_is_left() -> None:
    written: list[Operation] = [Opened(FD, "a"), Wrote(FD, 0, b"kept"), *SYNC_FILE, *SYNC_ROOT]
    assert contents({}, *written) == {b"kept"}


def test_a_name_that_was_not_synced_may_be_lost() -> None:
    written: list[Operation] = [Opened(FD, "a"), Wrote(FD, 0, b"kept"), *SYNC_FILE]
    assert contents({}, *written) == {None, b"kept"}


def test_a_file_whose_directory_is_lost_is_lost() -> None:
    written: list[Operation] = [
        MadeDirectory("d"),
        Opened(FD, "d/a"),
        Wrote(FD, 0, b"kept"),
        *SYNC_FILE,
        Opened(ROOT_FD, "d"),
        SyncBegan(ROOT_FD, 2),
        SyncEnded(2, succeeded=True),
    ]
    assert {tree.get("d/a") for tree in cuts({}, written)} == {None, b"kept"}
    assert {tree.get("d/a") for tree in cuts({}, [*written, *SYNC_ROOT])} == {b"kept"}


def test_an_unsynced_append_is_absent_torn_zeroed_or_there() -> None:
    found = contents({"a": b"old."}, Opened(FD, "a"), Wrote(FD, 4, b"new"))
    assert found == {b"old.", b"old.n", b"old.ne", b"old.new", b"old.\0\0\0"}


def test_any_page_may_be_missing_in_the_middle() -> None:
    new = b"".join(bytes((1 + page,)) * PAGE_BYTES for page in range(3))
    found = contents({"a": b""}, Opened(FD, "a"), Wrote(FD, 0, new))
    without_second = new[:PAGE_BYTES] + bytes(PAGE_BYTES) + new[2 * PAGE_BYTES :]
    assert without_second in found


def test_an_overwritten_file_may_show_its_older_contents() -> None:
    old = b"o" * 3 * PAGE_BYTES
    found = contents({"a": old}, Opened(FD, "a"), Wrote(FD, 0, b"n" * 2 * PAGE_BYTES))
    assert old in found
    assert b"o" * PAGE_BYTES + b"n" * PAGE_BYTES + b"o" * PAGE_BYTES in found


def test_one_file_may_be_torn_and_a_later_one_intact() -> None:
    written: list[Operation] = [
        Opened(FD, "a"),
        Opened(OTHER_FD, "b"),
        *SYNC_ROOT,
        Wrote(FD, 0, b"first"),
        Wrote(OTHER_FD, 0, b"second"),
    ]
    assert (b"fi", b"second") in {(tree["a"], tree["b"]) for tree in cuts({}, written, 2000)}


def test_what_is_written_while_a_sync_runs_is_not_covered() -> None:
    written: list[Operation] = [
        Opened(FD, "a"),
        SyncBegan(FD, 1),
        Wrote(FD, 0, b"late"),
        SyncEnded(1, succeeded=True),
    ]
    assert b"" in contents({"a": b""}, *written)


@pytest.mark.parametrize("ended", [[], [SyncEnded(1, succeeded=False)]])
def test_a_sync_that_did_not_return_or_failed_covers_nothing(ended: list[Operation]) -> None:
    assert b"" in contents(
        {"a": b""}, Opened(FD, "a"), Wrote(FD, 0, b"x"), SyncBegan(FD, 1), *ended
    )


def test_a_truncation_is_a_barrier() -> None:
    written: list[Operation] = [Opened(FD, "a"), Truncated(FD, 2), Wrote(FD, 2, b"!")]
    assert contents({"a": b"long"}, *written) == {b"long", b"lo", b"lo!", b"lo\0"}


def test_a_rename_is_atomic_and_lost_unless_the_directory_is_synced() -> None:
    replaced: list[Operation] = [
        Opened(FD, "t"),
        Wrote(FD, 0, b"new"),
        *SYNC_FILE,
        Closed(FD),
        Renamed("t", "a"),
    ]
    assert contents({"a": b"old"}, *replaced) == {b"old", b"new"}
    assert contents({"a": b"old"}, *replaced, *SYNC_ROOT) == {b"new"}


def test_a_rename_before_the_sync_of_the_file_may_leave_it_empty() -> None:
    replaced: list[Operation] = [
        Opened(FD, "t"),
        Wrote(FD, 0, b"new"),
        Renamed("t", "a"),
        *SYNC_ROOT,
    ]
    assert b"" in contents({"a": b"old"}, *replaced)


def test_a_deleted_file_may_come_back() -> None:
    assert contents({"a": b"old"}, Unlinked("a")) == {None, b"old"}
    assert contents({"a": b"old"}, Unlinked("a"), *SYNC_ROOT) == {None}


def test_changes_of_names_may_survive_out_of_order() -> None:
    changed: list[Operation] = [Unlinked("a"), Unlinked("b")]
    left = {tuple(sorted(tree)) for tree in cuts({"a": b"", "b": b""}, changed)}
    assert left == {("a", "b"), ("a",), ("b",), ()}


def test_a_cut_changes_nothing_in_the_model() -> None:
    disk = Disk({})
    disk.apply_all([Opened(FD, "a"), Wrote(FD, 0, b"content")])
    for seed in range(20):
        disk.cut(random.Random(seed))
    assert disk.current() == {"a": b"content"}


WRITES = st.tuples(st.integers(0, 30), st.binary(min_size=1, max_size=10))


@given(st.lists(WRITES), st.lists(WRITES), st.integers())
def test_synced_bytes_survive_whatever_follows(
    synced: list[tuple[int, bytes]], later: list[tuple[int, bytes]], seed: int
) -> None:
    disk = Disk({})
    disk.apply_all([Opened(FD, "a"), *(Wrote(FD, *write) for write in synced)])
    disk.apply_all([*SYNC_FILE, *SYNC_ROOT])
    durable = disk.read("a") or b""
    disk.apply_all(Wrote(FD, *write) for write in later)
    written = {offset + i for offset, data in later for i in range(len(data))}
    left = disk.cut(random.Random(seed))["a"] or b""
    assert all(left[at] == byte for at, byte in enumerate(durable) if at not in written)

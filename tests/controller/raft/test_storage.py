"""Opening a data directory: what is accepted, repaired and refused; what a crash leaves."""

import random
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.controller.raft.filesystem import DirectoryLock, File, OsFileSystem
from odradek.controller.raft.hard_state import HardState, HardStateFile
from odradek.controller.raft.interface import DataDirectoryError, RaftOptions
from odradek.controller.raft.journal import MARK_AFTER_S, Journal
from odradek.controller.raft.messages import NO_OP, Entry
from odradek.controller.raft.snapshots import Snapshot, encode_snapshot
from odradek.controller.raft.storage import Storage, open_storage
from odradek.protocol.errors import InconsistentClusterIdError
from odradek.protocol.types import ControllerId
from tests.simulation.raft.cluster import DelayedExecutor
from tests.simulation.raft.disk import PowerLossError, SimulatedDisk

ME = ControllerId(1)


def options(directory: Path, **changes: Any) -> RaftOptions:
    fields = {"cluster_id": "c", "self_id": ME, "data_directory": directory, **changes}
    return RaftOptions(**fields)


def open_at(directory: Path, **changes: Any) -> Storage:
    executor: Executor = DelayedExecutor()
    return open_storage(OsFileSystem(), options(directory, **changes), executor, unique_number=7)


def filled(directory: Path, count: int = 20) -> Storage:
    storage = open_at(directory, bootstrap=True)
    for index in range(2, 2 + count):
        storage.journal.add(b"\x00command %d" % index, index, 1)
        storage.journal.sync()
    storage.hard_state.vote(3, ME)
    return storage


def test_an_empty_directory_is_refused_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="bootstrap"):
        open_at(tmp_path)


def test_term_vote_and_entries_survive(tmp_path: Path) -> None:
    before = filled(tmp_path).journal[:]
    storage = open_at(tmp_path)
    assert storage.journal[:] == before
    assert (storage.hard_state.state.term, storage.hard_state.state.voted_for) == (3, ME)
    assert storage.journal.durable_index == storage.journal.last_index == 21


def test_every_start_has_a_greater_incarnation(tmp_path: Path) -> None:
    first = open_at(tmp_path, bootstrap=True).hard_state.state.incarnation
    assert open_at(tmp_path).hard_state.state.incarnation > first


@pytest.mark.parametrize("name", ["raft.state", "raft.journal"])
def test_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    (tmp_path / name).unlink()
    for flags in ({}, {"bootstrap": True}, {"rejoin": True}):
        with pytest.raises(DataDirectoryError, match=name):
            open_at(tmp_path, **flags)


@pytest.mark.parametrize("size", [0, 3, 10])
def test_a_corrupt_hard_state_is_refused(tmp_path: Path, size: int) -> None:
    filled(tmp_path)
    content = (tmp_path / "raft.state").read_bytes()
    (tmp_path / "raft.state").write_bytes(content[:size])
    with pytest.raises(DataDirectoryError, match="corrupt"):
        open_at(tmp_path)


def test_another_clusters_directory_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(InconsistentClusterIdError, match="'c'"):
        open_at(tmp_path, cluster_id="d")
    with pytest.raises(InconsistentClusterIdError):
        open_at(tmp_path, self_id=ControllerId(2))


def test_a_torn_tail_is_cut_off(tmp_path: Path) -> None:
    before = filled(tmp_path).journal[:]
    path = tmp_path / "raft.journal"
    path.write_bytes(path.read_bytes()[:-5])
    assert open_at(tmp_path).journal[:] == before[:-1]


def test_damage_before_the_tail_is_refused(tmp_path: Path) -> None:
    """The entry was synced, perhaps acknowledged: it must not vanish in silence."""
    filled(tmp_path)
    path = tmp_path / "raft.journal"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataDirectoryError, match="damaged"):
        open_at(tmp_path)


def flip_last_entry(directory: Path) -> None:
    path = directory / "raft.journal"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damage_to_the_last_entry_is_refused_once_the_log_was_quiet(tmp_path: Path) -> None:
    """Nothing after it says that it was on disk; the mark does."""
    journal = filled(tmp_path).journal
    journal.mark_when_quiet(10.0)
    journal.mark_when_quiet(10.0 + MARK_AFTER_S)
    flip_last_entry(tmp_path)
    with pytest.raises(DataDirectoryError, match=r"entry 21 was on disk.* start with rejoin"):
        open_at(tmp_path)


def test_damage_to_the_last_entry_is_refused_after_a_clean_stop(tmp_path: Path) -> None:
    filled(tmp_path).journal._destroy()
    flip_last_entry(tmp_path)
    with pytest.raises(DataDirectoryError, match="entry 21 was on disk"):
        open_at(tmp_path)


def test_a_journal_cut_short_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).journal._destroy()
    path = tmp_path / "raft.journal"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataDirectoryError, match="was on disk"):
        open_at(tmp_path)


def test_a_corrupt_mark_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).journal._destroy()
    path = tmp_path / "raft.journal.mark"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataDirectoryError, match=r"raft\.journal\.mark is corrupt"):
        open_at(tmp_path)


def test_the_mark_falls_before_the_log_does(tmp_path: Path) -> None:
    journal = filled(tmp_path).journal
    journal._mark(journal.durable_index)
    journal.truncate_from(15)
    assert open_at(tmp_path).journal.last_index == 14


def test_a_log_replaced_by_a_snapshot_may_end_before_the_mark(tmp_path: Path) -> None:
    journal = filled(tmp_path).journal
    journal._mark(journal.durable_index)
    journal.rebase(18, 2)
    assert journal._marked == journal.last_index == 18


def test_a_busy_log_and_one_at_rest_cost_no_marks(tmp_path: Path) -> None:
    files = CountingFiles()
    journal = journal_on(files, tmp_path)
    journal.mark_when_quiet(0.0)
    journal.mark_when_quiet(MARK_AFTER_S)
    before = files.syncs
    for step in range(2, 50):
        journal.add(b"\x00", step, 1)
        journal.sync()
        journal.mark_when_quiet(step * MARK_AFTER_S / 2)
    assert files.syncs == before + 48
    journal.mark_when_quiet(100.0)
    marked = files.syncs
    for step in range(50):
        journal.mark_when_quiet(101.0 + step)
    assert files.syncs == marked


def test_a_corrupt_snapshot_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    content = bytearray(encode_snapshot(Snapshot(5, 1, b"state")))
    content[-1] ^= 1
    (tmp_path / "raft.snapshot").write_bytes(content)
    with pytest.raises(DataDirectoryError, match="snapshot"):
        open_at(tmp_path)


def test_a_snapshot_inside_the_journal_keeps_the_suffix(tmp_path: Path) -> None:
    """A crash between the snapshot's rename and the journal's compaction."""
    before = filled(tmp_path).journal[:]
    (tmp_path / "raft.snapshot").write_bytes(encode_snapshot(Snapshot(10, 1, b"state")))
    storage = open_at(tmp_path)
    assert storage.journal[:] == before
    assert storage.journal.getRaftCommitIndex() == 10


@pytest.mark.parametrize(("index", "term"), [(100, 4), (10, 2)])
def test_a_snapshot_the_journal_disagrees_with_replaces_it(
    tmp_path: Path, index: int, term: int
) -> None:
    """A crash between the installation of a leader's snapshot and the journal's new base."""
    filled(tmp_path)
    (tmp_path / "raft.snapshot").write_bytes(encode_snapshot(Snapshot(index, term, b"state")))
    assert open_at(tmp_path).journal[:] == [Entry(NO_OP, index, term)]


def test_a_journal_that_begins_after_its_snapshot_is_refused(tmp_path: Path) -> None:
    storage = filled(tmp_path)
    storage.journal.setRaftCommitIndex(15)
    storage.journal.drop_before(10)
    with pytest.raises(DataDirectoryError, match="no snapshot"):
        open_at(tmp_path)
    (tmp_path / "raft.snapshot").write_bytes(encode_snapshot(Snapshot(9, 1, b"state")))
    with pytest.raises(DataDirectoryError, match="after the snapshot"):
        open_at(tmp_path)


def test_a_replaced_disk_has_no_vote_over_restarts(tmp_path: Path) -> None:
    nonce = open_at(tmp_path, rejoin=True).hard_state.state.rejoin_nonce
    assert nonce
    storage = open_at(tmp_path, rejoin=True)
    assert storage.hard_state.state.rejoin_nonce == nonce
    storage.hard_state.become_voter()
    assert open_at(tmp_path, rejoin=True).hard_state.state.rejoin_nonce == 0


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    with pytest.raises(DataDirectoryError, match="in use"):
        DirectoryLock(tmp_path)
    lock.release()
    DirectoryLock(tmp_path).release()


class CountingFiles(OsFileSystem):
    """Counts and, on demand, fails synchronisations."""

    def __init__(self) -> None:
        self.syncs = 0
        self.fails = False

    def open(self, path: Path) -> File:
        file = super().open(path)
        real = file.sync

        def sync() -> None:
            self.syncs += 1
            if self.fails:
                raise OSError(5, "input/output error")
            real()

        file.sync = sync  # type: ignore[method-assign]
        return file


def journal_on(files: CountingFiles, directory: Path) -> Journal:
    state = HardState(cluster_id="c", controller_id=ME, controller_ids=frozenset({ME}))
    hard_state = HardStateFile(files, directory / "raft.state", state)
    journal = Journal(files, directory / "raft.journal", hard_state)
    journal.add(NO_OP, 1, 0)
    journal.sync()
    return journal


def test_many_entries_share_one_fdatasync(tmp_path: Path) -> None:
    files = CountingFiles()
    journal = journal_on(files, tmp_path)
    before = files.syncs
    for index in range(2, 1002):
        journal.add(b"\x00", index, 1)
    journal.sync()
    journal.sync()
    assert files.syncs == before + 1


def test_commitment_waits_for_this_disk(tmp_path: Path) -> None:
    files = CountingFiles()
    journal = journal_on(files, tmp_path)
    journal.add(b"\x00", 2, 1)
    assert journal.durable_index == 1
    journal.setRaftCommitIndex(2)
    assert journal.durable_index == 2
    files.fails = True
    journal.add(b"\x00", 3, 1)
    with pytest.raises(OSError, match="input/output"):
        journal.setRaftCommitIndex(3)
    assert journal.durable_index == 2


def test_a_vote_is_on_disk_when_it_is_cast(tmp_path: Path) -> None:
    files = CountingFiles()
    journal = journal_on(files, tmp_path)
    before = files.syncs
    journal.setCurrentTerm(5, ME)
    assert files.syncs > before
    loaded = HardStateFile.load(
        files,
        tmp_path / "raft.state",
        cluster_id="c",
        controller_id=ME,
        controller_ids=frozenset({ME}),
    ).state
    assert (loaded.term, loaded.voted_for) == (5, ME)


def test_a_second_vote_in_a_term_is_a_broken_invariant(tmp_path: Path) -> None:
    journal = journal_on(CountingFiles(), tmp_path)
    journal.setCurrentTerm(5, ME)
    with pytest.raises(AssertionError, match="one vote"):
        journal.setCurrentTerm(5, ControllerId(2))
    with pytest.raises(AssertionError, match="terms never fall"):
        journal.setCurrentTerm(4, None)


def test_committed_entries_are_never_truncated(tmp_path: Path) -> None:
    journal = journal_on(CountingFiles(), tmp_path)
    journal.add(b"\x00", 2, 1)
    journal.setRaftCommitIndex(2)
    with pytest.raises(AssertionError, match="never truncated"):
        journal.truncate_from(2)


JOURNAL_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "sync", "truncate", "drop"]), st.integers(1, 5)),
    max_size=40,
)


@given(steps=JOURNAL_STEPS, fuse=st.integers(1, 60), seed=st.integers(0, 1000))
def test_what_was_synced_survives_a_power_loss_anywhere(
    steps: list[tuple[str, int]], fuse: int, seed: int
) -> None:
    """The journal reopens with every durable entry, in order, and nothing that never was."""
    disk = SimulatedDisk(random.Random(seed))
    path = Path("/raft")
    where = options(path, bootstrap=True)
    storage = open_storage(disk, where, DelayedExecutor(), unique_number=1)
    journal = storage.journal
    term = 1
    durable = journal[:]
    possible = {entry.log_index: {entry} for entry in durable}
    disk.fuse = fuse
    try:
        for now_s, (step, amount) in enumerate(steps):
            journal.mark_when_quiet(now_s)
            match step:
                case "add":
                    for _ in range(amount):
                        entry = Entry(b"\x00%d" % term, journal.last_index + 1, term)
                        possible.setdefault(entry.log_index, set()).add(entry)
                        journal.add(*entry)
                case "sync":
                    journal.sync()
                    durable = journal[:]
                case "truncate":
                    term += 1
                    start = journal.last_index + 1 - amount
                    if start <= max(journal.first_index, storage.snapshots.index):
                        continue
                    # Durable entries from here on may or may not survive.
                    durable = [entry for entry in durable if entry.log_index < start]
                    journal.truncate_from(start)
                    durable = journal[:]
                case "drop":
                    index = journal.durable_index - amount
                    entry_term = journal.term_at(index)
                    if entry_term is None or index <= storage.snapshots.index:
                        continue
                    snapshot = Snapshot(index, entry_term, b"")
                    storage.snapshots.install(snapshot, encode_snapshot(snapshot))
                    journal.setRaftCommitIndex(index)
                    journal.drop_before(index)
    except PowerLossError:
        pass
    disk.lose_power()
    reopened = open_storage(disk, where, DelayedExecutor(), unique_number=2).journal[:]
    base = reopened[0].log_index
    kept = [entry for entry in durable if entry.log_index > base]
    assert reopened[1 : len(kept) + 1] == kept
    assert all(entry in possible[entry.log_index] for entry in reopened[1:])

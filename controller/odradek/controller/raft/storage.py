"""Opening a data directory: three files that must agree, or the controller does not start.

Problem: pysyncobj starts empty whenever it cannot read something, and an empty controller votes.
Idea: every combination of files has one meaning, decided here. The hard state is created last, so
its presence says that this directory took part once and must be complete. A new directory has no
vote (see `founding`), unless its controller is the only one.

Invariants after opening: journal base <= snapshot index <= last index; if there is no snapshot the
journal begins with the genesis.
"""

from concurrent.futures import Executor
from dataclasses import dataclass, replace

from odradek.controller.raft.filesystem import FileSystem, temporary
from odradek.controller.raft.hard_state import HardState, HardStateFile
from odradek.controller.raft.interface import DataDirectoryError, RaftOptions
from odradek.controller.raft.journal import GENESIS, Journal
from odradek.controller.raft.snapshots import Snapshot, SnapshotStore


@dataclass(frozen=True, slots=True)
class Storage:
    """The open files of one controller."""

    hard_state: HardStateFile
    journal: Journal
    snapshots: SnapshotStore
    snapshot: Snapshot | None  # to restore the state machine from


def open_storage(
    files: FileSystem, options: RaftOptions, executor: Executor, *, unique_number: int
) -> Storage:
    """Open, and if asked for create, the data directory.

    Args:
        files: The disk.
        options: Identity, directory, and what to do if it is empty.
        executor: Writes snapshots.
        unique_number: Greater than any given before, in practice nanoseconds of the wall clock:
            seeds the incarnation, and names a fresh disk.

    Raises:
        DataDirectoryError: It is empty without leave, incomplete or corrupt.
        InconsistentClusterIdError: It belongs to another cluster or controller, or to one among
            others.
    """
    directory = options.data_directory
    state_path = directory / "raft.state"
    journal_path = directory / "raft.journal"
    snapshot_path = directory / "raft.snapshot"
    mark_path = directory / "raft.journal.mark"
    for path in (state_path, journal_path, mark_path, snapshot_path):
        files.remove(temporary(path))
    controller_ids = frozenset({options.self_id, *options.peers})
    is_new = not files.exists(state_path)
    had_journal = files.exists(journal_path)
    if is_new:
        if not had_journal and not (options.bootstrap or options.rejoin):
            raise _unasked(options)
        state = HardState(
            cluster_id=options.cluster_id,
            controller_id=options.self_id,
            controller_ids=controller_ids,
        )
        hard_state = HardStateFile(files, state_path, state)
    else:
        hard_state = HardStateFile.load(
            files,
            state_path,
            cluster_id=options.cluster_id,
            controller_id=options.self_id,
            controller_ids=controller_ids,
        )
        if not had_journal:
            raise DataDirectoryError("raft.journal is missing", field="raft.journal")
    snapshots = SnapshotStore(files, snapshot_path, executor)
    snapshot = snapshots.load()
    journal = Journal(files, journal_path, hard_state)
    if is_new:
        _create(files, options, journal, has_snapshot=snapshot is not None)
        if options.rejoin or options.peers:
            hard_state.state = replace(
                hard_state.state, rejoin_nonce=unique_number, may_found=options.bootstrap
            )
    _reconcile(journal, snapshot)
    incarnation = max(hard_state.state.incarnation + 1, unique_number)
    hard_state.state = replace(hard_state.state, incarnation=incarnation)
    hard_state.store()
    return Storage(hard_state, journal, snapshots, snapshot)


def _unasked(options: RaftOptions) -> DataDirectoryError:
    return DataDirectoryError(
        f"{options.data_directory} holds no controller. Start with bootstrap for a new cluster, or "
        "with rejoin if this controller's disk was replaced",
        field="data_directory",
        value=options.data_directory,
    )


def _create(
    files: FileSystem, options: RaftOptions, journal: Journal, *, has_snapshot: bool
) -> None:
    if has_snapshot or len(journal) > 1:
        raise DataDirectoryError(
            "raft.state is missing beside a journal in use: term and vote are lost. Restore it, or "
            "empty the directory and start with rejoin",
            field="raft.state",
        )
    if not (options.bootstrap or options.rejoin):
        raise _unasked(options)  # the remains of an interrupted first start
    if len(journal) == 0:
        journal.add(*GENESIS)
        journal.sync()
    files.sync_directory(options.data_directory)


def _reconcile(journal: Journal, snapshot: Snapshot | None) -> None:
    """Let the journal continue the snapshot; a crash between their changes is repaired here."""
    if snapshot is None:
        if len(journal) == 0 or journal.first_index != GENESIS.log_index:
            raise DataDirectoryError(
                "the journal does not begin at its first entry, and there is no snapshot",
                field="raft.snapshot",
            )
        return
    if len(journal) and journal.first_index > snapshot.index:
        raise DataDirectoryError(
            f"the journal begins at {journal.first_index}, after the snapshot's {snapshot.index}",
            field="raft.snapshot",
            value=snapshot.index,
            limit=journal.first_index,
        )
    if len(journal) == 0:
        raise DataDirectoryError("the journal is empty", field="raft.journal")
    if journal.term_at(snapshot.index) != snapshot.term:
        journal.rebase(snapshot.index, snapshot.term)
    journal.setRaftCommitIndex(snapshot.index)

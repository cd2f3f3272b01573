"""A controller's raft storage at work until it kills itself.

`python -m tests.powerloss.raft_program ROOT SEED N`. It appends, truncates, votes, writes
snapshots, compacts, and installs snapshots as a leader's, and says what is durable. The fourth
argument plants a mistake: `unsynced` makes the syncs of files do nothing, `renamed` those of
directories.
"""

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from odradek.controller.raft.filesystem import OsFile, OsFileSystem
from odradek.controller.raft.interface import RaftOptions
from odradek.controller.raft.snapshots import Snapshot, encode_snapshot
from odradek.controller.raft.storage import Storage, open_storage
from odradek.protocol.types import ControllerId
from tests.powerloss.promises import Promises

ME = ControllerId(1)


def options(directory: Path, *, bootstrap: bool = True) -> RaftOptions:
    """Name the one controller there is."""
    return RaftOptions(cluster_id="cut", self_id=ME, data_directory=directory, bootstrap=bootstrap)


def command_at(index: int, term: int) -> bytes:
    """Return an entry's command: no two entries agree."""
    return f"{index}/{term};".encode() * random.Random(index * 1000 + term).choice((1, 20, 900))


def state_at(index: int, term: int) -> bytes:
    """Return what a snapshot holds."""
    return f"state {index}/{term};".encode() * 300


class Controller:
    """Does to the storage what raft does, in an order raft might choose."""

    def __init__(
        self, storage: Storage, executor: ThreadPoolExecutor, promises: Promises, seed: int
    ):
        self._journal, self._snapshots = storage.journal, storage.snapshots
        self._hard_state = storage.hard_state
        self._executor = executor
        self._promises = promises
        self._chance = random.Random(seed)
        promises.make("opened")
        self._vote()

    def run(self) -> None:
        """Go on until the process is killed."""
        steps = (self._append, self._truncate, self._vote, self._snapshot, self._install)
        while True:
            [step] = self._chance.choices(steps, weights=(80, 5, 6, 8, 1))
            step()

    @property
    def _term(self) -> int:
        return self._hard_state.state.term

    def _append(self) -> None:
        for _ in range(self._chance.randint(1, 5)):
            index = self._journal.last_index + 1
            self._journal.add(command_at(index, self._term), index, self._term)
        self._journal.sync()
        self._promises.make("appended", self._journal.last_index, self._term)

    def _truncate(self) -> None:
        last, committed = self._journal.last_index, self._journal.getRaftCommitIndex()
        if last > committed:
            index = self._chance.randint(max(committed + 1, last - 8), last)
            self._promises.make("truncating", index)
            self._journal.truncate_from(index)
            self._promises.make("truncated", index, self._term)
            self._vote()

    def _vote(self) -> None:
        term = self._term + 1
        if self._chance.random() < 0.5:
            self._hard_state.vote(term, None)
        whom = ControllerId(self._chance.randint(1, 3))
        self._hard_state.vote(term, whom)
        self._promises.make("voted", term, whom)

    def _snapshot(self) -> None:
        index = self._journal.last_index
        term = self._journal.term_at(index)
        if index <= self._snapshots.index or term is None:
            return
        self._journal.setRaftCommitIndex(index)
        self._snapshots.begin(index, term, lambda: state_at(index, term))
        self._append()  # meanwhile
        self._executor.submit(int).result()  # the one thread has come past it
        assert self._snapshots.finish() == index
        self._promises.make("snapshot", index, term)
        self._journal.drop_before(max(self._journal.first_index, index - 5))

    def _install(self) -> None:
        index, term = self._journal.last_index + 10, self._term
        snapshot = Snapshot(index, term, state_at(index, term))
        self._promises.make("truncating", self._journal.getRaftCommitIndex() + 1)
        self._snapshots.install(snapshot, encode_snapshot(snapshot))
        self._journal.rebase(index, term)
        self._promises.make("snapshot", index, term)


def main() -> None:
    """Open the storage and work until killed."""
    root, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    mistake = sys.argv[4] if len(sys.argv) > 4 else ""
    if mistake == "unsynced":
        OsFile.sync = lambda file: None  # type: ignore[method-assign, assignment]
    if mistake == "renamed":
        OsFileSystem.sync_directory = lambda files, path: None  # type: ignore[method-assign, assignment]
    data = root / "data"
    files = OsFileSystem()
    files.make_directory(data)
    with ThreadPoolExecutor(1) as executor:
        storage = open_storage(files, options(data), executor, unique_number=seed)
        Controller(storage, executor, Promises(root, count), seed).run()


if __name__ == "__main__":
    main()

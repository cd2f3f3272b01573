"""What a controller's disk must hold after a power cut, given what it had promised."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from odradek.controller.raft.filesystem import OsFileSystem
from odradek.controller.raft.storage import Storage, open_storage
from tests.powerloss.explorer import Cut
from tests.powerloss.raft_program import command_at, options, state_at


@dataclass(slots=True)
class Expected:
    """What was promised.

    Attributes:
        opened: The directory has taken part: it must open without leave to begin anew.
        last_index: The log reaches here.
        term: At least this,
        voted_for: and in this term this vote.
        snapshot_index: At least this.
        cut_to: (index, term): from the index on there is no entry of this term or an older one.
    """

    opened: bool = False
    last_index: int = 0
    term: int = 0
    voted_for: int = 0
    snapshot_index: int = 0
    cut_to: list[tuple[int, int]] = field(default_factory=list)

    def on_promise(self, kind: str, *numbers: int) -> None:
        """Take one promise into account."""
        match kind:
            case "opened":
                self.opened = True
            case "appended":
                self.last_index = numbers[0]
            case "truncating":
                self.last_index = min(self.last_index, numbers[0] - 1)
            case "truncated":
                self.cut_to.append((numbers[0], numbers[1]))
            case "voted":
                self.term, self.voted_for = numbers
            case "snapshot":
                self.snapshot_index = numbers[0]
                self.last_index = max(self.last_index, numbers[0])
            case _:
                raise AssertionError(kind)


def check_raft(cut: Cut, directory: Path) -> None:
    """Open the storage of a cut disk and compare."""
    expected = Expected()
    for kind, *numbers in cut.promises:
        expected.on_promise(kind, *map(int, numbers))
    data = directory / "data"
    files = OsFileSystem()
    with ThreadPoolExecutor(1) as executor:
        if not expected.opened:
            files.make_directory(data)
        storage = open_storage(
            files, options(data, bootstrap=not expected.opened), executor, unique_number=1
        )
        _check(storage, expected)


def _check(storage: Storage, expected: Expected) -> None:
    state, journal, snapshot = storage.hard_state.state, storage.journal, storage.snapshot
    assert state.term >= expected.term, "a term was forgotten"
    if state.term == expected.term and expected.term:
        assert state.voted_for == expected.voted_for, f"a vote in term {state.term} was forgotten"
    assert storage.snapshots.index >= expected.snapshot_index
    if snapshot is not None:
        assert snapshot.state == state_at(snapshot.index, snapshot.term)
    assert journal.last_index >= expected.last_index, (
        f"entries {journal.last_index + 1} to {expected.last_index} are lost"
    )
    for index in range(journal.first_index + 1, journal.last_index + 1):
        [entry] = journal.read(index, 0)
        if entry.log_index > 1:
            assert entry.command == command_at(index, entry.term)
    for index, term in expected.cut_to:
        if journal.first_index < index <= journal.last_index:
            assert (journal.term_at(index) or 0) > term, f"entry {index} of {term} came back"

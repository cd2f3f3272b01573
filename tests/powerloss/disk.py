"""The pure model: what was done to a disk, and what a power cut may leave of it.

Problem: a test that kills processes leaves the page cache intact, and never sees what an fsync is
for. Idea: replay the recorded file operations; keep, for each file, its content as of the last
completed sync and the changes since; for each directory its entries likewise. A cut then keeps the
synced part and an arbitrary choice of the rest.

The model is as hostile as POSIX permits where code ought to be safe:

- A file's sync secures its content and size, as far as it was written before the sync *began*. It
  does not secure its name: only a sync of the directory does (but see below).
- Of a file's unsynced changes survive: none; all; the first few with the next one torn at any byte;
  or any set of 4 KiB pages, where lost ones before the end read as they were, zeros if never
  written. The size may grow without the data (zeros). Each file is decided for itself, so the end
  of one log may be torn while the next log is intact; a recycled file shows its older contents.
- A truncation is a barrier: what was done after it survives only if it did.
- Of the unsynced creations, renames and deletions survive: none; all; the first few in their order
  over the whole disk (a journal); or any set, where a new file that was synced keeps its name (as
  on ext4, xfs and btrfs; RocksDB needs the one or the other: it renames CURRENT before it syncs the
  directory for the new manifest). A rename is atomic. A file in a directory whose own entry is lost
  is lost.
- Bytes that were synced never change, also in pages that are written again later.

Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014 (the tool ALICE).
"""

import posixpath
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.powerloss.operations import (
    Allocated,
    Closed,
    Linked,
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

PAGE_BYTES = 4096

Tree = dict[str, bytes | None]
"""Path, relative to the disk's root, -> content; None: a directory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes written at an offset."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        """Write it, over zeros where nothing was."""
        _grow(content, self.offset)
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(frozen=True, slots=True)
class Resize:
    """The file was cut, or grown with zeros."""

    size: int

    def apply(self, content: bytearray) -> None:
        """Cut or grow it."""
        del content[self.size :]
        _grow(content, self.size)


Change = Piece | Resize


class Survival(Enum):
    """Which of a file's unsynced changes a cut keeps."""

    NONE = auto()
    ALL = auto()
    TORN = auto()
    PAGES = auto()


class Names(Enum):
    """Which of the unsynced changes of names a cut keeps."""

    NONE = auto()
    ALL = auto()
    FIRST = auto()
    ANY = auto()


@dataclass(slots=True, eq=False)
class Inode:
    """A file, whatever its names.

    Attributes:
        durable: What the syncs that returned have covered.
        unsynced: The changes since, in their order.
        taken_over: How many changes `durable` holds, so that positions stay valid.
    """

    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[Change] = field(default_factory=list)
    taken_over: int = 0

    def content(self) -> bytearray:
        """Return it as a running process sees it."""
        content = bytearray(self.durable)
        for change in self.unsynced:
            change.apply(content)
        return content

    @property
    def position(self) -> int:
        """The number of changes so far."""
        return self.taken_over + len(self.unsynced)

    def sync_up_to(self, position: int) -> None:
        """A sync returned that had begun at this position."""
        count = position - self.taken_over
        for change in self.unsynced[: max(count, 0)]:
            change.apply(self.durable)
            self.taken_over += 1
        del self.unsynced[: max(count, 0)]

    def after_cut(self, survival: Survival, chance: random.Random) -> bytes:
        """Return what a cut leaves."""
        if survival is Survival.ALL:
            return bytes(self.content())
        content = bytearray(self.durable)
        if survival is Survival.TORN and self.unsynced:
            self._tear(content, chance)
        elif survival is Survival.PAGES:
            self._keep_pages(content, chance)
        return bytes(content)

    def _tear(self, content: bytearray, chance: random.Random) -> None:
        whole = chance.randrange(len(self.unsynced))
        for change in self.unsynced[:whole]:
            change.apply(content)
        torn = self.unsynced[whole]
        if isinstance(torn, Piece):
            Piece(torn.offset, torn.data[: chance.randint(0, len(torn.data))]).apply(content)

    def _keep_pages(self, content: bytearray, chance: random.Random) -> None:
        kept = chance.choice((0.0, 0.1, 0.5, 0.9))
        size = len(content)
        for change in self.unsynced:
            if isinstance(change, Resize):
                if chance.random() < 0.5:
                    break
                change.apply(content)
                size = change.size
                continue
            size = max(size, change.offset + len(change.data))
            for page in _pages(change):
                if chance.random() < kept:
                    page.apply(content)
        if chance.random() < 0.5:
            _grow(content, size)


@dataclass(slots=True, eq=False)
class NameChange:
    """A creation, a renaming or a deletion.

    Attributes:
        inode: What the name stands for; None for a directory.
        removed: The name it loses.
        added: The name it gets.
        was_synced: It is a creation, and the new file itself has been synced.
    """

    inode: Inode | None
    removed: str | None = None
    added: str | None = None
    was_synced: bool = False

    @property
    def directory(self) -> str:
        """Whose sync secures it."""
        return posixpath.dirname(self.added if self.added is not None else self.removed or "")

    def apply(self, names: "NameMap") -> None:
        """Do it, as far as it applies."""
        if self.removed is not None and names.get(self.removed, self) is self.inode:
            del names[self.removed]
        if self.added is not None:
            names[self.added] = self.inode


NameMap = dict[str, Inode | None]


class Disk:
    """The files below one directory, of one process at a time.

    Args:
        tree: What is there, durably.
    """

    def __init__(self, tree: Tree) -> None:
        self._names: NameMap = {
            path: None if content is None else Inode(bytearray(content))
            for path, content in tree.items()
        }
        self._durable_names: NameMap = dict(self._names)
        self._unsynced_names: list[NameChange] = []
        self._open: dict[int, Inode | str] = {}  # descriptor -> file, or a directory's path
        self._syncs: dict[int, Callable[[], None]] = {}

    def on_process_ended(self) -> None:
        """Its descriptors are gone, its unsynced changes are still in the page cache."""
        self._open.clear()
        self._syncs.clear()

    def apply_all(self, operations: Iterable[Operation]) -> None:
        """Replay operations in their order."""
        for operation in operations:
            self.apply(operation)

    def apply(self, operation: Operation) -> None:
        """Replay one operation."""
        match operation:
            case Opened(fd, path, truncates):
                self._on_opened(fd, path, truncates)
            case Closed(fd):
                self._open.pop(fd, None)
            case Wrote(fd, offset, data):
                self._file(fd).unsynced.append(Piece(offset, data))
            case Truncated(fd, size):
                self._file(fd).unsynced.append(Resize(size))
            case Allocated(fd, end):
                inode = self._file(fd)
                inode.unsynced.append(Resize(max(len(inode.content()), end)))
            case SyncBegan(fd, turn):
                self._on_sync_began(self._open[fd], turn)
            case SyncEnded(turn, succeeded):
                secure = self._syncs.pop(turn)
                if succeeded:
                    secure()
            case _:
                self._rename(operation)

    def current(self) -> Tree:
        """Return everything as a running process sees it."""
        return {
            path: None if inode is None else bytes(inode.content())
            for path, inode in self._names.items()
        }

    def read(self, path: str) -> bytes | None:
        """Return one file as a running process sees it; None: there is none."""
        inode = self._names.get(path)
        return None if inode is None else bytes(inode.content())

    def paths_of(self, fd: int) -> set[str]:
        """Return the names of the file behind a descriptor."""
        inode = self._open.get(fd)
        return {path for path, named in self._names.items() if named is inode and inode}

    def cut(self, chance: random.Random) -> Tree:
        """Return what a power cut at this moment may leave; changes nothing here."""
        names = dict(self._durable_names)
        for change in self._surviving_names(chance):
            change.apply(names)
        same_for_all = chance.choice([*Survival, None, None, None])
        contents: dict[Inode, bytes] = {}
        tree: Tree = {}
        for path in sorted(names):
            parent = posixpath.dirname(path)
            if parent and (parent not in tree or tree[parent] is not None):
                continue
            inode = names[path]
            if inode is not None and inode not in contents:
                survival = same_for_all or chance.choice(list(Survival))
                contents[inode] = inode.after_cut(survival, chance)
            tree[path] = None if inode is None else contents[inode]
        return tree

    def _surviving_names(self, chance: random.Random) -> list[NameChange]:
        changes = self._unsynced_names
        match chance.choice(list(Names)):
            case Names.NONE:
                return []
            case Names.ALL:
                return changes
            case Names.FIRST:
                return changes[: chance.randint(0, len(changes))]
            case Names.ANY:
                return [change for change in changes if change.was_synced or chance.random() < 0.5]

    def _file(self, fd: int) -> Inode:
        inode = self._open[fd]
        assert isinstance(inode, Inode), "directories are not written"
        return inode

    def _on_opened(self, fd: int, path: str, truncates: bool) -> None:  # noqa: FBT001
        if not path or (path in self._names and self._names[path] is None):
            self._open[fd] = path
            return
        inode = self._names.get(path)
        if inode is None:
            inode = Inode()
            self._change_names(NameChange(inode, added=path))
        elif truncates:
            inode.unsynced.append(Resize(0))
        self._open[fd] = inode

    def _on_sync_began(self, what: Inode | str, turn: int) -> None:
        if isinstance(what, Inode):
            inode, position = what, what.position
            self._syncs[turn] = lambda: self._secure_content(inode, position)
            return
        secured = [change for change in self._unsynced_names if change.directory == what]
        self._syncs[turn] = lambda: self._secure_names(secured)

    def _secure_content(self, inode: Inode, position: int) -> None:
        inode.sync_up_to(position)
        for change in self._unsynced_names:
            if change.inode is inode and change.removed is None:
                change.was_synced = True

    def _secure_names(self, secured: list[NameChange]) -> None:
        for change in self._unsynced_names:
            if change in secured:
                change.apply(self._durable_names)
        self._unsynced_names = [each for each in self._unsynced_names if each not in secured]

    def _rename(self, operation: Operation) -> None:
        match operation:
            case Renamed(old, new):
                self._change_names(NameChange(self._names[old], removed=old, added=new))
            case Linked(old, new):
                self._change_names(NameChange(self._names[old], added=new))
            case Unlinked(path):
                self._change_names(NameChange(self._names[path], removed=path))
            case MadeDirectory(path):
                self._change_names(NameChange(None, added=path))
            case _:
                raise AssertionError(operation)

    def _change_names(self, change: NameChange) -> None:
        change.apply(self._names)
        self._unsynced_names.append(change)


def _grow(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


def _pages(piece: Piece) -> Iterable[Piece]:
    """Split a write at the boundaries of the file's pages."""
    begin, end = piece.offset, piece.offset + len(piece.data)
    while begin < end:
        stop = min((begin // PAGE_BYTES + 1) * PAGE_BYTES, end)
        yield Piece(begin, piece.data[begin - piece.offset : stop - piece.offset])
        begin = stop

"""A disk that keeps its promises and nothing more.

What was synced survives; of the rest, a power loss keeps any part: whole writes in any order, torn
writes, or nothing. Names (creations, renames, deletions) survive in order, up to some point, unless
their directory was synced. A fuse makes the power fail at any operation, inside compaction too.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class PowerLossError(Exception):
    """The machine is off; the operation may or may not have happened."""


@dataclass(slots=True)
class Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: truncate to


def apply_operation(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class SimulatedFile:
    def __init__(self, disk: "SimulatedDisk", inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def read(self) -> bytes:
        return bytes(self._inode.content)

    def write_at(self, offset: int, data: bytes) -> None:
        self._change(offset, data)

    def truncate(self, size: int) -> None:
        self._change(size, None)

    def _change(self, offset: int, data: bytes | None) -> None:
        apply_operation(self._inode.content, offset, data)
        self._inode.unsynced.append((offset, data))
        self._disk.burn()

    def sync(self) -> None:
        self._disk.burn()
        if not self._disk.lies:
            self._inode.durable = bytes(self._inode.content)
            self._inode.unsynced.clear()

    def close(self) -> None:
        pass


class SimulatedDisk:
    """The disk of one controller; outlives its processes.

    Args:
        chance: Decides what a power loss keeps.
        lies: A planted bug: syncing does nothing, as if the code forgot to.
    """

    def __init__(self, chance: random.Random, *, lies: bool = False) -> None:
        self.lies = lies
        self.fuse: int | None = None
        self._chance = chance
        self._names: dict[Path, Inode] = {}
        self._durable_names: dict[Path, Inode] = {}
        self._unsynced_names: list[dict[Path, Inode]] = []

    def burn(self) -> None:
        """Count an operation; the last one before the fuse is through may have happened."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise PowerLossError

    def exists(self, path: Path) -> bool:
        return path in self._names

    def open(self, path: Path) -> SimulatedFile:
        if path not in self._names:
            self._rename(lambda names: names.__setitem__(path, Inode()))
        return SimulatedFile(self, self._names[path])

    def rename(self, source: Path, target: Path) -> None:
        self._rename(lambda names: names.__setitem__(target, names.pop(source)))

    def remove(self, path: Path) -> None:
        if path in self._names:
            self._rename(lambda names: names.__delitem__(path))

    def _rename(self, change: Callable[[dict[Path, Inode]], object]) -> None:
        change(self._names)
        self._unsynced_names.append(dict(self._names))
        self.burn()

    def sync_directory(self, path: Path) -> None:
        self.burn()
        if not self.lies:
            self._durable_names = dict(self._names)
            self._unsynced_names.clear()

    def lose_power(self) -> None:
        """Forget what was not synced, or not quite."""
        self.fuse = None
        kept = self._chance.randint(0, len(self._unsynced_names))
        names = self._unsynced_names[kept - 1] if kept else self._durable_names
        for inode in names.values():
            self._damage(inode)
        self._names = dict(names)
        self._durable_names = dict(names)
        self._unsynced_names.clear()

    def _damage(self, inode: Inode) -> None:
        content = bytearray(inode.durable)
        how = self._chance.choice(["nothing", "in order", "any order"])
        for offset, data in inode.unsynced:
            if how == "nothing":
                break
            if how == "in order" and self._chance.random() < 0.3:
                if data:
                    apply_operation(content, offset, data[: self._chance.randrange(len(data))])
                break
            if how == "any order" and self._chance.random() < 0.5:
                continue
            apply_operation(content, offset, data)
        inode.content = content
        inode.durable = bytes(content)
        inode.unsynced.clear()

    def survive_kill(self) -> None:
        """A killed process leaves to the operating system all it wrote."""
        self.fuse = None

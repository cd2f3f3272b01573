"""Stores that cannot be read any more are put out of the way, and never deleted.

Problem: a bit that rots in what RocksDB keeps beside the batches (a table, the manifest) makes the
store refuse to open, and the node refuse to start, although other replicas have everything. Idea:
rename the store, begin an empty one, and say that data was lost: the controllers take this node out
of every ISR and ELR, and it is filled again like a new replica. What no other replica has is still
in the directory that was set aside, so the node says, for as long as that lies there, that it is
not to lead what it has nothing of.

A store whose damage is found while it is used is *condemned*: a file in it tells the next opening.

Invariants: no data is removed; the mark on disk says `data_lost` before the store is renamed.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from odradek.node.storage.directories import sync_directory

_log = structlog.get_logger()

_CONDEMNED: Final = "CONDEMNED"
_SET_ASIDE: Final = "store.damaged-"


def condemn(store: Path, reason: str) -> None:
    """Have the next opening set a store aside; blocking, on disk when this returns."""
    _log.error("the store is damaged; the next start sets it aside", reason=reason)
    with (store / _CONDEMNED).open("w") as file:
        file.write(reason)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(store)


def why_condemned(store: Path) -> str | None:
    """Return why a store was condemned, or None."""
    path = store / _CONDEMNED
    return path.read_text(errors="replace") or "unknown" if path.exists() else None


def set_aside(store: Path, reason: str) -> None:
    """Rename a store and make an empty directory in its place, both on disk."""
    earlier = sum(1 for _ in store.parent.glob(f"{_SET_ASIDE}*"))
    moved = store.with_name(f"{_SET_ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%S}-{earlier}")
    store.rename(moved)
    (moved / _CONDEMNED).unlink(missing_ok=True)  # once repaired, it may come back
    store.mkdir()
    sync_directory(store.parent)
    _log.error(
        "the store cannot be read and was set aside; replicas are filled again by other nodes",
        reason=reason,
        moved_to=str(moved),
        next="partitions that no other node has stay offline: to save them, stop this node, repair"
        " that directory and rename it back; to give them up, delete or move it and start this node"
        " again. Once `odradek cluster status` says that all is served, nobody needs it",
    )


def is_any_set_aside(directory: Path) -> bool:
    """Tell whether a store that was set aside lies in a data directory."""
    return any(directory.glob(f"{_SET_ASIDE}*"))

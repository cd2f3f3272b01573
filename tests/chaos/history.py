"""What happened in a run, as every process of the test saw it: one JSON object a line.

A send has two events, its invocation and its completion, which share process and number; a
completion is `ok` (acknowledged), `fail` (surely not in the log) or `info` (nobody knows). A send
without completion is `info` too: its process died. Polls are written once, when records were handed
out. Times are CLOCK_MONOTONIC, one clock for all processes of a machine. All records belong to one
topic; a value is an integer that no other send of the run uses.

Source: the histories of Jepsen (jepsen.tests.kafka), reduced to what has no transactions.
"""

import enum
import os
import time
from collections.abc import Iterable, Iterator
from heapq import merge
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct, json

UNKNOWN_OFFSET: Final = -1


class Phase(enum.Enum):
    """How far an operation is."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    """It surely had no effect."""
    INFO = "info"
    """It may have had its effect, or have it later."""


class Change(enum.Enum):
    """What a group told a member about partitions."""

    ASSIGNED = "assigned"
    REVOKED = "revoked"
    """The member gives them up by its own consent."""
    LOST = "lost"
    """The member was expelled; another may own them already."""


class Send(Struct, tag="send", omit_defaults=True, frozen=True, gc=False):
    """Values for one partition, in this order; `offsets` says where they lie once acknowledged."""

    at_ns: int
    process: str
    number: int
    phase: Phase
    partition: int
    values: tuple[int, ...]
    offsets: tuple[int, ...] = ()
    error: str = ""


class Poll(Struct, tag="poll", frozen=True, gc=False):
    """Records of one partition, handed out together."""

    at_ns: int
    process: str
    partition: int
    offsets: tuple[int, ...]
    values: tuple[int, ...]


class Assign(Struct, tag="assign", omit_defaults=True, frozen=True, gc=False):
    """A consumer chose its partitions itself, and reads them from their start.

    Attributes:
        final: It reads all there is after the last fault healed.
    """

    at_ns: int
    process: str
    partitions: tuple[int, ...]
    final: bool = False


class Seek(Struct, tag="seek", frozen=True, gc=False):
    """A consumer goes on elsewhere in a partition."""

    at_ns: int
    process: str
    partition: int


class Subscribe(Struct, tag="subscribe", frozen=True, gc=False):
    """A consumer joined a group, which reads every partition from its start."""

    at_ns: int
    process: str
    group: str


class Rebalance(Struct, tag="rebalance", frozen=True, gc=False):
    """A member of a group was told of partitions."""

    at_ns: int
    process: str
    change: Change
    partitions: tuple[int, ...]


class Commit(Struct, tag="commit", omit_defaults=True, frozen=True, gc=False):
    """A member commits, for each partition, the next offset to read."""

    at_ns: int
    process: str
    number: int
    phase: Phase
    offsets: dict[int, int]
    error: str = ""


class Stop(Struct, tag="stop", omit_defaults=True, frozen=True, gc=False):
    """A process ended; `killed`: without a word to the cluster."""

    at_ns: int
    process: str
    killed: bool = False


class Fault(Struct, tag="fault", omit_defaults=True, frozen=True, gc=False):
    """The nemesis began something (INVOKE) or healed it (OK)."""

    at_ns: int
    kind: str
    phase: Phase
    detail: str = ""


Event: TypeAlias = Send | Poll | Assign | Seek | Subscribe | Rebalance | Commit | Stop | Fault

_DECODER: Final[json.Decoder[Event]] = json.Decoder(Event)
_ENCODER: Final = json.Encoder()


class HistoryFile:
    """Where one process writes its events; what was written survives the process's death."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, *events: Event) -> None:
        """Append events; each is whole or absent."""
        os.write(self._descriptor, _ENCODER.encode_lines(events))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_history(paths: Iterable[Path]) -> Iterator[Event]:
    """Return the events of all files in the order of their times."""
    return merge(*(_read_file(path) for path in paths), key=lambda event: event.at_ns)


def _read_file(path: Path) -> Iterator[Event]:
    """Yield a file's events; a last line without its end was cut by the process's death."""
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield decode_event(line)


def decode_event(line: bytes) -> Event:
    """Return the event a line holds."""
    return _DECODER.decode(line)


def now_ns() -> int:
    """Return the time of the machine's monotonic clock."""
    return time.monotonic_ns()

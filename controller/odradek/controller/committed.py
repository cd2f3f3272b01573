"""The committed state, on both sides of the thread boundary.

Problem: Raft applies commands on its tick thread; decisions and feeds run on the event loop, and
neither may see the other's half-made changes or wait for it. Idea: two images. The tick thread
applies to its own and queues the decoded command; the loop applies the same commands to another, by
the same deterministic rule. Only the queue is shared.

Invariants: the loop's image is the tick thread's at an earlier or equal index; once a proposal was
answered, `catch_up` makes its effect visible; the queue is bounded: a loop that lags behind gets a
copy of the image instead.
"""

import threading
from collections import deque
from collections.abc import Callable

from odradek.controller.state.image import ClusterImage
from odradek.controller.state.records import Command
from odradek.controller.state.touched import Touched
from odradek.controller.wire.records import (
    decode_command,
    decode_snapshot,
    encode_accepted,
    encode_snapshot,
)

_BACKLOG_MAX = 1_000

OnCommitted = Callable[[Touched | None], None]
"""Told, on the loop, what changed; None: anything may have."""


class ClusterMachine:
    """The state machine under the replicated log (raft's `StateMachine`)."""

    def __init__(self) -> None:
        """Begin with an empty cluster."""
        self._image = ClusterImage()
        self._lock = threading.Lock()
        self._backlog: deque[tuple[int, Command]] = deque()
        # Set when the backlog cannot tell the whole story.
        self._restart_from: ClusterImage | None = None
        self._wake: Callable[[], None] | None = None

    # On the tick thread and, `serialize`, on the snapshot thread.

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply a committed command, or refuse it as every other controller does."""
        decoded = decode_command(command)
        with self._lock:
            accepted = self._image.apply_command(index, decoded)
            if accepted:
                self._enqueue(index, decoded)
        return encode_accepted(accepted=accepted)

    def capture(self) -> ClusterImage:
        """Return an image that no longer changes."""
        return self._image.copy()

    def serialize(self, image: object) -> bytes:
        """Turn a captured image into a snapshot."""
        assert isinstance(image, ClusterImage), "what capture returned"
        return encode_snapshot(image)

    def restore(self, snapshot: bytes, index: int) -> None:
        """Replace the whole state."""
        image = decode_snapshot(snapshot)
        image.version = max(image.version, index)
        with self._lock:
            self._image = image
            self._start_over()

    def _enqueue(self, index: int, command: Command) -> None:
        if len(self._backlog) == _BACKLOG_MAX or self._restart_from is not None:
            self._start_over()
            return
        self._backlog.append((index, command))
        if len(self._backlog) == 1 and self._wake is not None:
            self._wake()

    def _start_over(self) -> None:
        self._backlog.clear()
        first = self._restart_from is None
        self._restart_from = self._image
        if first and self._wake is not None:
            self._wake()

    # On the loop.

    def attach(self, wake: Callable[[], None]) -> None:
        """Call `wake`, from any thread, when there is something to take."""
        with self._lock:
            self._wake = wake

    def take(self) -> tuple[ClusterImage | None, list[tuple[int, Command]]]:
        """Return the image to start over from, if any, and the commands after it."""
        with self._lock:
            restart, self._restart_from = self._restart_from, None
            if restart is not None:
                restart = restart.copy()
            commands = list(self._backlog)
            self._backlog.clear()
        return restart, commands


class Committed:
    """The loop's image of what is committed, and who is told when it changes."""

    def __init__(self, machine: ClusterMachine) -> None:
        """Follow a state machine, from the image it began with."""
        self.image = ClusterImage()
        self._machine = machine
        self._listeners: list[OnCommitted] = []

    def listen(self, listener: OnCommitted) -> None:
        """Call a listener after every step of the image."""
        self._listeners.append(listener)

    def catch_up(self) -> None:
        """Apply what was committed since; cheap when nothing was."""
        restart, commands = self._machine.take()
        if restart is None and not commands:
            return
        touched: Touched | None = Touched()
        if restart is not None:
            self.image, touched = restart, None
        for index, command in commands:
            records = self.image.completed_by(command)
            accepted = self.image.apply_command(index, command)
            assert accepted, "both images refuse the same commands"
            if touched is not None and not command.continues:
                touched.add(records)
        for listener in self._listeners:
            listener(touched)

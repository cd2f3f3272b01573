"""What a client shares with its producers, its consumers and its admin face.

Also where misuse is caught: a closed client, one used in a forked child (connections do not survive
a fork), one used in another event loop than it was entered in (or by another thread).
"""

import asyncio
import os
import random
import weakref
from collections.abc import Callable

from odradek.client.cluster.connections import Connections
from odradek.client.cluster.metadata import Metadata
from odradek.client.config import ClientOptions
from odradek.client.errors import ClientClosedError, ForkedProcessError, WrongEventLoopError

_scopes: "weakref.WeakSet[Scope]" = weakref.WeakSet()


class Scope:
    """An open client, seen from inside.

    Attributes:
        options: The client's.
        connections: One channel per node.
        metadata: The cluster's image.
        chance: For jitter and choices.
        loop: The loop the client was entered in; None before that, and after closing or a fork,
            so that one comparison on the hot path covers every misuse.
        on_close: Called when the client closes: what producers and consumers still open hold of
            their application's must not wait for a cluster that nobody talks to any more.
    """

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self.chance = random.Random()  # noqa: S311 jitter, not secrets
        self.connections = Connections(tls=options.tls)
        self.metadata = Metadata(
            self.connections,
            options.bootstrap,
            request_timeout_s=options.request_timeout_s,
            chance=self.chance,
        )
        self.loop: asyncio.AbstractEventLoop | None = None
        self.on_close: set[Callable[[], None]] = set()
        self._forked = False
        self._entered = False
        _scopes.add(self)

    def open(self) -> None:
        """Bind to the running loop."""
        if self._entered:
            raise ClientClosedError("a client is entered once; make another one")
        self._refuse_fork()
        self._entered = True
        self.loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Refuse every use from now on, and tell those who wait."""
        self.loop = None
        self.metadata.close()
        for tell in list(self.on_close):
            tell()

    def check(self) -> None:
        """Raise unless the client may be used here and now.

        Raises:
            ClientClosedError, ForkedProcessError, WrongEventLoopError: See their texts.
        """
        if self.loop is None or self.loop is not running_loop():
            raise self.misuse()

    def misuse(self) -> ClientClosedError | ForkedProcessError | WrongEventLoopError:
        """Return what is wrong once `check` has found something."""
        self._refuse_fork()
        if not self._entered:
            return ClientClosedError("the client is not open: use `async with Client(...)`")
        if self.loop is None:
            return ClientClosedError("the client is closed")
        return WrongEventLoopError(
            "the client was entered in another event loop than this one, if any runs here; make"
            " one client per loop, or use odradek.client.blocking from threads"
        )

    def _refuse_fork(self) -> None:
        if self._forked:
            raise ForkedProcessError(
                f"the client was made in another process than {os.getpid()}; make clients after"
                " the fork"
            )

    def mark_forked(self) -> None:
        """Refuse every use in this child process."""
        self._forked = True
        self.loop = None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _after_fork_in_child() -> None:
    for scope in _scopes:
        scope.mark_forked()


os.register_at_fork(after_in_child=_after_fork_in_child)

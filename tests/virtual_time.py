"""Shells of asyncio in virtual time: hours pass in no time, and to the microsecond."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class VirtualTime(selectors.DefaultSelector):
    """Where a loop would wait, time passes at once."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing will ever happen any more"
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Keeps virtual time; sockets and threads do not stop it."""

    def __init__(self) -> None:
        self.virtual = VirtualTime()
        super().__init__(self.virtual)

    def time(self) -> float:
        return self.virtual.now_s


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario)

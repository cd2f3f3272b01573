"""Waking everybody who waits for a change."""

import asyncio


class Signal:
    """Fires again and again; who takes `next` before looking misses nothing."""

    def __init__(self) -> None:
        """Begin without having fired."""
        self._event = asyncio.Event()
        self._others: list[Signal] = []

    def fire(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = asyncio.Event()
        for other in self._others:
            other.fire()

    def next(self) -> asyncio.Event:
        """Return the event of the next firing."""
        return self._event

    def forward_to(self, other: "Signal") -> None:
        """Let another signal fire whenever this one does."""
        self._others.append(other)

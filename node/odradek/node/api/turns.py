"""Fairness: a stream with much to do lets everybody else have a turn of the loop in between.

Idea: each stream counts its steps. When they are many, it goes on in a later turn, in which only a
few streams of a node may do so; those stand in a queue, in the order in which they asked.
"""

import asyncio
from typing import Final

TURN_MAX: Final = 128
"""So many steps of a stream in a turn, say requests or partitions: a few milliseconds at worst."""
STREAMS_MAX: Final = 8
"""So many streams of a node that have more than that to do go on in the same turn."""


class Turns:
    """Those that all streams of a node share."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(STREAMS_MAX)


class Steps:
    """What one stream did since it last let others have a turn."""

    def __init__(self, turns: Turns) -> None:
        self._places = turns.places
        self._count = 0

    @property
    def are_many(self) -> bool:
        """Whether the stream must wait for its `next_turn` before it does more."""
        return self._count > TURN_MAX

    def count(self, more: int) -> None:
        """Count what is done now."""
        self._count += more

    async def next_turn(self) -> None:
        """Wait for another turn of the loop, if they are many."""
        if self.are_many:
            async with self._places:
                await asyncio.sleep(0)
            self._count = 0

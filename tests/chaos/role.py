"""What every activity of a worker needs to know and to write to."""

import asyncio
from dataclasses import dataclass

from odradek.client import Client
from tests.chaos.history import HistoryFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A worker's part in a run.

    Attributes:
        client: Connected to the cluster under test.
        topic: Where the run's records are.
        name: The worker's, of this process alone.
        history: Where it writes what it does and sees.
        stop: Set when it shall end what it began.
    """

    client: Client
    topic: str
    name: str
    history: HistoryFile
    stop: asyncio.Event

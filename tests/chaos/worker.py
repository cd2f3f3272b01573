"""A client of the cluster under test as a process of its own: `worker.py ROLE NAME ...`.

Whatever it does and sees it writes to its history first or at once, so that being killed loses
nothing of it. SIGTERM makes it end what it began: outstanding sends get their outcome, members
leave their groups.
"""

import argparse
import asyncio
import signal
from dataclasses import dataclass
from pathlib import Path

from odradek.client import Client
from tests.chaos.consuming import drain, join, read
from tests.chaos.history import HistoryFile
from tests.chaos.producing import Pace, produce
from tests.chaos.role import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerArguments:
    """What a worker is told."""

    role: str
    name: str
    bootstrap: str
    topic: str
    partitions: int
    history: Path
    rate: float
    delivery_timeout_s: float


def parse() -> WorkerArguments:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("produce", "read", "join", "drain"))
    parser.add_argument("name")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--delivery-timeout-s", type=float, default=120.0)
    return WorkerArguments(**vars(parser.parse_args()))


async def work(arguments: WorkerArguments, stop: asyncio.Event) -> None:
    """Play the role until told to stop."""
    history = HistoryFile(arguments.history)
    async with Client(arguments.bootstrap) as client:
        role = Role(
            client=client,
            topic=arguments.topic,
            name=arguments.name,
            history=history,
            stop=stop,
        )
        match arguments.role:
            case "produce":
                timeout_s = arguments.delivery_timeout_s
                await produce(role, Pace(arguments.rate, arguments.partitions, timeout_s))
            case "read":
                await read(role, range(arguments.partitions))
            case "join":
                await join(role)
            case _:
                await drain(role)
    history.close()


async def main() -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await work(parse(), stop)


if __name__ == "__main__":
    asyncio.run(main())

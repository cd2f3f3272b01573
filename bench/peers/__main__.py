"""`python -m bench.peers`: other brokers beside ours, in turns, on this machine."""

import argparse
import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from importlib import import_module

from rich.console import Console

from bench import report
from bench.peers import ours
from bench.peers.comparison import Failed, Measured, compare, table
from bench.peers.server import ServerAbsentError
from bench.peers.system import System

ADAPTERS = {
    "nats": "nats_jetstream",
    "rabbitmq": "rabbitmq_streams",
    "redis": "redis_streams",
    "kafka": "kafka",
}
# Those that run as a cluster too.
CLUSTERS = {"nats", "kafka"}
# Why there is no adapter.
WITHOUT = {
    "redpanda": "its server comes as a container image or from its makers' own package repository,"
    " neither of which could be reached where this was written"
}


def available(names: Iterable[str], nodes: int, console: Console) -> dict[System, str]:
    """Return ours and those of the named systems that can run here, with their versions."""
    found: dict[System, str] = {(system := ours.System(nodes)): system.version()}
    for name in names:
        try:
            peer = _load(name, nodes)
            found[peer] = peer.version()
        except (ServerAbsentError, OSError, subprocess.SubprocessError) as absent:
            console.print(f"{name} is left out: {absent}", style="yellow", soft_wrap=True)
    return found


def _load(name: str, nodes: int) -> System:
    """Import an adapter only when asked for: its client is no dependency of ours."""
    if name in WITHOUT:
        raise ServerAbsentError(WITHOUT[name])
    try:
        module = import_module(f"bench.peers.{ADAPTERS[name]}")
    except ModuleNotFoundError as missing:
        raise ServerAbsentError(f"{missing}; `make bench-peers` installs the clients") from None
    if name in CLUSTERS:
        system: System = module.System(nodes)
    elif nodes == 1:
        system = module.System()
    else:
        raise ServerAbsentError("it is run as a single server only")
    return system


async def _measure(
    systems: Sequence[System], scale: float, console: Console, results: list[Measured | Failed]
) -> None:
    """Add to `results`, so that what there is survives a Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None, "runs in a task"
    # As Ctrl-C does: leave every block, so that every server ends.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with aclosing(compare(systems, scale, console)) as compared:
        async for result in compared:
            results.append(result)  # noqa: PERF401 - a comprehension would lose them


def main() -> None:
    """Read the arguments, measure, report."""
    known = [*ADAPTERS, *WITHOUT]
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="these peers")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1, help="servers, replicas")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of each workload to run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    versions = available(arguments.only, arguments.nodes, console)
    systems = list(versions)
    results: list[Measured | Failed] = []
    stopped = False
    try:
        asyncio.run(_measure(systems, arguments.scale, console, results))
    except (KeyboardInterrupt, asyncio.CancelledError):
        stopped = True
    measured = [each for each in results if isinstance(each, Measured)]
    failed = [each for each in results if isinstance(each, Failed)]
    failures = [asdict(each) for each in failed]
    if arguments.json:
        print(report.as_json(measured, failed=failures))
    else:
        Console().print(table(results, systems))
        for system, version in versions.items():
            for durability, settings in system.settings.items():
                print(f"{system.name}, {durability.value}: {version}; {settings}")
    console.print(f"kept in {report.save(measured, failed=failures)}", soft_wrap=True)
    if stopped:
        sys.exit("bench.peers: stopped before its end; every server was ended")
    if failed:
        sys.exit("\n".join(["bench.peers: not everything was measured:", *map(str, failed)]))


if __name__ == "__main__":
    main()

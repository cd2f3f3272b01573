"""The demo: 57,960 GPS points of 805 delivery vehicles through a three-node cluster.

Three controllers and three nodes run as processes. Every point is produced, keyed by its vehicle,
while two applications read: the group `live-map` with three consumers, of which one is killed with
SIGKILL in the middle, and the group `daily-report` with one. In the end each group must have seen
every point of every vehicle, in order; `demo_check.py` judges.

    make demo
"""

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from demo_check import Checker, Verdict
from demo_fleet import TOPIC, Point, points_by_time
from rich.console import Console
from rich.table import Table

from odradek.client import Client, serdes
from odradek.client.local.cluster import LocalCluster

PARTITIONS = 6
LIVE_MAP = "live-map"
DAILY_REPORT = "daily-report"
LIVE_MAP_CONSUMERS = 3

PRODUCE_S = 14.0  # spread over so long that there is a middle to kill a consumer in
KILL_AT = 0.4  # of all points seen by the group
SERVED_AGAIN_S_MAX = 10.0
FINISH_S_MAX = 55.0

console = Console(highlight=False)


@dataclass(slots=True)
class Application:
    """One consumer process and what it reports, a line per processed point."""

    group: str
    name: str
    process: asyncio.subprocess.Process

    async def report_to(self, checker: Checker) -> None:
        """Read its lines until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            checker.saw(self.group, self.name, line.decode().rstrip())

    async def close(self) -> None:
        """Let it leave its group."""
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()


async def start_application(bootstrap: str, group: str, name: str) -> Application:
    """Start a consumer as a process of its own, as an application would run."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("demo_consumer.py")),
        bootstrap,
        group,
        name,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; we end it
    )
    return Application(group, name, process)


async def produce(client: Client, points: list[Point]) -> int:
    """Produce every point keyed by its vehicle, at an even pace; return how many there were."""
    started_s = time.monotonic()
    async with client.producer(key=serdes.string, value=serdes.json_of(Point)) as producer:
        for number, point in enumerate(points):
            await producer.enqueue(TOPIC, point, key=point.vehicle_id)
            if number % 100 == 0:
                due_s = started_s + PRODUCE_S * number / len(points)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await producer.flush()
    return len(points)


async def kill_in_the_middle(victim: Application, checker: Checker) -> float:
    """Kill a consumer once its group is in the middle; return how long its partitions stood still.

    Raises:
        TimeoutError: They are not served by others in time.
    """
    await checker.until(
        lambda: (
            checker.seen_count(victim.group) >= KILL_AT * checker.points_count
            and bool(checker.partitions_of(victim.group, victim.name))
        )
    )
    victim.process.kill()
    killed_ns = time.monotonic_ns()
    await victim.process.wait()
    orphaned = checker.partitions_of(victim.group, victim.name)
    say(f"killed {victim.name}, which read partitions {', '.join(map(str, sorted(orphaned)))}")
    async with asyncio.timeout(SERVED_AGAIN_S_MAX):
        await checker.until(
            lambda: orphaned <= checker.partitions_served_since(victim.group, killed_ns)
        )
    served_s = (time.monotonic_ns() - killed_ns) / 1e9
    say(f"its partitions are served again after {served_s:.1f} s")
    return served_s


async def carry(client: Client, bootstrap: str, points: list[Point]) -> tuple[int, Checker]:
    """Run producer and applications together; return what was produced and what was seen."""
    checker = Checker(points)
    names = [f"{LIVE_MAP}-{number}" for number in range(1, LIVE_MAP_CONSUMERS + 1)]
    live_map = [await start_application(bootstrap, LIVE_MAP, name) for name in names]
    report = await start_application(bootstrap, DAILY_REPORT, f"{DAILY_REPORT}-1")
    applications = [*live_map, report]
    checker.expect_duplicates_from(live_map[1].name)
    say(
        f"producing {len(points):,} points in about {PRODUCE_S:.0f} s; {LIVE_MAP} reads with"
        f" {LIVE_MAP_CONSUMERS} consumers, {DAILY_REPORT} with 1"
    )
    async with asyncio.TaskGroup() as group:
        for application in applications:
            group.create_task(application.report_to(checker))
        try:
            async with asyncio.timeout(FINISH_S_MAX):
                produced = group.create_task(produce(client, points))
                killed = group.create_task(kill_in_the_middle(live_map[1], checker))
                await asyncio.gather(produced, killed)
                await checker.until(
                    lambda: checker.is_complete(LIVE_MAP) and checker.is_complete(DAILY_REPORT)
                )
        except TimeoutError:
            say("the time is over; counting what arrived")
            produced.cancel()
        finally:
            await asyncio.gather(*(application.close() for application in applications))
    return 0 if produced.cancelled() else produced.result(), checker


async def main() -> int:
    """Run the demo; return its exit status."""
    started_s = time.monotonic()
    points = points_by_time()
    async with LocalCluster(nodes=3, controllers=3) as cluster:
        say(f"3 controllers and 3 nodes serve after {time.monotonic() - started_s:.1f} s")
        async with Client(cluster.bootstrap) as client:
            await client.admin.create_topic(TOPIC, partitions=PARTITIONS)
            produced, checker = await carry(client, cluster.bootstrap, points)
    verdicts = [checker.verdict(LIVE_MAP), checker.verdict(DAILY_REPORT)]
    show(verdicts)
    lost = sum(verdict.lost for verdict in verdicts) + len(points) - produced
    out_of_order = sum(verdict.out_of_order for verdict in verdicts)
    print(
        f"demo: produced={produced}"
        + "".join(f" {verdict.group}={verdict.seen}" for verdict in verdicts)
        + f" lost={lost} out_of_order={out_of_order}"
        f" duplicates={sum(verdict.duplicates for verdict in verdicts)}"
        f" seconds={time.monotonic() - started_s:.0f}"
    )
    return 0 if lost == out_of_order == 0 else 1


def say(text: str) -> None:
    """Tell the audience what happens."""
    console.print(text)


def show(verdicts: list[Verdict]) -> None:
    """Print the table of groups."""
    table = Table(title="What each group saw")
    table.add_column("group", no_wrap=True)
    for heading in ("consumers", "vehicles", "points", "lost", "out of order", "duplicates"):
        table.add_column(heading, justify="right")
    for verdict in verdicts:
        numbers = (
            verdict.consumers,
            verdict.vehicles,
            verdict.seen,
            verdict.lost,
            verdict.out_of_order,
            verdict.duplicates,
        )
        table.add_row(verdict.group, *(f"{number:,}" for number in numbers))
    console.print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""The demo: 57,960 GPS points of 805 delivery vehicles through a cluster that breaks on the way.

Three controllers and three nodes run as processes; every partition lies on all three nodes. Every
point is produced, keyed by its vehicle, while two applications read: the group `live-map` with
three consumers, and the group `daily-report` with one. In the middle, at one moment, SIGKILL hits
the node that leads most partitions, the active controller, and one consumer of `live-map`. Nothing
is started again: two nodes, two controllers and two consumers must carry on, and read the dead
consumer's partitions within 10 s. In the end the log must hold every point exactly once, and each
group must have seen every point of every vehicle, in order; `demo_check.py` judges.

    make demo
"""

import asyncio
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from demo_check import Checker, Place, Verdict, judge_log
from demo_fleet import TOPIC, Point, points_by_time
from demo_producer import Writes, produce
from rich import box
from rich.console import Console
from rich.table import Table

from odradek.client import Client, serdes
from odradek.client.local.cluster import LocalCluster
from odradek.protocol.errors import GroupIdNotFoundError

PARTITIONS = 6
REPLICAS = 3
LIVE_MAP = "live-map"
DAILY_REPORT = "daily-report"
LIVE_MAP_CONSUMERS = 3

PRODUCE_S = 14.0  # spread over so long that there is a middle to kill in
KILL_AT = 0.4  # of all points seen by the group
# A coordinator that dies takes what it knew of dead consumers with it: as in Kafka, the next one
# gives everybody a whole session. By default that is 45 s; here others are to take over within 10.
GROUP_SESSION_S = 6.0
HANDED_OVER_S_MAX = 10.0
CARRIED_ON_S_MAX = 30.0
READ_S_MAX = 20.0
FINISH_S_MAX = 45.0
JOINED_S_MAX = 20.0
POLL_INTERVAL_S = 0.1

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


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scene takes place on.

    Attributes:
        cluster: Controllers and nodes.
        client: The producer's, and the judge's.
        checker: Gets what the applications report.
        writes: Gets what the producer is told.
    """

    cluster: LocalCluster
    client: Client
    checker: Checker
    writes: Writes


async def kill_in_the_middle(stage: Stage, victim: Application) -> float:
    """Kill a consumer, the busiest node and the active controller; watch the rest carry on.

    Returns:
        After how many seconds others read all that the consumer read.

    Raises:
        TimeoutError: It does not.
    """
    checker = stage.checker
    await checker.until(
        lambda: (
            checker.seen_count(victim.group) >= KILL_AT * checker.points_count
            and bool(checker.partitions_of(victim.group, victim.name))
        )
    )
    controller_id = await stage.cluster.active_controller()
    node_id, led = await busiest_node(stage.client)
    killed_s = time.monotonic()
    stage.writes.killed(killed_s)
    victim.process.kill()
    await asyncio.gather(
        stage.cluster.nodes[node_id].kill(),
        stage.cluster.controllers[controller_id].kill(),
        victim.process.wait(),
    )
    orphaned = checker.partitions_of(victim.group, victim.name)
    say("SIGKILL, all at once, and nothing is started again:")
    say(f"  node {node_id}, which led partitions {numbers(led)} of {TOPIC}")
    say(f"  controller {controller_id}, the active one")
    say(f"  {victim.name}, which read partitions {numbers(orphaned)}")
    async with asyncio.timeout(CARRIED_ON_S_MAX):
        await stage.writes.resumed(PARTITIONS)
        say(f"every partition takes writes again, after {in_ms(stage.writes)} ms at the most")
        say(f"controller {await stage.cluster.active_controller()} is active now")
        await checker.until(
            lambda: orphaned <= checker.partitions_served_since(victim.group, int(killed_s * 1e9))
        )
    waited_s = time.monotonic() - killed_s
    say(f"the partitions of {victim.name} are read by others after {waited_s:.1f} s")
    if waited_s > HANDED_OVER_S_MAX:
        say(f"TOO LATE: that takes {HANDED_OVER_S_MAX:.0f} s at the most")
    return waited_s


async def busiest_node(client: Client) -> tuple[int, list[int]]:
    """Return the node that leads most partitions, and which."""
    led: defaultdict[int, list[int]] = defaultdict(list)
    for each in (await client.admin.describe_topic(TOPIC)).partitions:
        if each.leader is not None:
            led[each.leader].append(each.partition)
    return max(led.items(), key=lambda item: len(item[1]))


async def all_read(client: Client) -> None:
    """Return once every consumer of `live-map` has partitions: from here on none is new.

    Raises:
        TimeoutError: They do not join.
    """
    async with asyncio.timeout(JOINED_S_MAX):
        while True:
            with suppress(GroupIdNotFoundError):
                members = (await client.admin.describe_group(LIVE_MAP)).members
                if len(members) == LIVE_MAP_CONSUMERS and all(each.assigned for each in members):
                    return
            await asyncio.sleep(POLL_INTERVAL_S)


async def carry(stage: Stage, points: list[Point]) -> float:
    """Run producer and applications together until each group has seen every point.

    Returns:
        See `kill_in_the_middle`; infinity when the time was over first.
    """
    checker, bootstrap = stage.checker, stage.cluster.bootstrap
    names = [f"{LIVE_MAP}-{number}" for number in range(1, LIVE_MAP_CONSUMERS + 1)]
    live_map = [await start_application(bootstrap, LIVE_MAP, name) for name in names]
    report = await start_application(bootstrap, DAILY_REPORT, f"{DAILY_REPORT}-1")
    applications = [*live_map, report]
    checker.expect_duplicates_from(live_map[1].name)
    await all_read(stage.client)
    say(
        f"producing {len(points):,} points in about {PRODUCE_S:.0f} s, each to {REPLICAS} disks;\n"
        f"{LIVE_MAP} reads with {LIVE_MAP_CONSUMERS} consumers, {DAILY_REPORT} with 1"
    )
    async with asyncio.TaskGroup() as group:
        for application in applications:
            group.create_task(application.report_to(checker))
        produced = group.create_task(produce(stage.client, points, stage.writes, PRODUCE_S))
        try:
            async with asyncio.timeout(FINISH_S_MAX):
                killed = group.create_task(kill_in_the_middle(stage, live_map[1]))
                await asyncio.gather(produced, killed)
                await checker.until(
                    lambda: checker.is_complete(LIVE_MAP) and checker.is_complete(DAILY_REPORT)
                )
                return killed.result()
        except TimeoutError:
            say("the time is over; counting what arrived")
            produced.cancel()
            return math.inf
        finally:
            await asyncio.gather(*(application.close() for application in applications))


async def read_log(client: Client) -> dict[Place, Point]:
    """Read the whole topic, from the nodes that are left."""
    ends = await client.admin.list_offsets(TOPIC)
    log: dict[Place, Point] = {}
    async with (
        asyncio.timeout(READ_S_MAX),
        client.consumer(key=serdes.string, value=serdes.json_of(Point)) as consumer,
    ):
        consumer.assign(ends)
        while len(log) < sum(ends.values()):
            record = await anext(consumer)
            log[record.partition, record.offset] = record.value
    return log


async def main() -> int:
    """Run the demo; return its exit status."""
    started_s = time.monotonic()
    points = points_by_time()
    checker, writes = Checker(points), Writes()
    arguments = ["--group-session-timeout-s", str(GROUP_SESSION_S)]
    async with LocalCluster(nodes=3, controllers=3, node_arguments=arguments) as cluster:
        say(f"3 controllers and 3 nodes serve after {time.monotonic() - started_s:.1f} s")
        async with Client(cluster.bootstrap) as client:
            await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication=REPLICAS)
            handed_over_s = await carry(Stage(cluster, client, checker, writes), points)
            log = judge_log(points, writes.acknowledged, await read_log(client))
    groups = [checker.verdict(LIVE_MAP), checker.verdict(DAILY_REPORT)]
    show([log, *groups])
    produced = len(writes.acknowledged)
    lost = len(points) - produced + sum(verdict.lost for verdict in (log, *groups))
    out_of_order = sum(verdict.out_of_order for verdict in (log, *groups))
    print(
        f"demo: produced={produced}"
        + "".join(f" {verdict.seen_by}={verdict.seen}" for verdict in groups)
        + f" lost={lost} out_of_order={out_of_order}"
        f" duplicates={sum(verdict.duplicates for verdict in groups)}"
        f" seconds={time.monotonic() - started_s:.0f} failover_ms={in_ms(writes)}"
    )
    is_right = lost == out_of_order == log.duplicates == 0
    return 0 if is_right and handed_over_s <= HANDED_OVER_S_MAX else 1


def say(text: str) -> None:
    """Tell the audience what happens."""
    console.print(text)


def numbers(partitions: Iterable[int]) -> str:
    """Return partitions as people list them."""
    return ", ".join(map(str, sorted(partitions)))


def in_ms(writes: Writes) -> int:
    """Return how long some partition took no writes, in milliseconds."""
    return round(writes.failover_s * 1000)


def show(verdicts: list[Verdict]) -> None:
    """Print what became of the points."""
    table = Table(title="What lies in the log, and what each group saw", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("consumers", "vehicles", "points", "lost", "out of order", "duplicates"):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    for verdict in verdicts:
        counts = (
            verdict.vehicles,
            verdict.seen,
            verdict.lost,
            verdict.out_of_order,
            verdict.duplicates,
        )
        consumers = str(verdict.consumers or "")
        table.add_row(verdict.seen_by, consumers, *(f"{count:,}" for count in counts))
    console.print(table)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""The demo's producer: every point at an even pace, and how long any partition took no writes."""

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field

from demo_check import Place
from demo_fleet import TOPIC, Point

from odradek.client import Client, Delivery, serdes

_PACED_COUNT = 100
_WAITING_MAX = 10_000  # per partition: many seconds' worth


@dataclass(slots=True)
class Writes:
    """What was acknowledged, and the longest time a partition kept records waiting.

    A partition takes no writes from its last acknowledgement until its next one, but not longer
    than the oldest record waits that was sent in between.

    Attributes:
        acknowledged: Points by where they came to lie.
        failover_s: The longest such time that ended after the kill.
    """

    acknowledged: dict[Place, Point] = field(default_factory=dict)
    failover_s: float = 0.0
    _last_s: dict[int, float] = field(default_factory=dict)
    _killed_s: float = float("inf")
    _resumed: set[int] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def killed(self, now_s: float) -> None:
        """Note that processes are being killed."""
        self._killed_s = now_s

    def note(self, place: Place, point: Point, *, sent_s: float, now_s: float) -> None:
        """Note an acknowledgement; those of a partition in the order of sending."""
        partition, _ = place
        self.acknowledged[place] = point
        if now_s > self._killed_s:
            waited_s = now_s - max(sent_s, self._last_s.get(partition, sent_s))
            self.failover_s = max(self.failover_s, waited_s)
        self._last_s[partition] = now_s
        if sent_s > self._killed_s:
            self._resumed.add(partition)
            self._news.set()

    async def resumed(self, partition_count: int) -> None:
        """Return once that many partitions have taken a record sent after the kill."""
        while len(self._resumed) < partition_count:
            self._news.clear()
            await self._news.wait()


@dataclass(frozen=True, slots=True)
class _Sent:
    point: Point
    sent_s: float
    delivery: Delivery


async def produce(client: Client, points: list[Point], writes: Writes, duration_s: float) -> None:
    """Produce every point, keyed by its vehicle; return once all are acknowledged.

    The pace does not wait for acknowledgements: vehicles do not stop when a broker does.
    """
    started_s = time.monotonic()
    waiting: defaultdict[int, asyncio.Queue[_Sent | None]]
    waiting = defaultdict(lambda: asyncio.Queue(_WAITING_MAX))
    async with (
        asyncio.TaskGroup() as group,
        client.producer(key=serdes.string, value=serdes.json_of(Point)) as producer,
    ):
        for number, point in enumerate(points):
            delivery = await producer.enqueue(TOPIC, point, key=point.vehicle_id)
            if delivery.partition not in waiting:
                group.create_task(_watch(waiting[delivery.partition], writes))
            await waiting[delivery.partition].put(_Sent(point, time.monotonic(), delivery))
            if number % _PACED_COUNT == 0:
                due_s = started_s + duration_s * number / len(points)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        for queue in waiting.values():
            await queue.put(None)


async def _watch(waiting: asyncio.Queue[_Sent | None], writes: Writes) -> None:
    """Note the acknowledgements of one partition."""
    while (sent := await waiting.get()) is not None:
        ack = await sent.delivery
        place = (ack.partition, ack.offset)
        writes.note(place, sent.point, sent_s=sent.sent_s, now_s=time.monotonic())

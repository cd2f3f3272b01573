"""What cluster tests share: a producer that never stops, readers, members as processes."""

import asyncio
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from odradek.client import Client, TopicPartition, serdes

DEADLINE_S = 30.0
_MEMBER = Path(__file__).with_name("member.py")


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


async def new_topic(client: Client, *, partitions: int = 6) -> str:
    topic = unique("topic")
    await client.admin.create_topic(topic, partitions=partitions)
    return topic


async def until(
    holds: Callable[[], bool], *, what: str, deadline_s: float = DEADLINE_S
) -> None:
    """Return once a condition holds; polls, since the world outside sends no events."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not holds():
        assert loop.time() < end_s, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.02)


class Load:
    """Numbers, produced in order by one key a partition, until told to stop.

    Attributes:
        acknowledged: (partition, offset) -> number, for each acknowledged record.
    """

    def __init__(self, client: Client, topic: str, *, partitions: int = 6, rate: float = 300.0):
        self._client = client
        self._topic = topic
        self._partitions = partitions
        self._interval_s = 1 / rate
        self._stop = asyncio.Event()
        self.acknowledged: dict[tuple[int, int], str] = {}

    async def run(self) -> None:
        async with (
            self._client.producer(key=serdes.raw, value=serdes.string) as producer,
            asyncio.TaskGroup() as group,
        ):
            number = 0
            while not self._stop.is_set():
                value = str(number)
                delivery = await producer.enqueue(
                    self._topic, value, partition=number % self._partitions
                )
                group.create_task(self._note(delivery, value))
                number += 1
                await asyncio.sleep(self._interval_s)
            await producer.flush()

    def stop(self) -> None:
        self._stop.set()

    async def _note(self, delivery, value: str) -> None:
        ack = await delivery
        self.acknowledged[ack.partition, ack.offset] = value

    async def more(self, count: int = 100) -> None:
        """Return once so many more records were acknowledged: the cluster takes writes."""
        enough = len(self.acknowledged) + count
        await until(lambda: len(self.acknowledged) >= enough, what=f"{count} more acknowledgements")


@asynccontextmanager
async def load(client: Client, topic: str, **options) -> AsyncIterator[Load]:
    """Produce while the block runs; leaving it waits for every acknowledgement."""
    running = Load(client, topic, **options)
    async with asyncio.TaskGroup() as group:
        group.create_task(running.run())
        try:
            yield running
        finally:
            running.stop()


async def read_all(client: Client, topic: str, count: int, *, partitions: int = 6) -> dict:
    """Read every partition from its start until `count` records came: (partition, offset) -> value."""
    found: dict[tuple[int, int], str] = {}
    async with (
        asyncio.timeout(DEADLINE_S),
        client.consumer(key=serdes.raw, value=serdes.string) as consumer,
    ):
        consumer.assign([TopicPartition(topic, index) for index in range(partitions)])
        async for record in consumer:
            found[record.partition, record.offset] = record.value
            if len(found) >= count:
                return found
    raise AssertionError("unreachable: a consumer does not end by itself")


def in_order(found: dict[tuple[int, int], str]) -> bool:
    """Whether each partition's numbers rise with their offsets, without holes or repetition."""
    by_partition: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for (partition, offset), value in sorted(found.items()):
        by_partition[partition].append((offset, int(value)))
    return all(
        [offset for offset, _ in records] == list(range(len(records)))
        and [number for _, number in records] == sorted({number for _, number in records})
        for records in by_partition.values()
    )


class Member:
    """A consumer process.

    Attributes:
        seen: (partition, offset) -> value, in the order in which it processed them.
    """

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.seen: dict[tuple[int, int], str] = {}
        self.joined = False

    def partitions(self) -> set[int]:
        return {partition for partition, _ in self.seen}

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line == b"joined\n":
                self.joined = True
                continue
            partition, offset, value = line.decode().split()
            self.seen[int(partition), int(offset)] = value


@asynccontextmanager
async def member(bootstrap: str, group: str, topic: str) -> AsyncIterator[Member]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_MEMBER), bootstrap, group, topic, stdout=asyncio.subprocess.PIPE
    )
    joined = Member(process)
    listening = asyncio.create_task(joined.listen())
    try:
        await until(lambda: joined.joined, what="a member joins")
        yield joined
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()
        await listening

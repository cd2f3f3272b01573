"""What cluster tests share: a producer that never stops, readers, members of groups."""

import asyncio
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from odradek.client import Client, Delivery, serdes

PARTITIONS = 6
DEADLINE_S = 30.0
_MEMBER = Path(__file__).with_name("member.py")

Found = dict[tuple[int, int], str]
"""(partition, offset) -> value."""


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


async def new_topic(client: Client, *, partitions: int = PARTITIONS) -> str:
    topic = unique("topic")
    await client.admin.create_topic(topic, partitions=partitions)
    return topic


async def until(holds: Callable[[], bool], *, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return once a condition holds; polls, since the world outside sends no events."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not holds():
        assert loop.time() < end_s, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.02)


class Load:
    """Numbers, round robin over the partitions, until told to stop.

    Attributes:
        acknowledged: What is in the log for certain.
    """

    def __init__(self, client: Client, topic: str, *, rate: float) -> None:
        self._client = client
        self._topic = topic
        self._interval_s = 1 / rate
        self._stop = asyncio.Event()
        self.acknowledged: Found = {}

    async def run(self) -> None:
        async with (
            self._client.producer(value=serdes.string) as producer,
            asyncio.TaskGroup() as group,
        ):
            number = 0
            while not self._stop.is_set():
                value = str(number)
                delivery = await producer.enqueue(self._topic, value, partition=number % PARTITIONS)
                group.create_task(self._note(delivery, value))
                number += 1
                await asyncio.sleep(self._interval_s)

    def stop(self) -> None:
        self._stop.set()

    async def more(self, count: int = 100) -> None:
        """Return once so many more records were acknowledged in each partition."""
        enough = {index: seen + count // PARTITIONS for index, seen in self._counts().items()}
        await until(
            lambda: all(self._counts()[index] >= goal for index, goal in enough.items()),
            what=f"{count} more acknowledgements over all partitions",
        )

    def _counts(self) -> dict[int, int]:
        counts = dict.fromkeys(range(PARTITIONS), 0)
        for partition, _ in self.acknowledged:
            counts[partition] += 1
        return counts

    async def _note(self, delivery: Delivery, value: str) -> None:
        ack = await delivery
        self.acknowledged[ack.partition, ack.offset] = value


@asynccontextmanager
async def load(client: Client, topic: str, *, rate: float = 300.0) -> AsyncIterator[Load]:
    """Produce while the block runs; leaving it waits for every acknowledgement."""
    running = Load(client, topic, rate=rate)
    async with asyncio.TaskGroup() as group:
        producing = group.create_task(running.run())
        try:
            yield running
        except BaseException:
            producing.cancel()  # the block's own failure is the one to show, and at once
            raise
        running.stop()


async def produce(client: Client, topic: str, count: int) -> Found:
    """Produce so many numbers; return where they lie."""
    values = [str(number) for number in range(count)]
    async with client.producer(value=serdes.string) as producer:
        deliveries = [
            await producer.enqueue(topic, value, partition=number % PARTITIONS)
            for number, value in enumerate(values)
        ]
        acks = [await delivery for delivery in deliveries]
    return {(ack.partition, ack.offset): value for ack, value in zip(acks, values, strict=True)}


async def read_all(client: Client, topic: str) -> Found:
    """Read every partition from its start to its present end."""
    ends = await client.admin.list_offsets(topic)
    count = sum(ends.values())
    found: Found = {}
    async with asyncio.timeout(DEADLINE_S), client.consumer(value=serdes.string) as consumer:
        consumer.assign(ends)
        while len(found) < count:
            record = await anext(consumer)
            found[record.partition, record.offset] = record.value
    return found


def in_order(found: Found) -> bool:
    """Whether each partition's numbers rise with their offsets, without hole or repetition."""
    by_partition: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for (partition, offset), value in sorted(found.items()):
        by_partition[partition].append((offset, int(value)))
    return all(
        [offset for offset, _ in records] == list(range(len(records)))
        and [number for _, number in records] == sorted({number for _, number in records})
        for records in by_partition.values()
    )


class Member:
    """A member of a group: a process (`member_process`) or a task (`member_task`).

    Attributes:
        seen: What it processed, in this order; a record processed twice is there twice.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []
        self.joined = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None

    def partitions_since(self, count: int) -> set[int]:
        """Return the partitions of what it processed after its first `count` records."""
        return {partition for partition, _, _ in self.seen[count:]}


def together(members: list[Member]) -> Found:
    """Return what any of the members processed."""
    return {
        (partition, offset): value for member in members for partition, offset, value in member.seen
    }


@asynccontextmanager
async def member_process(bootstrap: str, group: str, topic: str) -> AsyncIterator[Member]:
    member = Member()
    member.process = await asyncio.create_subprocess_exec(
        sys.executable, str(_MEMBER), bootstrap, group, topic, stdout=asyncio.subprocess.PIPE
    )
    listening = asyncio.create_task(_listen(member, member.process))
    try:
        await asyncio.wait_for(member.joined.wait(), DEADLINE_S)
        yield member
    finally:
        if member.process.returncode is None:
            member.process.terminate()
            try:
                await asyncio.wait_for(member.process.wait(), 10)
            except TimeoutError:
                member.process.kill()
        await member.process.wait()
        await listening


async def _listen(member: Member, process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        if line == b"joined\n":
            member.joined.set()
            continue
        partition, offset, value = line.decode().split()
        member.seen.append((int(partition), int(offset), value))


@asynccontextmanager
async def member_task(client: Client, group: str, topic: str) -> AsyncIterator[Member]:
    member = Member()

    async def consume() -> None:
        async with client.consumer(topic, group=group, value=serdes.string) as consumer:
            member.joined.set()
            async for record in consumer:
                member.seen.append((record.partition, record.offset, record.value))

    consuming = asyncio.create_task(consume())
    try:
        await asyncio.wait_for(member.joined.wait(), DEADLINE_S)
        yield member
    finally:
        consuming.cancel()
        await asyncio.wait({consuming})
        if not consuming.cancelled():
            consuming.result()

"""What goes on in a cluster while its machines lose power, and what it was promised.

Everything is written down when the answer arrives: acknowledged records, records read (they were
below the high watermark, hence on disk), committed offsets, created topics.
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from odradek.client import Client, Delivery, OdradekError, TopicPartition, serdes
from tests.cluster.traffic import DEADLINE_S, PARTITIONS, Found, unique, until

_PAUSE_S = 0.003  # between two records
_COMMIT_EVERY = 25
_TOPIC_INTERVAL_S = 0.4


class Work:
    """A producer, a reader, a member of a group, and somebody who creates topics.

    Args:
        client: Of the cluster.
        replication: Of the topic.

    Attributes:
        acknowledged: (partition, offset) -> value.
        seen: As read.
        committed: Partition -> the offset that a successful commit covered.
        topics: Created, as the cluster said.
    """

    def __init__(self, client: Client, *, replication: int) -> None:
        self._client = client
        self._replication = replication
        self._stop = asyncio.Event()
        self.topic, self.group = unique("cut"), unique("group")
        self.acknowledged: Found = {}
        self.seen: Found = {}
        self.committed: dict[int, int] = {}
        self.topics: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._client.admin.create_topic(
            self.topic, partitions=PARTITIONS, replication=self._replication
        )
        async with AsyncExitStack() as undo:
            tasks = await undo.enter_async_context(asyncio.TaskGroup())
            self._producing = tasks.create_task(self._produce())
            self._others = [
                tasks.create_task(each())
                for each in (self._read, self._commit, self._create_topics)
            ]
            self._undo = undo.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if kind is not None:
            self._producing.cancel()
        for task in self._others:
            task.cancel()
        await self._undo.__aexit__(kind, error, traceback)

    async def more(self, count: int) -> None:
        """Return once so many more records were acknowledged in every partition together."""
        goal = {each: seen + count // PARTITIONS for each, seen in self._counts().items()}
        await until(
            lambda: all(self._counts()[each] >= goal[each] for each in goal),
            what=f"{count} more acknowledgements over all partitions",
        )

    async def check(self) -> None:
        """Compare the cluster with what was promised.

        Raises:
            AssertionError: Something is missing.
        """
        acknowledged, seen = dict(self.acknowledged), dict(self.seen)
        committed, topics = dict(self.committed), set(self.topics)
        async with asyncio.timeout(DEADLINE_S):
            found = await self._read_to_end()
            listed = {each.name for each in await self._client.admin.list_topics()}
            offsets = await self._client.admin.committed_offsets(self.group)
        _check_subset(acknowledged, found, "acknowledged")
        _check_subset(seen, found, "read before")
        assert topics <= listed, f"topics are lost: {topics - listed}"
        now: dict[int, int] = {each.partition: offset.offset for each, offset in offsets.items()}
        behind = {each: at for each, at in committed.items() if now.get(each, 0) < at}
        assert not behind, f"committed offsets are lost: {behind} were committed, now {now}"

    async def check_all(self) -> None:
        """Stop producing, then check that there is nothing but what was acknowledged, in order."""
        self._stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait({self._producing})
        await self.check()
        found = await self._read_to_end()
        assert found == self.acknowledged
        by_partition: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for (partition, offset), value in sorted(found.items()):
            by_partition[partition].append((offset, _number(value)))
        for records in by_partition.values():
            assert [offset for offset, _ in records] == list(range(len(records)))
            numbers = [number for _, number in records]
            assert numbers == sorted(set(numbers)), "out of order, or twice"

    async def _read_to_end(self) -> Found:
        """Read every partition from its start to its present end, while others write."""
        ends = {each: end for each, end in (await self._ends()).items() if end}
        found: Found = {}
        async with self._client.consumer(value=serdes.string) as consumer:
            consumer.assign(ends)
            missing: dict[int, int] = {each.partition: end - 1 for each, end in ends.items()}
            async for record in consumer:
                found[record.partition, record.offset] = record.value
                if missing.get(record.partition, -1) <= record.offset:
                    missing.pop(record.partition, None)
                    if not missing:
                        break
        return found

    async def _ends(self) -> dict[TopicPartition, int]:
        return await self._client.admin.list_offsets(self.topic)

    def _counts(self) -> dict[int, int]:
        counts = dict.fromkeys(range(PARTITIONS), 0)
        for partition, _ in self.acknowledged:
            counts[partition] += 1
        return counts

    async def _produce(self) -> None:
        async with (
            self._client.producer(value=serdes.string) as producer,
            asyncio.TaskGroup() as group,
        ):
            for number in itertools.count():
                if self._stop.is_set():
                    return
                value = f"{number};" * (1 + number * 7919 % 300)
                delivery = await producer.enqueue(self.topic, value, partition=number % PARTITIONS)
                group.create_task(self._note(delivery, value))
                await asyncio.sleep(_PAUSE_S)

    async def _note(self, delivery: Delivery, value: str) -> None:
        ack = await delivery
        self.acknowledged[ack.partition, ack.offset] = value

    async def _read(self) -> None:
        async with self._client.consumer(value=serdes.string) as consumer:
            consumer.assign(await self._ends())
            async for record in consumer:
                self.seen[record.partition, record.offset] = record.value

    async def _commit(self) -> None:
        processed: dict[int, int] = {}

        def forget(lost: Sequence[TopicPartition]) -> None:
            """What was not committed when the membership ended is read again, from further back."""
            for each in lost:
                processed.pop(each.partition, None)

        async with self._client.consumer(
            self.topic, group=self.group, value=serdes.string, on_lost=forget
        ) as consumer:
            for count in itertools.count(1):
                record = await anext(consumer)
                if count % _COMMIT_EVERY == 0:
                    covered = dict(processed)
                    try:
                        await consumer.commit()
                    except OdradekError:
                        continue  # nothing was promised
                    self.committed |= {each: covered[each] for each in covered.keys() & processed}
                processed[record.partition] = record.offset + 1

    async def _create_topics(self) -> None:
        while True:
            name = unique("made")
            try:
                await self._client.admin.create_topic(name, partitions=1, replication=1)
                self.topics.add(name)
            except OdradekError:
                pass  # nothing was promised
            await asyncio.sleep(_TOPIC_INTERVAL_S)


def _number(value: str) -> int:
    return int(value.partition(";")[0])


def _check_subset(promised: Found, found: Found, what: str) -> None:
    wrong = {place: value[:20] for place, value in promised.items() if found.get(place) != value}
    there = {place: found.get(place, "-")[:20] for place in list(wrong)[:5]}
    assert not wrong, (
        f"{len(wrong)} records {what} are gone, such as {list(wrong.items())[:5]}: {there}"
    )

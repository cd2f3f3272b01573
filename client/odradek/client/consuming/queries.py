"""What a consumer can be asked: positions, committed offsets, lag."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from odradek.client.cluster.coordinator import Coordinator
from odradek.client.cluster.log_offsets import list_offsets
from odradek.client.cluster.retries import retrying
from odradek.client.cluster.scope import Scope
from odradek.client.config import ConsumerOptions, Isolation
from odradek.client.consuming.in_hand import InHand
from odradek.client.consuming.positions import Anchor, LogPosition, Target, TopicIdPartition
from odradek.client.consuming.reader import Reader
from odradek.client.errors import NotAssignedError
from odradek.protocol.errors import (
    OdradekError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.types import MemberId, Offset, TopicPartition


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a consumer is behind in one partition.

    Attributes:
        records: Offsets between the next record to hand out and the end it may see.
        seconds: Age of the record at the position, in seconds; 0 when there is none to read, None
            while that record is on its way.
    """

    records: int
    seconds: float | None


class ConsumerQueries:
    """Answers for one consumer.

    Args:
        scope: The client.
        options: The consumer's.
        reader: What it reads.
        in_hand: What the application holds.
        coordinator: The group's; None without a group.
        member: Returns member id and epoch.
        clock_s: Seconds since the epoch.
    """

    def __init__(
        self,
        scope: Scope,
        options: ConsumerOptions,
        reader: Reader[Any, Any],
        in_hand: InHand[Any, Any],
        *,
        coordinator: Coordinator | None,
        member: Callable[[], tuple[MemberId, int]],
        clock_s: Callable[[], float],
    ) -> None:
        self._scope = scope
        self._options = options
        self._reader = reader
        self._in_hand = in_hand
        self._coordinator = coordinator
        self._member = member
        self._clock_s = clock_s

    def find(self, name: TopicPartition) -> TopicIdPartition:
        """Return a partition with its topic's id.

        Raises:
            UnknownTopicOrPartitionError: This cluster has no such partition.
        """
        info = self._scope.metadata.image.topics.get(name.topic)
        if info is None:
            raise self._scope.metadata.unknown_topic(name.topic)
        if not 0 <= name.partition < len(info.partitions):
            raise UnknownTopicOrPartitionError(
                f"topic {name.topic!r} has {len(info.partitions)} partitions, there is no"
                f" {name.partition}",
                field="partition",
                value=name.partition,
                limit=len(info.partitions) - 1,
            )
        return TopicIdPartition(name.topic, name.partition, info.topic_id)

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record, once it is known."""
        timeout_s = self._scope.options.operation_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                while (offset := self.known_position(partition)) is None:
                    self._reader.handout.raise_failures()
                    await self._reader.located()
        except TimeoutError:
            raise RequestTimedOutError(
                f"the position of {partition} was not found in {timeout_s:g} s",
                field="operation_timeout_s",
                value=timeout_s,
                limit=timeout_s,
            ) from None
        return offset

    def known_position(self, partition: TopicPartition) -> Offset | None:
        """Return the offset of the next record; None while it is being looked up."""
        state = self._reader.positions.get(partition)
        if state is None:
            raise NotAssignedError(
                f"{partition} is not assigned to this consumer", field="partition", value=partition
            )
        held = self._in_hand.position(partition)
        return state.position if held is None else held

    async def committed(
        self, partitions: Iterable[TopicIdPartition]
    ) -> dict[TopicIdPartition, LogPosition | None]:
        """Read the group's committed offsets, once."""
        assert self._coordinator is not None, "asked only with a group"
        return await self._coordinator.committed(
            partitions,
            self._member(),
            require_stable=self._options.isolation is Isolation.READ_COMMITTED,
        )

    async def committed_soon(
        self, partitions: list[TopicIdPartition]
    ) -> dict[TopicIdPartition, LogPosition | None]:
        """Read the group's committed offsets, repeating what is retriable."""
        return await retrying(
            lambda: self.committed(partitions),
            what="committed",
            timeout_s=self._scope.options.operation_timeout_s,
            chance=self._scope.chance,
        )

    async def lag(self) -> dict[TopicPartition, Lag]:
        """Return how far behind each assigned partition is."""
        ends = await retrying(
            self._ends,
            what="lag",
            timeout_s=self._scope.options.operation_timeout_s,
            chance=self._scope.chance,
        )
        lags = {}
        for partition, end in ends.items():
            state = self._reader.positions.get(partition.name)
            position = None if state is None else self.known_position(partition.name)
            if position is not None:
                records = max(0, end.offset - position)
                lags[partition.name] = Lag(records, self._seconds(partition.name, records))
        return lags

    async def _ends(self) -> dict[TopicIdPartition, LogPosition]:
        questions: dict[TopicIdPartition, Target] = {
            state.id: Anchor.LATEST for state in self._reader.positions
        }
        answers = await list_offsets(self._scope, questions, self._options.isolation)
        ends = {}
        for partition, answer in answers.items():
            if isinstance(answer, OdradekError):
                raise answer
            ends[partition] = answer
        return ends

    def _seconds(self, partition: TopicPartition, records: int) -> float | None:
        if not records:
            return 0.0
        held = self._in_hand.record
        if held is not None and (held.topic, held.partition) == (
            partition.topic,
            partition.partition,
        ):
            timestamp_ms: int | None = held.timestamp_ms
        else:
            timestamp_ms = self._reader.handout.next_timestamp_ms(partition)
        if timestamp_ms is None or timestamp_ms < 0:
            return None
        return max(0.0, self._clock_s() - timestamp_ms / 1000)

"""Which partition is read from which node, and how many bytes may be on their way. Pure.

Problem: a consumer reads many partitions over one stream per node, while leaders move, streams
break, positions jump, and memory must stay bounded however slow the application is. Idea: for every
partition the plan knows what stands on the node (a subscription and its unused credit) and what is
buffered here. Each event changes that knowledge; `frame` returns whatever a node must be told to
close the gap. Credit follows one equation: unused credit + buffered bytes = window.

Windows shrink as partitions are added, so that all of them together do not exceed the total (down
to 64 KiB each: a consumer of very many partitions may hold more).

Invariants: subscription ids are never reused, and a push under any other than the standing one is
dropped, so nothing from before a seek or a rebalance reaches the application; a subscription begins
where the last accepted push ended; unused credit + buffered bytes <= window, except for one batch
larger than the window, which the node sends when all of its credit is unused.

Source: SEMANTICS of `Fetch` in broker.proto; the credit idea is HTTP/2's flow control.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from msgspec import Struct

from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import BrokerError, OffsetOutOfRangeError
from odradek.protocol.types import LeaderEpoch, NodeId, Offset, TopicPartition

_WINDOW_BYTES_MIN = 64 * 1024
_RETURN_FRACTION = 2  # credit is returned by halves of a window: few frames, and no stall
_CREDIT_DELAY_S = 0.05  # at most 20 frames a second only to return a little credit
_RETRY_DELAY_S = 0.05
_RETRY_DELAY_S_MAX = 1.0


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads a partition."""

    node: NodeId
    epoch: LeaderEpoch


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A subscription to begin."""

    subscription_id: int
    partition: TopicIdPartition
    leader_epoch: LeaderEpoch
    offset: Offset
    last_fetched_epoch: LeaderEpoch
    credit_bytes: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What to tell a node, in this order."""

    unsubscribe: tuple[int, ...] = ()
    subscribe: tuple[Subscribe, ...] = ()
    credits: tuple[tuple[int, int], ...] = ()
    """Subscription id and bytes to add."""
    total_credit_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.unsubscribe or self.subscribe or self.credits or self.total_credit_bytes)


class EndKind(enum.Enum):
    """Why a subscription ended."""

    RETRY = "retry"
    """The plan subscribes again by itself after a delay."""
    STALE_LEADER = "stale_leader"
    """The same, and metadata should be refreshed."""
    OUT_OF_RANGE = "out_of_range"
    """No longer read; the position must be found anew."""
    REFUSED = "refused"
    """No longer read; retrying does not help."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A standing subscription ended."""

    partition: TopicIdPartition
    generation: int
    kind: EndKind


class Accepted(Struct, frozen=True):
    """A push that counts. Hand it back to `on_released` when its bytes have left the buffer."""

    partition: TopicIdPartition
    generation: int
    node: NodeId
    stream_serial: int
    size_bytes: int


@dataclass(slots=True)
class _Reading:
    partition: TopicIdPartition
    generation: int
    offset: Offset
    """The next to fetch: the end of the last accepted push."""
    last_epoch: LeaderEpoch
    """The leader epoch of the record before `offset`."""
    leader: Leader | None
    subscription_id: int | None = None
    """Standing on `node`."""
    node: NodeId | None = None
    unused_bytes: int = 0
    """Credit of the standing subscription."""
    buffered_bytes: int = 0
    failures: int = 0
    retry_at_s: float = 0.0


@dataclass(slots=True)
class _Stream:
    serial: int
    unused_bytes: int = 0
    held_bytes: int = 0
    """Received over this stream and still buffered."""
    unsubscribe: list[int] = field(default_factory=list)
    due: dict[TopicPartition, None] = field(default_factory=dict)
    """Partitions to look at when the next frame is made."""


class FetchPlan:
    """The partitions one consumer reads, and its open streams.

    Args:
        partition_bytes: Window of one partition at most.
        total_bytes: All windows together.
    """

    def __init__(self, *, partition_bytes: int, total_bytes: int) -> None:
        self._partition_bytes = partition_bytes
        self._total_bytes = total_bytes
        self._readings: dict[TopicPartition, _Reading] = {}
        self._by_subscription: dict[int, _Reading] = {}
        self._streams: dict[NodeId, _Stream] = {}
        self._serial = 0

    @property
    def window_bytes(self) -> int:
        """What one partition may have buffered and on its way."""
        share = self._total_bytes // max(1, len(self._readings))
        return min(self._partition_bytes, max(share, _WINDOW_BYTES_MIN))

    def partitions(self) -> Iterator[TopicIdPartition]:
        """Yield what is read."""
        return (reading.partition for reading in self._readings.values())

    def nodes(self) -> set[NodeId]:
        """Return the nodes to which a stream should stand."""
        return {each.leader.node for each in self._readings.values() if each.leader is not None}

    def buffered_bytes(self) -> int:
        """Return how much has been accepted and not released yet."""
        return sum(each.buffered_bytes for each in self._readings.values())

    def read(
        self,
        partition: TopicIdPartition,
        generation: int,
        offset: Offset,
        last_epoch: LeaderEpoch,
        leader: Leader | None,
    ) -> None:
        """Read a partition from an offset on; whatever was read of it before is void."""
        self.stop(partition.name)
        self._readings[partition.name] = _Reading(partition, generation, offset, last_epoch, leader)
        self._mark(partition.name, leader)

    def reads(self, partition: TopicPartition, generation: int) -> bool:
        """Whether a partition is being read for this generation."""
        reading = self._readings.get(partition)
        return reading is not None and reading.generation == generation

    def stop(self, partition: TopicPartition) -> None:
        """Read a partition no longer."""
        reading = self._readings.pop(partition, None)
        if reading is not None:
            self._end_subscription(reading, tell=True)

    def on_leader(self, partition: TopicPartition, leader: Leader | None) -> None:
        """Metadata names a leader, perhaps the same as before."""
        reading = self._readings.get(partition)
        if reading is None or reading.leader == leader:
            return
        self._end_subscription(reading, tell=True)
        reading.leader = leader
        reading.retry_at_s = 0.0
        self._mark(partition, leader)

    def on_stream_opened(self, node: NodeId) -> None:
        """A stream to a node stands; nothing is subscribed on it."""
        assert node not in self._streams, "one stream per node"
        self._serial += 1
        self._streams[node] = _Stream(self._serial)
        for name, reading in self._readings.items():
            self._mark(name, reading.leader)

    def on_stream_lost(self, node: NodeId, now_s: float) -> None:
        """A stream broke, or was closed: its subscriptions are gone, its pushes were kept."""
        if self._streams.pop(node, None) is None:
            return
        for reading in self._readings.values():
            if reading.node == node:
                self._end_subscription(reading, tell=False)
                self._delay(reading, now_s)

    def on_push(
        self, node: NodeId, subscription_id: int, size_bytes: int, end: Offset, epoch: LeaderEpoch
    ) -> Accepted | None:
        """Account for a push with records; None when it is stale and to be dropped.

        Args:
            node: Whence.
            subscription_id: As pushed.
            size_bytes: Of the records.
            end: The offset after the last batch.
            epoch: The leader epoch of the last batch.
        """
        stream = self._streams[node]
        stream.unused_bytes -= size_bytes
        reading = self._by_subscription.get(subscription_id)
        if reading is None or reading.node != node:
            return None
        stream.held_bytes += size_bytes
        reading.unused_bytes -= size_bytes
        reading.buffered_bytes += size_bytes
        reading.offset = max(reading.offset, end)
        reading.last_epoch = epoch
        reading.failures = 0
        return Accepted(reading.partition, reading.generation, node, stream.serial, size_bytes)

    def on_answered(self, node: NodeId, subscription_id: int) -> None:
        """A node accepted a subscription, and has nothing for it yet."""
        reading = self._by_subscription.get(subscription_id)
        if reading is not None and reading.node == node:
            reading.failures = 0

    def standing(self, node: NodeId, subscription_id: int) -> tuple[TopicIdPartition, int] | None:
        """Return partition and generation of a subscription that still counts."""
        reading = self._by_subscription.get(subscription_id)
        if reading is None or reading.node != node:
            return None
        return reading.partition, reading.generation

    def on_ended(
        self, node: NodeId, subscription_id: int, error: BrokerError, now_s: float
    ) -> Ended | None:
        """A node ended a subscription; None when it did not count any more."""
        reading = self._by_subscription.get(subscription_id)
        if reading is None or reading.node != node:
            return None
        self._end_subscription(reading, tell=False)
        if isinstance(error, OffsetOutOfRangeError):
            kind = EndKind.OUT_OF_RANGE
        elif error.retriable:
            kind = EndKind.STALE_LEADER if error.refreshes_metadata else EndKind.RETRY
        else:
            kind = EndKind.REFUSED
        if kind in {EndKind.RETRY, EndKind.STALE_LEADER}:
            self._delay(reading, now_s)
        else:
            self.stop(reading.partition.name)
        return Ended(reading.partition, reading.generation, kind)

    def on_released(self, push: Accepted) -> None:
        """The bytes of a push have left the buffer: handed out, or dropped."""
        stream = self._streams.get(push.node)
        if stream is not None and stream.serial == push.stream_serial:
            stream.held_bytes -= push.size_bytes
        reading = self._readings.get(push.partition.name)
        if reading is not None and reading.generation == push.generation:
            reading.buffered_bytes -= push.size_bytes
            self._mark(push.partition.name, reading.leader)

    def due_in_s(self, node: NodeId, now_s: float) -> float | None:
        """Return how soon a node should get its next frame; None when there is nothing to tell.

        Small returns of credit wait a little for company; everything else leaves at once.
        """
        stream = self._streams.get(node)
        if stream is None:
            return None
        total = self._total_due(stream)
        if stream.unsubscribe or total * _RETURN_FRACTION >= self._total_bytes:
            return 0.0
        window = self.window_bytes
        waits = [
            wait_s
            for name in stream.due
            if (wait_s := self._wait_s(self._readings.get(name), window, now_s)) is not None
        ]
        if total > 0:
            waits.append(_CREDIT_DELAY_S)
        return min(waits, default=None)

    def frame(self, node: NodeId, now_s: float) -> Frame:
        """Take everything a node must be told; falsy when there is nothing."""
        stream = self._streams.get(node)
        if stream is None:
            return Frame()
        unsubscribe, stream.unsubscribe = tuple(stream.unsubscribe), []
        subscribe: list[Subscribe] = []
        grants: list[tuple[int, int]] = []
        names, stream.due = stream.due, {}
        window = self.window_bytes
        for name in names:
            reading = self._readings.get(name)
            if reading is None or reading.leader is None or reading.leader.node != node:
                continue
            missing = window - reading.unused_bytes - reading.buffered_bytes
            if reading.subscription_id is not None and missing > 0:
                reading.unused_bytes += missing
                grants.append((reading.subscription_id, missing))
            elif reading.subscription_id is None and reading.retry_at_s > now_s:
                stream.due[name] = None
            elif reading.subscription_id is None and missing > 0:
                subscribe.append(self._subscribe(reading, reading.leader, missing))
        total = self._total_due(stream)
        stream.unused_bytes += total
        return Frame(unsubscribe, tuple(subscribe), tuple(grants), total)

    def _subscribe(self, reading: _Reading, leader: Leader, credit_bytes: int) -> Subscribe:
        self._serial += 1
        reading.subscription_id, reading.node = self._serial, leader.node
        reading.unused_bytes = credit_bytes
        self._by_subscription[self._serial] = reading
        return Subscribe(
            self._serial,
            reading.partition,
            leader.epoch,
            reading.offset,
            reading.last_epoch,
            credit_bytes,
        )

    def _end_subscription(self, reading: _Reading, *, tell: bool) -> None:
        if reading.subscription_id is None:
            return
        assert reading.node is not None, "a subscription stands somewhere"
        stream = self._streams.get(reading.node)
        if tell and stream is not None:
            stream.unsubscribe.append(reading.subscription_id)
        del self._by_subscription[reading.subscription_id]
        reading.subscription_id = reading.node = None
        reading.unused_bytes = 0

    def _delay(self, reading: _Reading, now_s: float) -> None:
        delay_s = min(_RETRY_DELAY_S * 2**reading.failures, _RETRY_DELAY_S_MAX)
        reading.failures = min(reading.failures + 1, 16)
        reading.retry_at_s = now_s + delay_s
        self._mark(reading.partition.name, reading.leader)

    def _mark(self, partition: TopicPartition, leader: Leader | None) -> None:
        stream = self._streams.get(leader.node) if leader is not None else None
        if stream is not None:
            stream.due[partition] = None

    def _total_due(self, stream: _Stream) -> int:
        return max(0, self._total_bytes - stream.unused_bytes - stream.held_bytes)

    def _wait_s(self, reading: _Reading | None, window: int, now_s: float) -> float | None:
        if reading is None:
            return None
        missing = window - reading.unused_bytes - reading.buffered_bytes
        if missing <= 0:
            return None
        if reading.subscription_id is None:
            return max(0.0, reading.retry_at_s - now_s)
        return 0.0 if missing * _RETURN_FRACTION >= window else _CREDIT_DELAY_S

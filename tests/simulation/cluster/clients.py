"""Producers and readers as honest clients are.

A producer keeps five batches in flight for each partition, once its first was acknowledged. When it
hears anything but success, it sends again from the first that is not acknowledged, in order. A
reader goes on where it stopped and remembers the highest high watermark it was told.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odradek.protocol.errors import BrokerError, OffsetOutOfRangeError
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import (
    FIRST_OFFSET,
    NO_LEADER_EPOCH,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionUid,
    ProducerEpoch,
    ProducerId,
)
from tests.simulation.cluster.disk import Batch
from tests.simulation.cluster.events import Process
from tests.simulation.cluster.network import Half, connect, on_death
from tests.simulation.cluster.oracle import check

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

UNKNOWN_OFFSET = Offset(-1)
_IN_FLIGHT_MAX = 5
_REQUEST_TIMEOUT_S = 3.0
_BACKOFF_S = 0.05


@dataclass(frozen=True, slots=True)
class Produce:
    """A request with one batch."""

    correlation: int
    uid: PartitionUid
    leader_epoch: LeaderEpoch
    batch: Batch


@dataclass(frozen=True, slots=True)
class Produced:
    """Its answer; a batch too old to know its offset has -1."""

    correlation: int
    base_offset: Offset
    append_time_ms: int
    error: BrokerError | None = None


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request for what comes after an offset."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    offset: Offset


@dataclass(frozen=True, slots=True)
class Fetched:
    """Its answer; a leader that has just begun may not know the high watermark."""

    uid: PartitionUid
    offset: Offset
    high_watermark: Offset
    batches: tuple[Batch, ...]
    error: BrokerError | None = None


class Client(Process):
    """A process that talks to whichever node leads, as far as it knows."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name, world.scheduler)
        self.world = world
        self.chance = world.chance
        self._links: dict[NodeId, Half] = {}

    def start(self) -> None:
        """Begin."""
        self.begin_life()

    def die(self) -> None:
        """Be killed; nobody starts it again."""
        self.end_life()
        on_death(list(self._links.values()))
        self._links.clear()

    def leader_of(self, uid: PartitionUid) -> tuple[NodeId, LeaderEpoch] | None:
        """Ask any node that answers."""
        nodes = [
            node
            for node in self.world.nodes.values()
            if node.is_up and not node.is_paused and not self.world.network.is_cut(node, self)
        ]
        return self.chance.choice(nodes).leader_of(uid) if nodes else None

    def link_to(self, node_id: NodeId) -> Half:
        """Return the stream to a node, opening it when there is none."""
        half = self._links.get(node_id)
        if half is None or half.is_broken:
            node = self.world.nodes[node_id]
            half = connect(self.world.network, self, node, node.accept_client)
            half.end = _End(self, node_id)
            self._links[node_id] = half
        return half

    def on_answer(self, node_id: NodeId, answer: Any) -> None:
        """A node answered."""

    def on_lost(self, node_id: NodeId) -> None:
        """The stream to a node broke."""


@dataclass(slots=True)
class _End:
    client: Client
    node_id: NodeId

    def on_frame(self, frame: Any) -> None:
        self.client.on_answer(self.node_id, frame)

    def on_broken(self) -> None:
        self.client.on_lost(self.node_id)


@dataclass(slots=True)
class _Lane:
    """What a producer has for one partition."""

    uid: PartitionUid
    sequence: int = 0
    unacknowledged: deque[Batch] | None = None
    sent: dict[int, Batch] | None = None  # by correlation id
    sent_to: NodeId | None = None
    next_index: int = 0  # of the first batch that is not on its way
    waits_until_s: float = 0.0
    asked_at_s: float = 0.0
    is_known: bool = False  # a leader takes any sequence from a producer it does not know

    @property
    def may_send(self) -> bool:
        """Whether another batch may be under way."""
        in_flight_max = _IN_FLIGHT_MAX if self.is_known else 1
        return self.next_index < min(len(self.unacknowledged or ()), in_flight_max)


class SimulatedProducer(Client):
    """Sends batches with a producer id until told to stop."""

    def __init__(self, name: str, world: "World", producer_id: int) -> None:
        super().__init__(name, world)
        self.producer_id = ProducerId(producer_id)
        self.wall = world.clocks.of_producer()
        self.is_producing = True
        self._correlation = 0
        self._lanes = {uid: _Lane(uid, 0, deque(), {}) for uid in world.data_uids}

    @property
    def unacknowledged_count(self) -> int:
        """Batches that are not acknowledged yet."""
        return sum(len(lane.unacknowledged or ()) for lane in self._lanes.values())

    def start(self) -> None:
        super().start()
        self.every(0.1, self._tick)
        self._produce_later()

    def _produce_later(self) -> None:
        self.after(self.chance.expovariate(self.world.batches_per_s), self._produce)

    def _produce(self) -> None:
        self._produce_later()
        if not self.is_producing:
            return
        lane = self._lanes[self.chance.choice(self.world.data_uids)]
        assert lane.unacknowledged is not None
        if len(lane.unacknowledged) >= 3 * _IN_FLIGHT_MAX:
            return
        count = self.chance.choice([1, 1, 1, 2, 7])
        content = self.world.next_content()
        batch = make_batch(self.producer_id, lane.sequence, count, content, self.wall.now_ms)
        lane.sequence += count
        lane.unacknowledged.append(batch)
        self._send(lane)

    def _tick(self) -> None:
        for lane in self._lanes.values():
            if lane.sent and self.now_s - lane.asked_at_s > _REQUEST_TIMEOUT_S:
                assert lane.sent_to is not None
                self.link_to(lane.sent_to).close()
                self._start_over(lane)
            self._send(lane)

    def _send(self, lane: _Lane) -> None:
        queue, sent = lane.unacknowledged, lane.sent
        assert queue is not None
        assert sent is not None
        if not lane.may_send or self.now_s < lane.waits_until_s:
            return
        found = self.leader_of(lane.uid)
        if found is None:
            return
        leader, epoch = found
        if sent and leader != lane.sent_to:
            return  # until all of the other one has been heard of
        half = self.link_to(leader)
        lane.sent_to = leader
        while lane.may_send:
            batch = queue[lane.next_index]
            lane.next_index += 1
            self._correlation += 1
            sent[self._correlation] = batch
            lane.asked_at_s = self.now_s
            half.send(Produce(self._correlation, lane.uid, epoch, batch))

    def on_answer(self, node_id: NodeId, answer: Any) -> None:
        del node_id
        if not isinstance(answer, Produced):
            return
        for lane in self._lanes.values():
            assert lane.sent is not None
            batch = lane.sent.pop(answer.correlation, None)
            if batch is None:
                continue
            if answer.error is not None:
                self._start_over(lane)
            else:
                self._acknowledged(lane, batch, answer)

    def _acknowledged(self, lane: _Lane, batch: Batch, answer: Produced) -> None:
        queue = lane.unacknowledged
        assert queue is not None
        if batch not in queue:
            return
        while queue:
            # Sequences prove that what came before is in the log as well.
            lane.next_index = max(0, lane.next_index - 1)
            if queue.popleft() is batch:
                break
        lane.is_known = True
        offset, time_ms = answer.base_offset, answer.append_time_ms
        self.world.oracle.on_acknowledged(lane.uid, offset, batch.crc, time_ms)
        self._send(lane)

    def _start_over(self, lane: _Lane) -> None:
        """Whatever is on its way may come or not: send everything again, after a while."""
        assert lane.sent is not None
        lane.sent.clear()
        lane.next_index = 0
        lane.waits_until_s = self.now_s + _BACKOFF_S * (0.5 + self.chance.random())

    def on_lost(self, node_id: NodeId) -> None:
        for lane in self._lanes.values():
            if lane.sent_to == node_id and lane.sent:
                self._start_over(lane)


class SimulatedReader(Client):
    """Reads every data partition from its start."""

    def __init__(self, name: str, world: "World") -> None:
        super().__init__(name, world)
        self.positions = dict.fromkeys(world.data_uids, FIRST_OFFSET)
        self._high_watermarks = dict.fromkeys(world.data_uids, FIRST_OFFSET)
        self._epochs = dict.fromkeys(world.data_uids, NO_LEADER_EPOCH)

    def start(self) -> None:
        super().start()
        self.every(0.15, self._tick)

    def _tick(self) -> None:
        for uid in self.positions:
            found = self.leader_of(uid)
            if found is not None and found[1] >= self._epochs[uid]:  # never back to an older one
                leader, self._epochs[uid] = found
                epoch = self._epochs[uid]
                self.link_to(leader).send(Fetch(uid, epoch, self.positions[uid]))

    def on_answer(self, node_id: NodeId, answer: Any) -> None:
        if not isinstance(answer, Fetched):
            return
        if answer.error is not None:
            check(
                not isinstance(answer.error, OffsetOutOfRangeError),
                "what was read stays readable",
                "{} is out of range at node {}",
                answer,
                node_id,
            )
            return
        known = self._high_watermarks[answer.uid]
        if answer.offset != self.positions[answer.uid]:
            return  # another answer came first
        check(
            answer.high_watermark >= known or answer.high_watermark == UNKNOWN_OFFSET,
            "the high watermark never falls for a client",
            "{} was told {} of {}, then {} by {}",
            self,
            known,
            answer.uid,
            answer.high_watermark,
            node_id,
        )
        self._high_watermarks[answer.uid] = max(answer.high_watermark, known)
        for batch in answer.batches:
            self.world.oracle.on_read(answer.uid, batch)
            check(
                batch.base_offset <= self.positions[answer.uid] < batch.next_offset,
                "no record is skipped",
                "{} is at {} of {} and gets {}",
                self,
                self.positions[answer.uid],
                answer.uid,
                batch,
            )
            self.positions[answer.uid] = batch.next_offset


def make_batch(
    producer_id: ProducerId, sequence: int, count: int, content: int, time_ms: int = 0
) -> Batch:
    """Return a batch as a producer sends it."""
    return BatchHeader(
        base_offset=FIRST_OFFSET,
        batch_length=100,
        leader_epoch=NO_LEADER_EPOCH,
        magic=2,
        crc=content,
        attributes=0,
        last_offset_delta=count - 1,
        base_timestamp=time_ms,
        max_timestamp=time_ms,
        producer_id=producer_id,
        producer_epoch=ProducerEpoch(0),
        base_sequence=sequence,
        record_count=count,
    )


def contents(batches: Iterable[Batch]) -> list[int]:
    """Return what batches hold."""
    return [batch.crc for batch in batches]

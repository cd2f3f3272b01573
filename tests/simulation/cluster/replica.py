"""One replica on one node: performs what the production leader and follower decide.

What `PartitionReplica` is to a real node, with callbacks for coroutines and virtual time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from odradek.node.cluster.image import PartitionState, TopicState
from odradek.node.replication import follower as following
from odradek.node.replication import leader as leading
from odradek.node.replication.durable_end import DurableEnd
from odradek.node.replication.follower import FollowerReplica
from odradek.node.replication.leader import LeaderReplica
from odradek.node.replication.session import HighWatermarkAdvanced
from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    NotEnoughReplicasError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
)
from odradek.protocol.topic_config import Flush, parse_topic_config
from odradek.protocol.types import (
    FIRST_OFFSET,
    NO_NODE,
    NO_PRODUCER_ID,
    LeaderEpoch,
    NodeId,
    Offset,
)
from tests.simulation.cluster.clients import (
    UNKNOWN_OFFSET,
    Fetch,
    Fetched,
    Produce,
    Produced,
    make_batch,
)
from tests.simulation.cluster.clocks import NO_TIME, append_time_ms
from tests.simulation.cluster.disk import Batch
from tests.simulation.cluster.frames import PushDueAt
from tests.simulation.cluster.isr_proposals import propose
from tests.simulation.cluster.network import Half

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode

Done = Callable[[BrokerError | None], None]

_READ_BATCHES_MAX = 10


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Somebody waits for a high watermark."""

    end: Offset
    done: Done


class SimulatedReplica:
    """A replica while its node hosts it."""

    def __init__(self, node: "SimulatedNode", topic: TopicState, state: PartitionState) -> None:
        self.node = node
        self.uid = state.uid
        self.place = state
        self.log = node.disk.log(state.uid)
        self.leader: LeaderReplica | None = None
        self.follower: FollowerReplica | None = None
        self._durable = DurableEnd(self.log.log_end_offset)
        self.high_watermark = self.log.high_watermark_checkpoint
        self._waiting: list[_Waiting] = []
        self._leader_epoch: LeaderEpoch | None = None
        self._settings: Mapping[str, str] | None = None
        self._take_config(topic)

    def _take_config(self, topic: TopicState) -> None:
        if topic.config != self._settings:
            self._settings, self._config = topic.config, parse_topic_config(topic.config)
        self._flush = self._config.flush
        settled = len(self.place.replicas) - len(self.place.adding_replicas)
        self._min_insync = self._config.min_insync(settled)

    # Roles

    @property
    def is_leader(self) -> bool:
        """Whether its node leads."""
        return self.leader is not None

    @property
    def reached_epoch_start(self) -> bool:
        """Whether everything earlier leaders committed is known to be committed."""
        return self.leader is not None and self.leader.reached_epoch_start

    def on_image(self, topic: TopicState, state: PartitionState) -> None:
        """The image may have changed."""
        self.place = state
        self._take_config(topic)
        node = self.node
        if state.leader_epoch == self._leader_epoch:
            if self.leader is not None:
                self._perform(
                    self.leader.on_image(state, node.incarnations, self._min_insync, node.now_s)
                )
            return
        self._leader_epoch = state.leader_epoch
        self._resign()
        if state.leader_id == node.node_id:
            self._lead(state)
        elif state.leader_id != NO_NODE:
            self._follow(state)

    def _lead(self, state: PartitionState) -> None:
        node, log = self.node, self.log
        node.world.oracle.on_leading(self.uid, state.leader_epoch, node.node_id, log.batches)
        self.leader = LeaderReplica(
            node.node_id,
            state,
            node.incarnations,
            min_insync=self._min_insync,
            log_end=log.log_end_offset,
            durable_end=self._durable.end,
            high_watermark=min(self.high_watermark, self._durable.end),
            now_s=node.now_s,
            lag_time_max_s=node.world.lag_time_max_s,
        )
        self._perform(self.leader.start())

    def _follow(self, state: PartitionState) -> None:
        self.follower = FollowerReplica(
            state.leader_id,
            state.leader_epoch,
            last_epoch=self.log.leader_epochs.latest,
            log_end=self.log.log_end_offset,
            durable_end=self._durable.end,
            high_watermark=min(self.high_watermark, self.log.log_end_offset),
            new_session=self.node.new_session,
        )
        if self.node.replication.is_connected(state.leader_id):
            self._perform_following(self.follower.on_connected())

    def _resign(self) -> None:
        self.leader = self.follower = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.done(NotLeaderOrFollowerError("resigned"))

    def remove(self) -> None:
        """The node hosts it no more."""
        self._resign()

    def tick(self) -> None:
        """Time has passed."""
        now_s = self.node.now_s
        if self.leader is not None:
            self._perform(self.leader.on_tick(now_s))
        if self.follower is not None:
            self._perform_following(self.follower.on_tick(now_s))
        if (
            self.high_watermark > self.log.high_watermark_checkpoint
            and self.node.chance.random() < 0.02
        ):
            self.log.checkpoint(min(self.high_watermark, self.log.log_end_offset))

    # Clients

    def produce(self, half: Half, request: Produce) -> None:
        """Append a producer's batch; answer once it is committed."""

        def answer(offset: int, time_ms: int, error: BrokerError | None) -> None:
            half.send(Produced(request.correlation, Offset(offset), time_ms, error))

        batch, time_ms = request.batch, NO_TIME
        try:
            leader = self._leading(request.leader_epoch)
            duplicate = self.log.producers.check(batch)
            if duplicate is None:
                batch = self.node.world.clocks.taken(batch, self._config, self.node.wall)
        except BrokerError as error:
            answer(-1, time_ms, error)
            return
        if duplicate is None:
            base, end = self._append(leader, batch)
            time_ms = append_time_ms(batch)
        elif duplicate.original is None:
            base, end = Offset(-1), self.log.log_end_offset
        else:
            base, time_ms = duplicate.original.base_offset, duplicate.original.append_time_ms
            end = Offset(duplicate.original.last_offset + 1)
        self._wait(end, lambda error: answer(base, time_ms, error))

    def append_own(self, content: int, done: Done) -> None:
        """Append a record of the coordinator on this node."""
        try:
            leader = self._leading(self.place.leader_epoch)
        except BrokerError as error:
            done(error)
            return
        _, end = self._append(leader, make_batch(NO_PRODUCER_ID, -1, 1, content))
        self._wait(end, done)

    def confirm_leadership(self, done: Done) -> None:
        """Learn whether the ISR still follows, and everything appended so far is committed."""
        leader = self.leader
        if leader is None:
            done(NotLeaderOrFollowerError("resigned"))
            return
        if not leader.has_enough_replicas:
            done(NotEnoughReplicasError("too few in sync to know that nobody else leads"))
            return

        def settled(error: BrokerError | None) -> None:
            if error is None and self.leader is leader:
                self.node.replication.probes.begin(self, done)
            else:
                done(error or NotLeaderOrFollowerError("resigned"))

        self._wait(self.log.log_end_offset, settled)

    def fetch(self, half: Half, request: Fetch) -> None:
        """Answer with what is known to be committed; with its end once that is all of it."""
        try:
            leader = self._leading(request.leader_epoch, for_reading=True)
            if request.offset > leader.log_end_offset:
                raise OffsetOutOfRangeError(f"{request.offset} > {leader.log_end_offset}")
        except BrokerError as error:
            half.send(Fetched(request.uid, request.offset, FIRST_OFFSET, (), error))
            return
        end = leader.high_watermark
        batches = self.log.read(request.offset, _READ_BATCHES_MAX, end)
        told = end if leader.reached_epoch_start else UNKNOWN_OFFSET
        half.send(Fetched(request.uid, request.offset, told, batches))

    def committed_batches(self) -> list[Batch]:
        """Return what a coordinator replays."""
        end = self.high_watermark
        return [batch for batch in self.log.batches if batch.next_offset <= end]

    def _leading(self, epoch: LeaderEpoch, *, for_reading: bool = False) -> LeaderReplica:
        leader = self.leader
        if leader is None:
            raise NotLeaderOrFollowerError("another node leads")
        if epoch != leader.leader_epoch:
            raise (
                FencedLeaderEpochError()
                if epoch < leader.leader_epoch
                else UnknownLeaderEpochError()
            )
        if not for_reading and not leader.has_enough_replicas:
            raise NotEnoughReplicasError("below min.insync.replicas")
        return leader

    def _append(self, leader: LeaderReplica, batch: Batch) -> tuple[Offset, Offset]:
        stamped = self.log.stamp(batch, leader.leader_epoch)
        self.node.world.oracle.on_appended(self.uid, stamped)
        position = self.log.append(stamped, self.node.steady_ms)
        self._perform(leader.on_appended(self.log.log_end_offset))
        self._appended(position)
        return stamped.base_offset, stamped.next_offset

    def _appended(self, position: int) -> None:
        end = self.log.log_end_offset
        if self._flush is Flush.OS:
            self._durable.take(end)
            self._on_durable()
            self.node.sync_later()
        else:
            self._durable.on_appended(position, end)
            self.node.sync_soon()

    def _wait(self, end: Offset, done: Done) -> None:
        if end <= self.high_watermark:
            self._answer(done)
        else:
            self._waiting.append(_Waiting(end, done))

    def _answer(self, done: Done) -> None:
        done(self.node.session.lapsed(self.node.now_s))

    # The disk

    def on_synced(self, position: int) -> None:
        """The group commit reached a position."""
        if self._durable.on_synced(position):
            self._on_durable()

    def _on_durable(self) -> None:
        end = self._durable.end
        if self.leader is not None:
            self._perform(self.leader.on_durable(end))
        elif self.follower is not None:
            self._perform_following(self.follower.on_durable(end))

    # What the cores decide

    def perform(self, effects: list[leading.Effect]) -> None:
        """Perform what the leader decided."""
        self._perform(effects)

    def _perform(self, effects: list[leading.Effect]) -> None:
        replication = self.node.replication
        for effect in effects:
            match effect:
                case leading.PushDue():
                    replication.push_soon(PushDueAt(self.uid, effect.follower))
                case leading.Diverging():
                    replication.send_diverging(self, effect)
                case leading.Refused():
                    replication.send_refused(self, effect.follower, effect.session)
                case leading.ProposeIsr():
                    propose(self, effect)
                case HighWatermarkAdvanced():
                    self._advanced(effect.offset)
                    replication.tell_high_watermark(self)

    def _advanced(self, offset: Offset) -> None:
        if self.leader is not None:
            self.node.world.oracle.on_high_watermark(
                self.uid, self.leader.leader_epoch, offset, self.log.batches
            )
            self.node.world.electorate.on_committed(self.uid)
        self.high_watermark = offset
        released = [each for each in self._waiting if each.end <= offset]
        self._waiting = [each for each in self._waiting if each.end > offset]
        for each in released:
            self._answer(each.done)

    def perform_following(self, effects: list[following.Effect]) -> None:
        """Perform what the follower decided; `Append` is for the stream, which has the batches."""
        self._perform_following(effects)

    def _perform_following(self, effects: list[following.Effect]) -> None:
        for effect in effects:
            match effect:
                case following.Announce():
                    self.node.replication.announce(self, effect.announcement)
                case following.Ack():
                    self.node.replication.ack(self, effect)
                case following.Truncate():
                    self._truncate(effect.offset)
                case HighWatermarkAdvanced():
                    self.high_watermark = effect.offset
                    self.node.world.oracle.on_replica(
                        self.uid, effect.offset, self.log.batches[-5:]
                    )
                case following.StartAfresh():
                    raise AssertionError("nothing is ever deleted here")

    def append_pushed(self, batches: tuple[Batch, ...]) -> None:
        """Append what the leader pushed."""
        assert self.follower is not None
        for batch in batches:
            self._take(batch)
        self._perform_following(
            self.follower.on_appended(self.log.log_end_offset, self.log.leader_epochs.latest)
        )
        if self._flush is Flush.OS:
            self._durable.take(self.log.log_end_offset)
            self._on_durable()

    def _take(self, batch: Batch) -> None:
        position = self.log.append(batch, self.node.steady_ms)
        if self._flush is Flush.OS:
            self.node.sync_later()
        else:
            self._durable.on_appended(position, self.log.log_end_offset)
            self.node.sync_soon()

    def _truncate(self, offset: Offset) -> None:
        assert self.follower is not None
        if offset < self.log.log_end_offset:
            self.node.world.oracle.met["truncations"] += 1
        position = self.log.truncate_to(offset, self.node.steady_ms)
        self.node.world.electorate.on_truncated(self.uid, self.node.node_id)
        end = self.log.log_end_offset
        self.high_watermark = min(self.high_watermark, end)
        self._durable.on_truncated(position, end)
        self.follower.on_truncated(end, self.log.leader_epochs.latest)
        if position > self.node.disk.durable:
            self.node.sync_soon()
        elif self._durable.on_synced(position):
            self._on_durable()

    def progress_of(self, follower: NodeId) -> leading.Cursor | None:
        """Return from where a follower is to be sent."""
        return None if self.leader is None else self.leader.cursor(follower)

"""A node: its membership as the production cores decide it, and the replicas it hosts."""

from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from odradek.controller.state.heartbeats import Heartbeat
from odradek.controller.state.nodes import RegisterNode, Registration
from odradek.node.cluster.image import (
    ClusterImage,
    PartitionState,
    TopicState,
)
from odradek.node.cluster.session import HeartbeatClock, SentHeartbeat, Session
from odradek.protocol.errors import StaleBrokerEpochError
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import Incarnation, LeaderEpoch, NodeId, PartitionUid
from tests.simulation.cluster.client_end import ClientEnd
from tests.simulation.cluster.controller_link import SimulatedLink
from tests.simulation.cluster.controllers import (
    CLUSTER_ID,
    POLICY,
    HeartbeatAnswer,
    Metadata,
    SimulatedController,
)
from tests.simulation.cluster.events import Process
from tests.simulation.cluster.frames import Open
from tests.simulation.cluster.groups import (
    SimulatedCoordinator,
)
from tests.simulation.cluster.images import image_update
from tests.simulation.cluster.leaving import Leaving
from tests.simulation.cluster.network import Half, connect, on_death
from tests.simulation.cluster.replica import SimulatedReplica
from tests.simulation.cluster.replication import LeaderEnd, Replication

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

_INTERVAL_S = 1.0
_REQUEST_TIMEOUT_S = 2.0
_TICK_S = 0.1


class SimulatedNode(Process):
    """One node: a disk, and a process when it runs."""

    def __init__(self, node_id: NodeId, world: "World") -> None:
        super().__init__(f"node-{node_id}", world.scheduler)
        self.node_id = node_id
        self.world = world
        self.chance = world.chance
        self.wall = world.clocks.of_node()
        self.disk = world.new_disk()
        self.processes = 0
        self._halves: list[Half] = []

    # Life

    def start(self) -> None:
        """Begin with what the disk holds."""
        self.begin_life()
        self.world.oracle.met["torn writes"] += self.disk.open(self.steady_ms)
        self.session = Session()
        self.image = ClusterImage()
        self.metadata: Metadata | None = None
        self.replicas: dict[PartitionUid, SimulatedReplica] = {}
        self.coordinators: dict[PartitionUid, SimulatedCoordinator] = {}
        self.controller_epoch = 0
        self.active: SimulatedController | None = None
        self.replication = Replication(self)
        self.link = SimulatedLink(self)
        self.leaving: Leaving | None = None
        self.new_session = count(1).__next__
        self._watch: Half | None = None
        self._registering_since_s: float | None = None
        self._is_syncing = False
        self._doubts = 0
        for controller in self.world.controllers:
            self._open_heartbeats(controller)
        self.every(_TICK_S, self._tick)
        self._register()

    def die(self) -> None:
        """Be killed: the page cache survives."""
        self.end_life()
        halves, self._halves = self._halves, []
        on_death(halves)

    @property
    def steady_ms(self) -> int:
        """The monotonic clock, on which a producer's day passes."""
        return int(self.now_s * 1000)

    def owns(self, half: Half) -> Half:
        """Note a stream that ends with this life."""
        self._halves = [each for each in self._halves if not each.is_broken]
        self._halves.append(half)
        return half

    # Membership

    def _open_heartbeats(self, controller: SimulatedController) -> None:
        half = self.owns(
            connect(self.world.network, self, controller, controller.accept_heartbeats)
        )
        half.end = _Heartbeats(self, controller, half)
        self._beat(half, half.end)

    def _beat(self, half: Half, end: "_Heartbeats") -> None:
        if half.is_broken:
            return
        end.clock.on_sent(SentHeartbeat(self.now_s, self.session.incarnation))
        half.send(self._heartbeat())
        self.after(_INTERVAL_S, partial(self._beat, half, end))

    def poke(self) -> None:
        """Send a heartbeat to everybody now."""
        for half in self._halves:
            if isinstance(half.end, _Heartbeats) and not half.is_broken:
                half.end.clock.on_sent(SentHeartbeat(self.now_s, self.session.incarnation))
                half.send(self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        version = 0 if self.metadata is None else self.metadata.version
        leaves = self.leaving is not None
        return Heartbeat(self.node_id, self.session.incarnation, version, wants_shutdown=leaves)

    def on_heartbeat_answer(self, answer: HeartbeatAnswer, answered: SentHeartbeat | None) -> None:
        """A controller answered."""
        if answer.epoch is None or answer.epoch < self.controller_epoch:
            return
        self._heard_active(answer.controller, answer.epoch)
        incarnation = self.session.incarnation
        if answered is None or answered.incarnation != incarnation or not incarnation:
            return
        if answer.must_register:
            self._doubts += 1
            if self._doubts > 1:
                self._register()
            else:
                self.poke()
            return
        self._doubts = 0
        self.session.on_contact(answered.at_s, fenced=answer.fenced)
        if answer.may_shut_down and self.leaving is not None:
            self.leaving.on_allowed()

    def _heard_active(self, controller: SimulatedController, epoch: int) -> None:
        changed = controller is not self.active or epoch > self.controller_epoch
        self.active, self.controller_epoch = controller, epoch
        if changed and self._watch is not None:
            self._watch.close()
            self._watch = None

    def _register(self) -> None:
        if self._registering_since_s is not None:
            return
        self._registering_since_s = self.now_s
        self.processes += 1
        process_id = self.processes.to_bytes(8, "big").rjust(16, b"\1")
        self._ask_to_register(process_id, self.session.incarnation)

    def _ask_to_register(self, process_id: bytes, previous: Incarnation) -> None:
        controller = self.active or self.chance.choice(self.world.controllers)
        sent_at_s = self.now_s
        request = RegisterNode(
            cluster_id=CLUSTER_ID if self.disk.logs else "",
            node_id=self.node_id,
            directory_id=self.disk.directory.to_bytes(16, "big"),
            process_id=process_id,
            host=self.name,
            port=7070,
            lost_data=self.disk.lost_data,
            unclean_boot=self.disk.lost_pages,
            synced_metadata_version=self.disk.metadata_version,
            replace=self.disk.is_replacement,
            previous_incarnation=previous,
        )
        answered = False

        def decided(reply: Any, version: int) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            if isinstance(reply, Registration):
                self._registered(controller, reply, sent_at_s)
            elif isinstance(reply, StaleBrokerEpochError):
                self._ask_to_register(process_id, Incarnation(int(reply.limit)))
            else:
                self.active = None if controller is self.active else self.active
                self.after(0.1, partial(self._ask_to_register, process_id, previous))
            del version

        self.world.call(self, controller, partial(controller.request, request), decided)
        self.after(_REQUEST_TIMEOUT_S, partial(decided, None, 0))

    def _registered(
        self, controller: SimulatedController, registration: Registration, sent_at_s: float
    ) -> None:
        self._registering_since_s = None
        self._doubts = 0
        if registration.incarnation <= self.session.incarnation:
            return
        if self.disk.has_lost:
            self.world.oracle.met["unclean restarts"] += 1
        self.disk.lost_data = self.disk.lost_pages = self.disk.is_replacement = False
        self.world.electorate.on_told(self.node_id)
        self.session.on_registered(registration.incarnation, POLICY.session_timeout_s, sent_at_s)
        del controller
        self.replication.disconnect_all()
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _tick(self) -> None:
        if self._watch is None or self._watch.is_broken:
            self._follow()
        for replica in self.replicas.values():
            replica.tick()
        for coordinator in self.coordinators.values():
            coordinator.tick()
        self.replication.tick()

    def _follow(self) -> None:
        if self.active is None or not self.session.incarnation:
            return
        accept = partial(self.active.accept_watch, node_id=self.node_id)
        self._watch = self.owns(connect(self.world.network, self, self.active, accept))
        self._watch.end = _Watch(self, self._watch, self.active)

    def on_metadata(self, metadata: Metadata) -> None:
        """The cluster as of a version, in one step."""
        if metadata.epoch < self.controller_epoch:
            return
        known = self.metadata
        if known is not None and metadata.version < known.version:
            return
        mine = metadata.nodes.get(self.node_id)
        if mine is None or mine.incarnation != self.session.incarnation:
            return  # of before this registration
        self.metadata = metadata
        self.image = ClusterImage().apply(image_update(metadata))
        for uid in self.replicas.keys() - metadata.partitions.keys():
            self._remove(uid)
        for topic in self.image.topics.values():
            for state in topic.partitions:
                self._reconcile(topic, state)
        if known is None:  # what left this node while it was down
            for uid in self.disk.logs.keys() - self.replicas.keys():
                self.disk.drop(uid)
        for coordinator in self.coordinators.values():
            coordinator.on_groups()
        self.replication.on_metadata()
        self.poke()
        self.link.on_image()

    def _reconcile(self, topic: TopicState, state: PartitionState) -> None:
        replica = self.replicas.get(state.uid)
        if self.node_id not in state.replicas:
            if replica is not None:
                self._remove(state.uid)
            return
        if replica is None:
            replica = self.replicas[state.uid] = SimulatedReplica(self, topic, state)
        replica.on_image(topic, state)
        coordinator = self.coordinators.get(state.uid)
        if coordinator is not None and (
            not replica.is_leader or coordinator.epoch != state.leader_epoch
        ):
            coordinator.close()
            del self.coordinators[state.uid]
        if (
            replica.is_leader
            and topic.name == CONSUMER_OFFSETS
            and state.uid not in self.coordinators
        ):
            self.world.on_coordinating(state.uid, self.node_id)
            self.coordinators[state.uid] = SimulatedCoordinator(replica, state.leader_epoch)
            self.coordinators[state.uid].on_groups()

    def _remove(self, uid: PartitionUid) -> None:
        """Host a partition no more."""
        self.replicas.pop(uid).remove()
        coordinator = self.coordinators.pop(uid, None)
        if coordinator is not None:
            coordinator.close()
        self.disk.drop(uid)

    def leader_of(self, uid: PartitionUid) -> tuple[NodeId, LeaderEpoch] | None:
        """Tell a client who leads, as far as this node knows."""
        partition = self.metadata.partitions.get(uid) if self.metadata else None
        if partition is None or not partition.is_led:
            return None
        return partition.leader, partition.leader_epoch

    @property
    def incarnations(self) -> dict[NodeId, Incarnation]:
        """The nodes that may be in sync."""
        assert self.metadata is not None
        return {
            node.node_id: node.incarnation
            for node in self.metadata.nodes.values()
            if not node.fenced and (not node.stopping or node.node_id == self.node_id)
        }

    # Clients

    def accept_client(self, half: Half) -> ClientEnd:
        """A client opened a stream."""
        self.owns(half)
        return ClientEnd(self, half)

    def accept_follower(self, half: Half, opened: Open) -> LeaderEnd:
        """A follower's node opened a stream."""
        end = LeaderEnd(self.replication, self.owns(half), opened)
        self.replication.on_follower_opened(end)
        return end

    def coordinator_of(self, group: str) -> SimulatedCoordinator | None:
        """Return the coordinator of a group, if it is here."""
        return self.coordinators.get(self.world.coordinator_uid(group))

    # The disk

    def sync_soon(self) -> None:
        """Sync what was appended, with whatever joins before the disk is asked."""
        if self._is_syncing or self.disk.durable == self.disk.appended:
            return
        self._is_syncing = True
        self.after(0.0002, self._sync)

    def sync_later(self) -> None:
        """Sync what nobody waits for, with `flush=os`."""
        self.after(0.25, self.sync_soon)

    def _sync(self) -> None:
        position = self.disk.appended
        version = 0 if self.metadata is None else self.metadata.version
        self.after(self.disk.sync_s(self.chance), partial(self._synced, position, version))

    def _synced(self, position: int, metadata_version: int) -> None:
        self._is_syncing = False
        self.disk.synced(position, metadata_version)
        for replica in list(self.replicas.values()):
            replica.on_synced(position)
        self.replication.flush_acks()
        self.sync_soon()


@dataclass(slots=True)
class _Heartbeats:
    node: SimulatedNode
    controller: SimulatedController
    half: Half
    clock: HeartbeatClock

    def __init__(self, node: SimulatedNode, controller: SimulatedController, half: Half) -> None:
        self.node, self.controller, self.half = node, controller, half
        self.clock = HeartbeatClock()

    def on_frame(self, frame: Any) -> None:
        self.node.on_heartbeat_answer(frame, self.clock.on_answer())

    def on_broken(self) -> None:
        node = self.node
        if node.active is self.controller:
            node.active = None
        node.after(0.1, partial(node._open_heartbeats, self.controller))


@dataclass(slots=True)
class _Watch:
    node: SimulatedNode
    half: Half
    controller: SimulatedController

    def on_frame(self, frame: Any) -> None:
        if self.node._watch is self.half:
            self.node.on_metadata(frame)

    def on_broken(self) -> None:
        """The next tick opens another one."""

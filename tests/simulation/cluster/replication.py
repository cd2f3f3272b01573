"""The streams between a node that follows and the nodes that lead.

One stream for each pair, opened by the follower; frames name partitions by uid and carry the
leader epoch and session that the cores gave them.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from odradek.node.replication import follower as following
from odradek.node.replication import leader as leading
from odradek.node.replication.session import Announcement
from odradek.protocol.types import (
    FIRST_OFFSET,
    NodeId,
    PartitionUid,
)
from tests.simulation.cluster.disk import Batch
from tests.simulation.cluster.frames import (
    AckFrame,
    AnnounceFrame,
    DivergingFrame,
    Followed,
    Open,
    Probe,
    PushDueAt,
    PushFrame,
    RefusedFrame,
)
from tests.simulation.cluster.network import Half, connect
from tests.simulation.cluster.probes import Probes

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode
    from tests.simulation.cluster.replica import SimulatedReplica

_PUSH_BATCHES_MAX = 20
_IN_FLIGHT_OFFSETS_MAX = 200
_IDLE_S = 0.005


class Replication:
    """All streams of one node in one life."""

    def __init__(self, node: "SimulatedNode") -> None:
        self.node = node
        self._to_leaders: dict[NodeId, Half] = {}
        self._to_followers: dict[NodeId, LeaderEnd] = {}
        self._due: dict[PushDueAt, None] = {}
        self._acks: dict[PartitionUid, following.Ack] = {}
        self._told: dict[PartitionUid, None] = {}
        self._link = 0
        self.probes = Probes(node, self.send)

    # As a follower

    def is_connected(self, leader: NodeId) -> bool:
        """Whether a stream to a leader's node stands."""
        half = self._to_leaders.get(leader)
        return half is not None and not half.is_broken

    def on_metadata(self) -> None:
        """Open the streams that are needed under this registration."""
        node = self.node
        for replica in node.replicas.values():
            follower = replica.follower
            if follower is not None and not self.is_connected(follower.leader_id):
                self._connect(follower.leader_id)

    def tick(self) -> None:
        """Open again what broke."""
        if self.node.metadata is not None:
            self.on_metadata()

    def _connect(self, leader: NodeId) -> None:
        node = self.node
        server = node.world.nodes[leader]
        self._link += 1
        opened = Open(node.node_id, node.session.incarnation, self._link)
        accept = partial(server.accept_follower, opened=opened)
        half = node.owns(connect(node.world.network, node, server, accept))
        half.end = FollowerEnd(self, leader, half)
        self._to_leaders[leader] = half
        for replica in node.replicas.values():
            if replica.follower is not None and replica.follower.leader_id == leader:
                replica.perform_following(replica.follower.on_connected())

    def disconnect_all(self) -> None:
        """A new registration begins: what was said under the one before is void."""
        for half in list(self._to_leaders.values()):
            end = half.end
            half.close()
            if end is not None:
                end.on_broken()

    def announce(self, replica: "SimulatedReplica", announcement: Announcement) -> None:
        """Send an announcement."""
        assert replica.follower is not None
        half = self._to_leaders.get(replica.follower.leader_id)
        if half is not None:
            electorate = self.node.world.electorate
            electorate.on_claimed(replica.uid, self.node.node_id, announcement.durable_end)
            half.send(AnnounceFrame(replica.uid, announcement))

    def ack(self, replica: "SimulatedReplica", ack: following.Ack) -> None:
        """Send an acknowledgement, with the others of one sync."""
        self._acks[replica.uid] = ack
        self.node.after(0.0, self.flush_acks)

    def flush_acks(self) -> None:
        """Send what was acknowledged."""
        acks, self._acks = self._acks, {}
        for uid, ack in acks.items():
            replica = self.node.replicas.get(uid)
            follower = None if replica is None else replica.follower
            if follower is None or follower.session != ack.session:
                continue
            half = self._to_leaders.get(follower.leader_id)
            if half is not None:
                electorate = self.node.world.electorate
                electorate.on_claimed(uid, self.node.node_id, ack.durable_end)
                half.send(AckFrame(uid, follower.leader_epoch, ack.session, ack.durable_end))

    def on_leader_frame(self, leader: NodeId, half: Half, frame: Any) -> None:
        """A leader's node sent something."""
        replica = self.node.replicas.get(frame.uid)
        if replica is None:
            return
        if isinstance(frame, Probe):
            if replica.place.leader_epoch == frame.leader_epoch and replica.follower is not None:
                half.send(Followed(frame.number))
            return
        follower = replica.follower
        if (
            follower is None
            or follower.leader_id != leader
            or follower.leader_epoch != frame.leader_epoch
        ):
            return
        match frame:
            case PushFrame():
                start = frame.batches[0].base_offset if frame.batches else None
                effects = follower.on_pushed(
                    frame.session, start, frame.high_watermark, FIRST_OFFSET
                )
                if any(isinstance(effect, following.Append) for effect in effects):
                    replica.append_pushed(frame.batches)
                replica.perform_following(effects)
            case DivergingFrame():
                epochs = replica.log.leader_epochs
                replica.perform_following(follower.on_diverging(frame.session, frame.end, epochs))
            case RefusedFrame():
                follower.on_refused(frame.session, self.node.now_s)
            case _:
                raise AssertionError(f"nobody knows {frame}")

    def on_leader_lost(self, leader: NodeId) -> None:
        """The stream to a leader's node broke."""
        for replica in self.node.replicas.values():
            if replica.follower is not None and replica.follower.leader_id == leader:
                replica.follower.on_disconnected()

    # As a leader

    def on_follower_opened(self, end: "LeaderEnd") -> None:
        """A follower's node opened a stream: only the one it dialled last counts."""
        present = self._to_followers.get(end.open.node_id)
        if present is not None:
            if end.open.number <= present.open.number:
                end.half.close()
                return
            present.half.close()
            self.on_follower_lost(present)
        self._to_followers[end.open.node_id] = end

    def on_follower_frame(self, end: "LeaderEnd", frame: Any) -> None:
        """A follower's node sent something."""
        opened = end.open
        if isinstance(frame, Followed):
            self.probes.on_followed(opened.node_id, frame.number)
            return
        replica = self.node.replicas.get(frame.uid)
        leader = None if replica is None else replica.leader
        now_s = self.node.now_s
        match frame:
            case AnnounceFrame():
                epoch = frame.announcement.leader_epoch
                if replica is None or leader is None or leader.leader_epoch < epoch:
                    session = frame.announcement.session
                    end.half.send(RefusedFrame(frame.uid, epoch, session))
                    return
                effects = leader.on_announced(
                    opened.node_id,
                    opened.incarnation,
                    frame.announcement,
                    replica.log.leader_epochs,
                    FIRST_OFFSET,
                    now_s=now_s,
                )
                replica.perform(effects)
            case AckFrame():
                if replica is None or leader is None or leader.leader_epoch != frame.leader_epoch:
                    return
                replica.perform(
                    leader.on_acked(
                        opened.node_id, opened.incarnation, frame.session, frame.durable_end, now_s
                    )
                )
                self.push_soon(PushDueAt(frame.uid, opened.node_id))
            case _:
                raise AssertionError(f"nobody knows {frame}")

    def on_follower_lost(self, end: "LeaderEnd") -> None:
        """A follower's stream ended."""
        opened = end.open
        if self._to_followers.get(opened.node_id) is not end:
            return
        for replica in self.node.replicas.values():
            if replica.leader is not None:
                replica.leader.on_disconnected(opened.node_id, opened.incarnation)

    def push_soon(self, due: PushDueAt) -> None:
        """Push once what happens now has happened."""
        if not self._due:
            self.node.after(0.0, self._push_all)
        self._due[due] = None

    def _push_all(self) -> None:
        due, self._due = self._due, {}
        for each in due:
            self._push(each, told=False)

    def _push(self, due: PushDueAt, *, told: bool) -> None:
        replica = self.node.replicas.get(due.uid)
        end = self._to_followers.get(due.follower)
        leader = None if replica is None else replica.leader
        if replica is None or leader is None or end is None:
            return
        cursor = leader.cursor(due.follower)
        if cursor is None:
            return
        progress = leader.followers[due.follower]
        batches: tuple[Batch, ...] = ()
        if cursor.offset - progress.durable_end < _IN_FLIGHT_OFFSETS_MAX:
            batches = replica.log.read(cursor.offset, _PUSH_BATCHES_MAX, replica.log.log_end_offset)
        if not batches and not told and cursor.offset < leader.log_end_offset:
            return  # the next acknowledgement goes on
        pushed_end = batches[-1].next_offset if batches else cursor.offset
        leader.on_sent(due.follower, cursor.session, pushed_end, self.node.now_s)
        end.half.send(
            PushFrame(due.uid, leader.leader_epoch, cursor.session, batches, leader.high_watermark)
        )
        if pushed_end < leader.log_end_offset:
            self.push_soon(due)

    def tell_high_watermark(self, replica: "SimulatedReplica") -> None:
        """Let followers know before long."""
        if not self._told:
            self.node.after(_IDLE_S, self._tell)
        self._told[replica.uid] = None

    def _tell(self) -> None:
        told, self._told = self._told, {}
        for uid in told:
            replica = self.node.replicas.get(uid)
            if replica is not None and replica.leader is not None:
                for follower in replica.leader.followers:
                    self._push(PushDueAt(uid, follower), told=True)

    def send_diverging(self, replica: "SimulatedReplica", effect: leading.Diverging) -> None:
        """Tell a follower where the logs part."""
        assert replica.leader is not None
        epoch = replica.leader.leader_epoch
        frame = DivergingFrame(replica.uid, epoch, effect.session, effect.end)
        self.send(effect.follower, frame)

    def send_refused(self, replica: "SimulatedReplica", follower: NodeId, session: int) -> None:
        """Tell a follower to announce again."""
        self.send(follower, RefusedFrame(replica.uid, replica.place.leader_epoch, session))

    def send(self, follower: NodeId, frame: Any) -> None:
        """Send something on the stream that a follower's node has opened, if it stands."""
        end = self._to_followers.get(follower)
        if end is not None:
            end.half.send(frame)


@dataclass(slots=True)
class FollowerEnd:
    """The follower's end."""

    replication: Replication
    leader: NodeId
    half: Half

    def on_frame(self, frame: Any) -> None:
        """The leader's node sent something."""
        self.replication.on_leader_frame(self.leader, self.half, frame)

    def on_broken(self) -> None:
        """The stream is gone."""
        self.replication.on_leader_lost(self.leader)


@dataclass(slots=True)
class LeaderEnd:
    """The leader's end."""

    replication: Replication
    half: Half
    open: Open

    def on_frame(self, frame: Any) -> None:
        """The follower's node sent something."""
        self.replication.on_follower_frame(self, frame)

    def on_broken(self) -> None:
        """The stream is gone."""
        self.replication.on_follower_lost(self)

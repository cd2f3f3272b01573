"""This node's links to the others: whom it follows, who follows it, what it asks the controller.

Invariants: one pair of streams to each node that leads something followed here, and one from each
that follows something led here: a newer pair ends the older; every task belongs to `run`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from odradek.node.cluster.session import NO_INCARNATION
from odradek.node.cluster.view import ClusterView
from odradek.node.replication.confirmations import Confirmations
from odradek.node.replication.follower import Ack
from odradek.node.replication.follower_node import FollowerNode
from odradek.node.replication.isr import ProposeIsr
from odradek.node.replication.isr_proposals import IsrDecider, IsrProposals
from odradek.node.replication.lags import Lags
from odradek.node.replication.leader import Diverging, Refused
from odradek.node.replication.leader_node import LeaderNode
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.peers import Peers
from odradek.node.replication.repairs import Repairs
from odradek.node.replication.replicas import Replicas
from odradek.node.replication.session import Announcement
from odradek.node.replication.throttle import Throttle
from odradek.node.storage.log_reader import Damage
from odradek.node.storage.store import DamagedTableError
from odradek.protocol.errors import InvalidRequestError, StaleBrokerEpochError
from odradek.protocol.types import Incarnation, NodeId
from odradek.v1 import replica_pb2 as pb

_log = structlog.get_logger()

_TICK_S: Final = 1.0


class NodeLinks:
    """Performs what replicas ask of their surroundings; see `Links` for each method.

    Args:
        node_id: This node.
        incarnation: Returns this node's registration in force.
        view: Where other nodes are.
        controller: Decides ISR changes.
        throttle_bytes_per_s: For what followers outside the ISR are sent from disk; 0 for no bound.
    """

    def __init__(
        self,
        node_id: NodeId,
        incarnation: Callable[[], Incarnation],
        view: ClusterView,
        controller: IsrDecider,
        throttle_bytes_per_s: int = 0,
    ) -> None:
        self._node_id = node_id
        self._incarnation = incarnation
        self._view = view
        self._proposals = IsrProposals(controller)
        self._peers = Peers(self._address)
        self._confirmations = Confirmations(self._peers)
        self._repairs = Repairs(node_id, self._peers, self._on_table_damaged)
        self._leaders: dict[NodeId, LeaderNode] = {}
        self._followers: dict[NodeId, FollowerNode] = {}
        self._throttle = Throttle(throttle_bytes_per_s)
        self._link = 0
        self._changed = asyncio.Event()
        self._stopping = False

    def serve(self, replicas: Replicas, condemn: Callable[[DamagedTableError], None]) -> None:
        """Link these replicas; to be called once, before anything else.

        Args:
            replicas: Those of this node.
            condemn: Gives up what this node has stored, and ends it.
        """
        self._replicas = replicas
        self._condemn = condemn
        self.lags = Lags(self._node_id, self._peers, replicas)
        replicas.synced = self._on_synced

    async def run(self) -> None:
        """Keep the streams to leaders, and ask the controller, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._proposals.run(), name="isr proposals")
                while True:
                    self._changed.clear()
                    self._begin_and_end(tasks)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_TICK_S):
                            await self._changed.wait()
        finally:
            self.stop()
            await self._peers.close()

    def _begin_and_end(self, tasks: asyncio.TaskGroup) -> None:
        for leader_id, leader in list(self._leaders.items()):
            if not leader.followed:
                if leader.task is not None:
                    leader.task.cancel()
                del self._leaders[leader_id]
            elif leader.task is None:
                leader.task = tasks.create_task(leader.run(), name=f"follow node {leader_id}")

    def _on_table_damaged(self, error: DamagedTableError) -> None:
        """Give up what is stored here, unless this node alone has some of it."""
        topics = self._view.image.topics.values()
        for partition in (each for topic in topics for each in topic.partitions):
            if self._node_id in partition.replicas and {self._node_id}.issuperset(partition.isr):
                _log.error(
                    "a table of the store is damaged and some of it cannot be read; it is kept,"
                    " since no other node is in sync with all that is here",
                    reason=error.message,
                )
                return
        self._condemn(error)

    def stop(self) -> None:
        """End every stream from followers, and take no new ones."""
        self._stopping = True
        for follower in self._followers.values():
            follower.end()

    def on_nodes_changed(self) -> None:
        """The image has other nodes, other registrations, or other addresses."""
        for leader in self._leaders.values():
            leader.dial_now()
        for follower in self._followers.values():
            # It dials again as who it is now: as who it was, it is never in sync.
            if follower.incarnation < self._registered(follower.node_id):
                follower.end()

    def _registered(self, node_id: NodeId) -> Incarnation:
        node = self._view.image.nodes.get(node_id)
        return NO_INCARNATION if node is None else node.incarnation

    def _address(self, node_id: NodeId) -> str | None:
        node = self._view.image.nodes.get(node_id)
        return None if node is None else f"{node.host}:{node.port}"

    # Following

    def follow(self, replica: PartitionReplica) -> None:  # noqa: D102
        leader_id = replica.partition.leader_id
        leader = self._leaders.get(leader_id)
        if leader is None:
            leader = self._leaders[leader_id] = LeaderNode(
                leader_id, self._replicas, lambda: self._address(leader_id), self._opening
            )
            self._changed.set()
        leader.follow(replica)

    def unfollow(self, replica: PartitionReplica) -> None:  # noqa: D102
        if (leader := self._leader_of(replica)) is not None:
            leader.unfollow(replica)

    def announce(self, replica: PartitionReplica, announcement: Announcement) -> None:  # noqa: D102
        if (leader := self._leader_of(replica)) is not None:
            leader.announce(replica, announcement)

    def ack(self, replica: PartitionReplica, ack: Ack) -> None:  # noqa: D102
        if (leader := self._leader_of(replica)) is not None:
            leader.ack(replica, ack)

    def _leader_of(self, replica: PartitionReplica) -> LeaderNode | None:
        following = replica.following
        return None if following is None else self._leaders.get(following.core.leader_id)

    def _opening(self) -> pb.ReplicateOpen:
        """Number the next pair of streams, to whichever leader."""
        self._link += 1
        return pb.ReplicateOpen(
            node_id=self._node_id,
            incarnation=self._incarnation(),
            cluster_id=self._view.cluster_id,
            link=self._link,
        )

    def _on_synced(self, durable_position: int) -> None:
        for leader in self._leaders.values():
            leader.on_synced(durable_position)

    # Leading

    def admit(self, opened: pb.ReplicateOpen) -> FollowerNode:
        """Return who serves a stream that a follower's node has opened.

        Raises:
            InvalidRequestError: It belongs to another cluster, or names this very node.
            StaleBrokerEpochError: That node has registered again since, or has opened a newer pair.
        """
        if opened.cluster_id != self._view.cluster_id or self._stopping:
            raise InvalidRequestError(
                f"node {opened.node_id} belongs to cluster {opened.cluster_id!r}, not to"
                f" {self._view.cluster_id!r}, or this node is stopping",
                field="open.cluster_id",
                value=opened.cluster_id,
                limit=self._view.cluster_id,
            )
        node_id, link = NodeId(opened.node_id), (opened.incarnation, opened.link)
        registered = self._registered(node_id)
        if opened.incarnation < registered:
            raise StaleBrokerEpochError(
                field="open.incarnation", value=opened.incarnation, limit=registered
            )
        present = self._followers.get(node_id)
        if present is not None:
            held = (present.incarnation, present.link)
            if link == held and not present.ended.is_set():
                return present
            if link <= held:
                raise StaleBrokerEpochError(field="open.link", value=link, limit=held)
            present.end()
        incarnation = Incarnation(opened.incarnation)
        follower = FollowerNode(self._replicas, node_id, incarnation, opened.link, self._throttle)
        self._followers[node_id] = follower
        return follower

    def lead(self, replica: PartitionReplica) -> None:  # noqa: D102
        for follower in self._followers.values():
            follower.on_lead(replica)

    def push_due(self, replica: PartitionReplica, follower: NodeId) -> None:  # noqa: D102
        self._followers[follower].push_due(replica)

    def answer(self, replica: PartitionReplica, answer: Diverging | Refused) -> None:  # noqa: D102
        self._followers[answer.follower].answer(replica, answer)

    def high_watermark_advanced(self, replica: PartitionReplica) -> None:  # noqa: D102
        for follower in self._followers.values():
            follower.high_watermark_advanced(replica)

    def propose_isr(self, replica: PartitionReplica, proposal: ProposeIsr) -> None:  # noqa: D102
        self._proposals.add(replica, proposal)

    async def confirm_leadership(self, replica: PartitionReplica) -> None:  # noqa: D102
        await self._confirmations.confirm(replica)

    async def repair(self, replica: PartitionReplica, damage: Damage, bytes_max: int) -> bool:  # noqa: D102
        return await self._repairs.repair(replica, damage, bytes_max)

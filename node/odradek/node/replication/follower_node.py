"""One node that follows partitions of this one, as long as a pair of streams to it stands.

Problem: the follower's image may be ahead of this node's; it announces before this node knows that
it leads. Idea: keep the announcement, with what is acknowledged meanwhile, until the image comes,
rather than have it sent again and again while nobody can write.

Invariants: both streams end together; what a pair of streams announced is forgotten with it; no
acknowledgement is lost, since the follower never repeats one.
"""

import asyncio
from dataclasses import replace
from typing import Any, Final

import grpc
import structlog

from odradek.node.replication.leader import Diverging, Refused
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.pushing import CatchUpPusher, LivePusher
from odradek.node.replication.replicas import Replicas
from odradek.node.replication.session import Announcement
from odradek.node.replication.throttle import Throttle
from odradek.protocol.errors import InvalidRequestError, error_to_proto
from odradek.protocol.types import Incarnation, LeaderEpoch, NodeId, Offset, PartitionUid
from odradek.v1 import replica_pb2 as pb

_log = structlog.get_logger()

_EARLY_MAX: Final = 100_000


class FollowerNode:
    """A follower's node."""

    def __init__(
        self,
        replicas: Replicas,
        node_id: NodeId,
        incarnation: Incarnation,
        link: int,
        throttle: Throttle,
    ) -> None:
        self.node_id = node_id
        self.incarnation = incarnation
        self.link = link
        self.ended = asyncio.Event()
        self._replicas = replicas
        self._live = LivePusher(node_id, self._on_fell_behind)
        self._catch_up = CatchUpPusher(node_id, self._live.push_due, throttle)
        self._attached: set[PartitionUid] = set()
        self._early: dict[PartitionUid, Announcement] = {}

    def _on_fell_behind(self, replica: PartitionReplica) -> None:
        self._catch_up.add(replica)

    # Serving the streams

    async def serve_live(self, context: Any) -> None:
        """Serve the live stream until it, or the pair, ends.

        Raises:
            InvalidRequestError: The follower contradicts itself.
        """
        await self._until_ended(self._live.run(context), self._read(context))

    async def serve_catch_up(self, context: Any) -> None:
        """Serve the catch-up stream until it, or the pair, ends."""
        await self._until_ended(self._catch_up.run(context.write), _until_end(context))

    async def _until_ended(self, *parts: Any) -> None:
        tasks = [asyncio.ensure_future(part) for part in (*parts, self.ended.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.end()
        for task in done:
            task.result()

    def end(self) -> None:
        """End both streams; followers must announce again, on others."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._live.close()
        for replica in map(self._replicas.with_uid, self._attached):
            if replica is not None and replica.leading is not None:
                replica.leading.on_follower_gone(self.node_id, self.incarnation)
        self._attached.clear()
        self._early.clear()

    async def _read(self, context: Any) -> None:
        await context.hear(self._on_request)

    def _on_request(self, request: pb.ReplicateRequest) -> None:
        if self.ended.is_set():
            return  # read before the end was heard of
        self._live.on_frame_acked(request.live_frame)
        self._catch_up.on_frame_acked(request.catch_up_frame)
        for ack in request.acks:
            self._on_acked(ack)
        for each in request.announcements:
            announced = Announcement(
                LeaderEpoch(each.leader_epoch),
                each.session,
                LeaderEpoch(each.last_epoch),
                Offset(each.log_end),
                Offset(each.durable_end),
            )
            self._on_announced(PartitionUid(each.uid), announced)

    def _on_acked(self, ack: pb.ReplicaAck) -> None:
        uid = PartitionUid(ack.uid)
        early = self._early.get(uid)
        if early is not None and early.session == ack.session:
            self._early[uid] = replace(early, durable_end=Offset(ack.durable_end))
            return
        replica = self._replicas.with_uid(uid) if uid in self._attached else None
        leading = None if replica is None else replica.leading
        if replica is None or leading is None or leading.core.leader_epoch != ack.leader_epoch:
            return
        leading.on_acked(self.node_id, self.incarnation, ack.session, Offset(ack.durable_end))
        self._live.on_acked(replica)
        self._catch_up.on_acked(replica)

    def _on_announced(self, uid: PartitionUid, announced: Announcement) -> None:
        replica = self._replicas.with_uid(uid)
        if replica is None or replica.leader_epoch < announced.leader_epoch:
            if len(self._early) >= _EARLY_MAX:
                raise InvalidRequestError("too many partitions are announced", value=uid)
            self._early[uid] = announced
        elif replica.leading is None:
            error = replica.not_leader()
            self.answer(replica, Refused(self.node_id, announced.session, error))
        else:
            self._attached.add(uid)
            replica.leading.on_announced(self.node_id, self.incarnation, announced)

    # What replicas here tell

    def on_lead(self, replica: PartitionReplica) -> None:
        """A replica leads from now on."""
        announced = self._early.pop(replica.uid, None)
        if announced is None:
            return
        try:
            self._on_announced(replica.uid, announced)
        except InvalidRequestError as error:  # it would have ended the stream, had it been in time
            _log.warning("a follower contradicts itself", node=self.node_id, reason=error.message)
            self.end()

    def push_due(self, replica: PartitionReplica) -> None:
        """A replica has something to send."""
        if replica in self._catch_up:
            self._catch_up.add(replica)
        else:
            self._live.push_due(replica)

    def high_watermark_advanced(self, replica: PartitionReplica) -> None:
        """A replica's high watermark moved."""
        if replica.uid in self._attached:
            self._live.high_watermark_advanced(replica)

    def answer(self, replica: PartitionReplica, answer: Diverging | Refused) -> None:
        """Answer an announcement."""
        response = pb.ReplicateResponse()
        if isinstance(answer, Diverging):
            response.divergences.add(
                uid=replica.uid,
                leader_epoch=replica.leader_epoch,
                session=answer.session,
                end_epoch=answer.end.epoch,
                end_offset=answer.end.end_offset,
            )
        else:
            response.refusals.add(
                uid=replica.uid,
                leader_epoch=replica.leader_epoch,
                session=answer.session,
                error=error_to_proto(answer.error),
            )
        self._live.answer(response.SerializeToString())


async def _until_end(context: Any) -> None:
    while await context.read() is not grpc.aio.EOF:
        pass

"""One node that leads partitions which this one follows: dials it, takes pushes, acknowledges.

Idea: all partitions followed from that node share one pair of streams; frames are appended as they
come, one group commit covers whatever came meanwhile, and one message acknowledges it all.

Invariants: a replica is told `on_connected` on every pair of streams once, and `on_disconnected`
when the pair is gone; no frame is read while the storage has no room; both streams end together.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

import grpc
import structlog

from odradek.node.replication.follower import ANNOUNCE_RETRY_S, Ack
from odradek.node.replication.lane import Received
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.replicas import Replicas
from odradek.node.replication.session import Announcement
from odradek.node.storage.epochs import EpochEnd
from odradek.protocol.errors import BrokerError, StorageFullError
from odradek.protocol.replication import (
    AckFrame,
    ReplicateFrame,
    decode_replicate_response,
    encode_acks,
)
from odradek.protocol.types import LeaderEpoch, NodeId, Offset, PartitionUid
from odradek.rpc.backoff import delays
from odradek.rpc.channels import Call, converse, error_from_rpc, open_channel
from odradek.rpc.outlet import Outlet
from odradek.v1 import replica_pb2 as pb

_Call: TypeAlias = Call[bytes, bytes]

_log = structlog.get_logger()

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["ReplicaService"].full_name
_OPEN_TIMEOUT_S: Final = 3.0
_REDIAL_S_MAX: Final = 0.25
"""A leader that hung for less than its session waits for its followers; one that is dead soon leads
nothing."""
_STORAGE_FULL_WAIT_S: Final = 0.25
_ANNOUNCEMENTS_MAX: Final = 1000


class LeaderNode:
    """A leader's node.

    Args:
        leader_id: Which node.
        replicas: Those of this node.
        address: Returns `host:port`, or None while it is unknown.
        opening: Numbers a pair of streams: what opens both, without saying which is which.
    """

    def __init__(
        self,
        leader_id: NodeId,
        replicas: Replicas,
        address: Callable[[], str | None],
        opening: Callable[[], pb.ReplicateOpen],
    ) -> None:
        self.leader_id = leader_id
        self.followed: dict[PartitionUid, PartitionReplica] = {}
        self.task: asyncio.Task[None] | None = None
        self._replicas = replicas
        self._address = address
        self._opening = opening
        self._connected = False
        self._announcements: dict[PartitionUid, Announcement] = {}
        self._acks: dict[PartitionUid, AckFrame] = {}
        self._live, self._catch_up = Received(), Received()
        self._told = (0, 0)
        self._refused: dict[PartitionReplica, None] = {}
        """To be announced again when the timer ends."""
        self._timer: asyncio.TimerHandle | None = None
        self._outlet: Outlet[bytes] | None = None
        self._dial = asyncio.Event()
        self._chance = random.Random()  # noqa: S311  jitter, not a secret

    # What replicas here tell

    def follow(self, replica: PartitionReplica) -> None:
        """A replica follows that node from now on."""
        self.followed[replica.uid] = replica
        self._dial.set()
        if self._connected and replica.following is not None:
            replica.following.on_connected()

    def unfollow(self, replica: PartitionReplica) -> None:
        """No longer."""
        self.followed.pop(replica.uid, None)
        self._announcements.pop(replica.uid, None)
        self._acks.pop(replica.uid, None)

    def announce(self, replica: PartitionReplica, announcement: Announcement) -> None:
        """Say where a log ends."""
        self._announcements[replica.uid] = announcement
        self._acks.pop(replica.uid, None)
        self._wake()

    def ack(self, replica: PartitionReplica, ack: Ack) -> None:
        """Say how much is on disk; it must not overtake the announcement it belongs to."""
        waiting = self._announcements.get(replica.uid)
        if waiting is not None:
            self._announcements[replica.uid] = replace(waiting, durable_end=ack.durable_end)
        else:
            self._acks[replica.uid] = AckFrame(
                replica.uid, replica.leader_epoch, ack.session, ack.durable_end
            )
        self._wake()

    def on_synced(self, durable_position: int) -> None:
        """A group commit is done."""
        done = self._live.on_synced(durable_position)
        if self._catch_up.on_synced(durable_position) or done:
            self._wake()

    def dial_now(self) -> None:
        """The image changed: that node may be there now."""
        self._dial.set()

    # The streams

    async def run(self) -> None:
        """Keep a pair of streams to that node until cancelled."""
        waits = delays(self._chance, max_s=_REDIAL_S_MAX)
        while True:
            self._dial.clear()
            address = self._address()
            if address is not None and self.followed and await self._converse(address):
                waits = delays(self._chance, max_s=_REDIAL_S_MAX)
            with suppress(TimeoutError):
                async with asyncio.timeout(next(waits)):
                    await self._dial.wait()

    async def _converse(self, address: str) -> bool:
        """Serve one pair of streams until it breaks; return whether it ever stood."""
        channel = open_channel(address, keepalive_s=2.0)
        method = f"/{SERVICE_NAME}/Replicate"
        stood = False
        try:
            live: _Call = converse(channel, method, encode=None, decode=None)
            catch_up: _Call = converse(channel, method, encode=None, decode=None)
            opened = self._opening()  # once: the number is what makes a pair of them
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                for call, stream in (
                    (live, pb.REPLICATE_STREAM_LIVE),
                    (catch_up, pb.REPLICATE_STREAM_CATCH_UP),
                ):
                    opened.stream = stream
                    await call.write(pb.ReplicateRequest(open=opened).SerializeToString())
            stood = True
            self._outlet = Outlet(live, self._next_request)
            self._on_connected()
            await self._until_broken(live, catch_up, self._outlet)
        except grpc.aio.AioRpcError as error:
            self._on_broken(address, error_from_rpc(error).message)
        except asyncio.InvalidStateError:
            self._on_broken(address, "the stream had ended")
        except TimeoutError:
            self._on_broken(address, f"it did not begin within {_OPEN_TIMEOUT_S:g} s")
        except BrokerError as error:
            self._on_broken(address, error.message)
        finally:
            self._on_disconnected()
            await channel.close()
        return stood

    def _on_broken(self, address: str, reason: str) -> None:
        _log.info("replication broke", leader=self.leader_id, address=address, reason=reason)

    async def _until_broken(self, live: _Call, catch_up: _Call, outlet: Outlet[bytes]) -> None:
        tasks = [
            asyncio.ensure_future(self._read(live, self._live)),
            asyncio.ensure_future(self._read(catch_up, self._catch_up)),
            asyncio.ensure_future(outlet.run()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            live.cancel()
            catch_up.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if not task.cancelled():
                task.result()

    def _on_connected(self) -> None:
        _log.debug("replication begins", leader=self.leader_id, partitions=len(self.followed))
        self._connected = True
        for replica in list(self.followed.values()):
            if replica.following is not None:
                replica.following.on_connected()

    def _on_disconnected(self) -> None:
        self._connected = False
        self._outlet = None
        self._announcements.clear()
        self._acks.clear()
        self._live, self._catch_up = Received(), Received()
        self._told = (0, 0)
        self._refused.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for replica in self.followed.values():
            if replica.following is not None:
                replica.following.on_disconnected()

    async def _read(self, call: _Call, received: Received) -> None:
        await call.listen(partial(self._on_frame, received))

    def _on_frame(self, received: Received, data: bytes) -> Awaitable[None] | None:
        """Take a frame in; return what to wait for before the next one, if there is no room."""
        if not self._replicas.has_room:
            return self._take_slowly(received, data)
        self._take_in(received, data)
        return None

    async def _take_slowly(self, received: Received, data: bytes) -> None:
        while not self._replicas.has_room:
            await self._room()
        self._take_in(received, data)

    def _take_in(self, received: Received, data: bytes) -> None:
        frame = decode_replicate_response(data)
        self._take(frame)
        self._replicas.commit_soon()
        if frame.number:
            received.on_received(frame.number, self._replicas.awaited_position)
            self.on_synced(self._replicas.durable_position)

    async def _room(self) -> None:
        try:
            await self._replicas.room()
        except StorageFullError:
            await asyncio.sleep(_STORAGE_FULL_WAIT_S)

    def _take(self, frame: ReplicateFrame) -> None:
        for push in frame.pushes:
            replica = self.followed.get(push.uid)
            if replica is not None and replica.following is not None:
                replica.following.on_pushed(push)
                if replica.following.is_paused:  # the log did not take it
                    self._announce_again_soon(replica)
        for divergence in frame.divergences:
            replica = self.followed.get(PartitionUid(divergence.uid))
            if replica is not None and replica.following is not None:
                end = EpochEnd(LeaderEpoch(divergence.end_epoch), Offset(divergence.end_offset))
                epoch = LeaderEpoch(divergence.leader_epoch)
                replica.following.on_diverging(epoch, divergence.session, end)
        for refusal in frame.refusals:
            replica = self.followed.get(PartitionUid(refusal.uid))
            if replica is not None and replica.following is not None:
                replica.following.on_refused(LeaderEpoch(refusal.leader_epoch), refusal.session)
                self._announce_again_soon(replica)

    def _announce_again_soon(self, replica: PartitionReplica) -> None:
        self._refused[replica] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(ANNOUNCE_RETRY_S, self._announce_again)

    def _announce_again(self) -> None:
        refused, self._refused, self._timer = self._refused, {}, None
        now_s = time.monotonic()
        for replica in refused:
            if replica.following is not None:
                replica.following.on_tick(now_s)
                if replica.following.is_paused:  # it was refused after the first of these
                    self._announce_again_soon(replica)

    def _wake(self) -> None:
        if self._outlet is not None:
            self._outlet.wake()

    def _next_request(self) -> bytes | None:
        frames = self._live.done, self._catch_up.done
        if not self._announcements and not self._acks and frames == self._told:
            return None
        self._told = frames
        acks, self._acks = self._acks, {}
        encoded = encode_acks(*frames, acks.values())
        if not self._announcements:
            return encoded
        request = pb.ReplicateRequest()
        for uid in list(self._announcements)[:_ANNOUNCEMENTS_MAX]:
            each = self._announcements.pop(uid)
            request.announcements.add(
                uid=uid,
                leader_epoch=each.leader_epoch,
                session=each.session,
                last_epoch=each.last_epoch,
                log_end=each.log_end,
                durable_end=each.durable_end,
            )
        return encoded + request.SerializeToString()  # two of them are one with all of both

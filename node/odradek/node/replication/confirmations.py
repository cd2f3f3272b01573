"""Asking in-sync replicas whether this node still leads, one question for all who want to know.

Problem: a coordinator that was replaced without noticing must not answer from the past. Idea:
whoever replaced it was elected from the ISR it knows; when no member of that knew of a later epoch
after the question was asked, nobody had replaced it when it was.

Invariant: an answer counts only for questions asked before its request left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog

from odradek.node.replication.partition import PartitionReplica
from odradek.protocol.errors import NotLeaderOrFollowerError
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionUid
from odradek.rpc.channels import error_from_rpc, open_channel
from odradek.v1 import replica_pb2 as pb
from odradek.v1 import replica_pb2_grpc

_log = structlog.get_logger()

_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.1

Led = tuple[PartitionUid, LeaderEpoch]


@dataclass(slots=True)
class _Peer:
    address: str
    channel: grpc.aio.Channel
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[Led, asyncio.Future[bool]] = field(default_factory=dict)


class Confirmations:
    """Questions to other nodes.

    Args:
        address: Returns a node's `host:port`, or None while it is unknown.
    """

    def __init__(self, address: Callable[[NodeId], str | None]) -> None:
        self._address = address
        self._peers: dict[NodeId, _Peer] = {}

    async def close(self) -> None:
        """Close every channel."""
        for peer in self._peers.values():
            await peer.channel.close()

    async def confirm(self, replica: PartitionReplica) -> None:
        """Return once no other member of the ISR knows of a later leader.

        Raises:
            NotLeaderOrFollowerError: One does, or one cannot be asked.
        """
        led = replica.uid, replica.leader_epoch
        confirmed: set[NodeId] = set()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while replica.leading is not None and replica.leader_epoch == led[1]:
                    missing = [node for node in replica.others_in_sync if node not in confirmed]
                    if not missing:
                        return
                    for node_id in missing:
                        if await self._ask(node_id, led):
                            confirmed.add(node_id)
        except TimeoutError:
            pass
        raise NotLeaderOrFollowerError(
            f"partition {replica} may be led by another node by now", field="leader_epoch"
        )

    async def _ask(self, node_id: NodeId, led: Led) -> bool:
        """Return whether a node confirmed; False when it could not be asked.

        Raises:
            NotLeaderOrFollowerError: It knows better.
        """
        peer = await self._peer(node_id)
        if peer is None:
            await asyncio.sleep(_RETRY_S)
            return False
        loop = asyncio.get_running_loop()
        answer = peer.waiting.setdefault(led, loop.create_future())
        async with peer.asking:
            if not answer.done():
                await _ask_all(peer)
        if answer.cancelled() or not answer.done():
            await asyncio.sleep(_RETRY_S)
            return False
        if not answer.result():
            raise NotLeaderOrFollowerError(f"node {node_id} knows of a later leader")
        return True

    async def _peer(self, node_id: NodeId) -> _Peer | None:
        address = self._address(node_id)
        peer = self._peers.get(node_id)
        if peer is not None and peer.address != address:
            del self._peers[node_id]
            await peer.channel.close()
            peer = None
        if address is None:
            return None
        if peer is None:
            peer = self._peers.setdefault(node_id, _Peer(address, open_channel(address)))
        return peer


async def _ask_all(peer: _Peer) -> None:
    """Ask for everything that waits; what has no answer is cancelled."""
    asked, peer.waiting = peer.waiting, {}
    request = pb.ConfirmLeadershipRequest(
        partitions=(pb.LedEpoch(uid=uid, leader_epoch=epoch) for uid, epoch in asked)
    )
    stub = replica_pb2_grpc.ReplicaServiceStub(peer.channel)
    try:
        call: Awaitable[pb.ConfirmLeadershipResponse] = stub.ConfirmLeadership(
            request, timeout=_TIMEOUT_S
        )
        response = await call
        superseded = set(response.superseded)
        for (uid, _), answer in asked.items():
            if not answer.done():
                answer.set_result(uid not in superseded)
    except grpc.aio.AioRpcError as error:
        reason = error_from_rpc(error).message
        _log.info("leadership not confirmed", address=peer.address, reason=reason)
    finally:
        for answer in asked.values():
            answer.cancel()

"""Asking in-sync replicas whether this node still leads, one question for all who want to know.

Problem: a coordinator that was replaced without noticing must not answer from the past. Idea:
whoever replaced it was elected from the ISR it knows; when no member of that knew of a later epoch
after the question was asked, nobody had replaced it when it was. That holds only while the ISR is
as large as it must be: below, whoever left it last is eligible too, and may have been elected while
the session here has yet to lapse.

Invariants: an answer counts only for questions asked before its request left; below
`min.insync.replicas` nothing is confirmed.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog

from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.peers import Peers
from odradek.protocol.errors import NotLeaderOrFollowerError
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionUid
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import replica_pb2 as pb

_log = structlog.get_logger()

_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.1

Led = tuple[PartitionUid, LeaderEpoch]


@dataclass(slots=True)
class _Questions:
    """Those for one node."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: dict[Led, asyncio.Future[bool]] = field(default_factory=dict)


class Confirmations:
    """Questions to other nodes.

    Args:
        peers: The other nodes.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._questions: dict[NodeId, _Questions] = {}

    async def confirm(self, replica: PartitionReplica) -> None:
        """Return once no other member of the ISR knows of a later leader.

        Raises:
            NotLeaderOrFollowerError: One does, or one cannot be asked; or the ISR is too small to
                tell.
        """
        led = replica.uid, replica.leader_epoch
        confirmed: set[NodeId] = set()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while (leading := replica.leading) is not None and replica.leader_epoch == led[1]:
                    if not leading.core.has_enough_replicas:
                        break
                    missing = [node for node in leading.others_in_sync if node not in confirmed]
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
        """Return whether a node confirmed; False, a moment later, when it could not be asked.

        Raises:
            NotLeaderOrFollowerError: It knows better.
        """
        questions = self._questions.setdefault(node_id, _Questions())
        loop = asyncio.get_running_loop()
        answer = questions.waiting.setdefault(led, loop.create_future())
        async with questions.asking:
            if not answer.done():
                await self._ask_all(node_id, questions)
        if answer.cancelled():
            await asyncio.sleep(_RETRY_S)
            return False
        if not answer.result():
            raise NotLeaderOrFollowerError(f"node {node_id} knows of a later leader")
        return True

    async def _ask_all(self, node_id: NodeId, questions: _Questions) -> None:
        """Ask for everything that waits; what has no answer is cancelled."""
        asked, questions.waiting = questions.waiting, {}
        request = pb.ConfirmLeadershipRequest(
            partitions=(pb.LedEpoch(uid=uid, leader_epoch=epoch) for uid, epoch in asked)
        )
        try:
            stub = await self._peers.stub(node_id)
            if stub is not None:
                response = await stub.ConfirmLeadership(request, timeout=_TIMEOUT_S)
                superseded = set(response.superseded)
                for (uid, _), answer in asked.items():
                    if not answer.done():
                        answer.set_result(uid not in superseded)
        except grpc.aio.AioRpcError as error:
            reason = error_from_rpc(error).message
            _log.info("leadership not confirmed", by=node_id, reason=reason)
        finally:
            for answer in asked.values():
                answer.cancel()

"""How much followers lack, as their leaders know it: for whoever watches replicas move.

Idea: nobody keeps count. When somebody asks, the leader knows what each follower has on disk, and
the index knows how many bytes lie before that offset.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import grpc
import structlog

from odradek.node.cluster.image import PartitionState
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.peers import Peers
from odradek.node.replication.replicas import Replicas
from odradek.protocol.types import NodeId, PartitionUid
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import replica_pb2 as pb

_log = structlog.get_logger()

PARTITIONS_MAX: Final = 1000
_TIMEOUT_S: Final = 1.0


class Lags:
    """Answers, and asks the other nodes.

    Args:
        node_id: This node.
        peers: The other ones.
        replicas: Those of this node.
    """

    def __init__(self, node_id: NodeId, peers: Peers, replicas: Replicas) -> None:
        self._node_id = node_id
        self._peers = peers
        self._replicas = replicas

    async def here(self, uids: Iterable[PartitionUid]) -> list[pb.LedLog]:
        """Describe the followers of the partitions among these that this node leads."""
        replicas = map(self._replicas.with_uid, uids)
        return [await _led_log(each) for each in replicas if each is not None and each.is_leader]

    async def of(self, partitions: Iterable[PartitionState]) -> dict[PartitionUid, pb.LedLog]:
        """Ask the leaders of partitions; without those that do not answer within a second."""
        asked: defaultdict[NodeId, list[PartitionUid]] = defaultdict(list)
        for partition in partitions:
            asked[partition.leader_id].append(partition.uid)
        answers = await asyncio.gather(
            *(
                self._ask(node_id, uids[begin : begin + PARTITIONS_MAX])
                for node_id, uids in asked.items()
                for begin in range(0, len(uids), PARTITIONS_MAX)
            )
        )
        return {PartitionUid(log.uid): log for logs in answers for log in logs}

    async def _ask(self, node_id: NodeId, uids: list[PartitionUid]) -> Iterable[pb.LedLog]:
        if node_id == self._node_id:
            return await self.here(uids)
        stub = await self._peers.stub(node_id)
        if stub is None:
            return ()
        request = pb.DescribeFollowersRequest(uids=uids)
        try:
            return (await stub.DescribeFollowers(request, timeout=_TIMEOUT_S)).logs
        except grpc.aio.AioRpcError as error:
            _log.info("a leader was not asked", node=node_id, reason=error_from_rpc(error).message)
            return ()


async def _led_log(replica: PartitionReplica) -> pb.LedLog:
    log, leading = replica.log, replica.leading
    followers = {} if leading is None else leading.core.followers
    ends = {node_id: progress.durable_end for node_id, progress in followers.items()}
    missing = {node_id: await log.bytes_from(end) for node_id, end in ends.items()}
    size_bytes = log.size_bytes  # now: it may have grown, or lost its beginning
    return pb.LedLog(
        uid=replica.uid,
        size_bytes=size_bytes,
        followers=(
            pb.FollowerLag(node_id=node_id, missing_bytes=min(missing_bytes, size_bytes))
            for node_id, missing_bytes in missing.items()
        ),
    )

"""Damaged batches, put right with what another replica has.

Problem: a disk may rot below a batch that was acknowledged long ago. It fails its CRC and is served
to nobody, but it must not be cut either, nor be missing when this replica is the last. Idea: the
index beside it holds its header, CRC included, so that what another replica offers for it is proven
to be the same batch; it goes back to its place and nothing else changes: no role, no ISR, no epoch.

A table of RocksDB cannot be put right a row at a time: what is written again lies above the damaged
block and is read through it. Then the node's whole store is given up, if every partition here has
another replica in sync; otherwise the rest stays readable, and it is said aloud.

Invariant: a repair never changes what a log says, only what its disk holds.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
import structlog

from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.peers import Peers
from odradek.node.storage.log_reader import Damage
from odradek.node.storage.repair import repair_batch
from odradek.node.storage.store import DamagedTableError
from odradek.protocol.errors import BrokerError, CorruptMessageError
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import NodeId, Offset, PartitionUid
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import replica_pb2 as pb

_log = structlog.get_logger()

_TIMEOUT_S: Final = 5.0
_ONE_BATCH: Final = 1  # a read returns the first batch, however large


class Repairs:
    """Those of one node.

    Args:
        node_id: This node.
        peers: The other ones.
        table_damaged: Called when a table of this node's store is found damaged.
    """

    def __init__(
        self, node_id: NodeId, peers: Peers, table_damaged: Callable[[DamagedTableError], None]
    ) -> None:
        self._node_id = node_id
        self._peers = peers
        self._table_damaged = table_damaged
        self._under_way: dict[PartitionUid, asyncio.Lock] = {}

    async def repair(self, replica: PartitionReplica, damage: Damage, bytes_max: int) -> bool:
        """Put right damaged batches, and what else is damaged in so many bytes from there on.

        Returns:
            Whether all of it can be read now.
        """
        lock = self._under_way.setdefault(replica.uid, asyncio.Lock())
        try:
            if isinstance(damage, DamagedTableError):
                raise damage
            async with asyncio.timeout(_TIMEOUT_S), lock:
                return await self._repair(replica, damage.offset, bytes_max)
        except TimeoutError:
            return False
        except DamagedTableError as error:
            self._table_damaged(error)
            return False
        except BrokerError as error:
            _log.error("a damaged batch stays", replica=str(replica), reason=error.message)
            return False
        finally:
            if not lock.locked():
                self._under_way.pop(replica.uid, None)

    async def _repair(self, replica: PartitionReplica, offset: Offset, bytes_max: int) -> bool:
        while bytes_max > 0:
            try:
                batches = await replica.log.read(offset, _ONE_BATCH)
            except DamagedTableError:
                raise
            except CorruptMessageError as error:
                _log.error("a batch is damaged", replica=str(replica), reason=error.message)
                batch = await self._fetch(replica, offset)
                if batch is None:
                    return False
                repair_batch(replica.log, batch)
                _log.warning("a batch was repaired", replica=str(replica), offset=offset)
                batches = [batch]
            if not batches:
                break
            offset = BatchHeader.parse(batches[-1]).next_offset
            bytes_max -= len(batches[-1])
        return True

    async def _fetch(self, replica: PartitionReplica, offset: Offset) -> bytes | None:
        """Return the batch that holds an offset from whoever has it, the ISR first."""
        isr = replica.partition.isr
        others = (*isr, *(each for each in replica.partition.replicas if each not in isr))
        request = pb.FetchBatchRequest(uid=replica.uid, offset=offset)
        for node_id in others:
            stub = None if node_id == self._node_id else await self._peers.stub(node_id)
            if stub is None:
                continue
            try:
                response = await stub.FetchBatch(request, timeout=_TIMEOUT_S / 2)
            except grpc.aio.AioRpcError as error:
                reason = error_from_rpc(error).message
                _log.warning("no batch for a repair", asked=node_id, reason=reason)
            else:
                return response.batch
        return None

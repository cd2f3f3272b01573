"""ISR changes on their way to the controller, many partitions at a time.

Invariants: one request is under way at a time; every proposal is answered once, whatever becomes
of the request.
"""

import asyncio
from typing import Final, Protocol

import structlog

from odradek.node.replication.isr import ProposeIsr
from odradek.node.replication.partition import PartitionReplica
from odradek.protocol.errors import BrokerError, OdradekError
from odradek.v1 import controller_pb2

_log = structlog.get_logger()

_PARTITIONS_MAX: Final = 500


class IsrDecider(Protocol):
    """The controller, as far as ISR changes go."""

    async def alter_partitions(
        self, partitions: list[controller_pb2.AlterPartition]
    ) -> list[BrokerError | None]:
        """Have ISR changes decided; return why each was refused, or None."""


class IsrProposals:
    """Those of one node.

    Args:
        controller: Decides.
    """

    def __init__(self, controller: IsrDecider) -> None:
        self._controller = controller
        self._waiting: dict[PartitionReplica, ProposeIsr] = {}
        self._wake = asyncio.Event()

    def add(self, replica: PartitionReplica, proposal: ProposeIsr) -> None:
        """Ask soon; a newer proposal of a partition takes the place of one that still waits."""
        self._waiting[replica] = proposal
        self._wake.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                replicas = list(self._waiting)[:_PARTITIONS_MAX]
                await self._ask({each: self._waiting.pop(each) for each in replicas})

    async def _ask(self, proposals: dict[PartitionReplica, ProposeIsr]) -> None:
        request = [_to_proto(replica, each) for replica, each in proposals.items()]
        accepted: set[PartitionReplica] = set()
        try:
            refusals = await self._controller.alter_partitions(request)
        except OdradekError as error:
            _log.warning("no word on ISR changes", partitions=len(request), reason=error.message)
        else:
            for replica, refusal in zip(proposals, refusals, strict=True):
                _tell(replica, proposals[replica], refusal)
                if refusal is None:
                    accepted.add(replica)
        for replica, proposal in proposals.items():
            if replica.leading is not None:
                replica.leading.on_proposal_answered(proposal, accepted=replica in accepted)


def _tell(replica: PartitionReplica, proposal: ProposeIsr, error: BrokerError | None) -> None:
    isr = [member.node_id for member in proposal.isr]
    if error is None:
        _log.info("ISR changed", replica=str(replica), isr=isr)
    else:
        _log.info("ISR not changed", replica=str(replica), isr=isr, reason=error.message)


def _to_proto(replica: PartitionReplica, proposal: ProposeIsr) -> controller_pb2.AlterPartition:
    return controller_pb2.AlterPartition(
        topic_id=replica.topic.topic_id,
        partition=replica.partition.index,
        leader_epoch=proposal.leader_epoch,
        partition_epoch=proposal.partition_epoch,
        isr=(
            controller_pb2.IsrMember(node_id=member.node_id, incarnation=member.incarnation)
            for member in proposal.isr
        ),
    )

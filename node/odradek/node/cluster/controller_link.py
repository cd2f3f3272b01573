"""Changes this node asks the active controller for, on its own behalf and for clients.

Problem: when the answer is lost, the change may have been made. Idea: every request has a sequence
number that its repeats keep; the controller answers a repeat with its first answer, so that asking
again is always safe.

Invariant: a sequence belongs to one command of one incarnation.
"""

import asyncio
import random
from typing import Final

import grpc

from odradek.node.cluster.controllers import ControllerPeer, Controllers
from odradek.node.cluster.session import Session
from odradek.node.cluster.view import ClusterView
from odradek.protocol.errors import (
    BrokerError,
    NotControllerError,
    OutcomeUnknownError,
    RequestTimedOutError,
    StaleBrokerEpochError,
    error_from_proto,
)
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionIndex
from odradek.rpc.backoff import delays
from odradek.rpc.channels import ConnectionLostError, error_from_rpc
from odradek.v1 import controller_pb2 as pb

_ATTEMPT_TIMEOUT_S: Final = 5.0
_OWN_TIMEOUT_S: Final = 15.0
_IMAGE_TIMEOUT_S: Final = 5.0
# The controllers remember 128 answers of a node: a request under way must be among them.
_UNDER_WAY_MAX: Final = 100
_REPEATABLE: Final = (
    ConnectionLostError,
    NotControllerError,
    OutcomeUnknownError,
    RequestTimedOutError,
)


class ControllerLink:
    """Submits changes and waits until this node's own image holds them."""

    def __init__(
        self, node_id: NodeId, controllers: Controllers, session: Session, view: ClusterView
    ) -> None:
        self._node_id = node_id
        self._controllers = controllers
        self._session = session
        self._view = view
        self._sequence = 0
        self._under_way = asyncio.Semaphore(_UNDER_WAY_MAX)
        self._chance = random.Random()  # noqa: S311  jitter, not a secret

    async def submit(
        self, request: pb.SubmitRequest, timeout_s: float = _OWN_TIMEOUT_S
    ) -> pb.SubmitResponse:
        """Have one change decided.

        Args:
            request: With `command` set; the rest is filled in here.
            timeout_s: For all attempts together.

        Returns:
            The controller's answer, once this node's image holds it (or after a bounded wait).

        Raises:
            BrokerError: The change was refused as a whole.
            OutcomeUnknownError: The time ran out while the change may have been made.
        """
        try:
            async with asyncio.timeout(timeout_s), self._under_way:
                self._sequence += 1
                request.node_id = self._node_id
                request.incarnation = self._session.incarnation
                request.sequence = self._sequence
                response = await self._until_answered(request)
        except TimeoutError:
            raise OutcomeUnknownError(
                f"no controller answered within {timeout_s:g} s; the change may still be made"
            ) from None
        if response.HasField("error") and response.error.code:
            raise error_from_proto(response.error)
        await self._view.at_least(response.version, _IMAGE_TIMEOUT_S)
        return response

    async def _until_answered(self, request: pb.SubmitRequest) -> pb.SubmitResponse:
        waits = delays(self._chance)
        while True:
            peer = await self._controllers.wait_active(_ATTEMPT_TIMEOUT_S)
            response = await self._attempt_while_active(peer, request)
            if response is not None:
                return response
            await asyncio.sleep(next(waits))

    async def _attempt_while_active(
        self, peer: ControllerPeer, request: pb.SubmitRequest
    ) -> pb.SubmitResponse | None:
        """Ask once; one that hangs is not waited for once another is active."""
        attempt = asyncio.ensure_future(self._attempt(peer, request))
        moved = asyncio.ensure_future(self._controllers.until_active_changes())
        try:
            await asyncio.wait((attempt, moved), return_when=asyncio.FIRST_COMPLETED)
            return attempt.result() if attempt.done() else None
        finally:
            attempt.cancel()
            moved.cancel()
            await asyncio.gather(attempt, moved, return_exceptions=True)

    async def _attempt(
        self, peer: ControllerPeer, request: pb.SubmitRequest
    ) -> pb.SubmitResponse | None:
        """Ask once; None when the same request should be sent again."""
        try:
            response = await peer.stub.Submit(request, timeout=_ATTEMPT_TIMEOUT_S)
        except grpc.aio.AioRpcError as rpc_error:
            error = error_from_rpc(rpc_error)
        else:
            if not response.error.code:
                return response
            error = error_from_proto(response.error)
        if isinstance(error, _REPEATABLE):
            return None
        if isinstance(error, StaleBrokerEpochError):
            # A matter between this node and the controllers: whoever asked us may ask again.
            raise OutcomeUnknownError(
                "this node registers (again) with the controllers; the change may have been made"
            ) from error
        raise error

    # What the node itself asks for

    async def allocate_producer_ids(self) -> range:
        """Return a block of producer ids that nobody else is given."""
        command = pb.AllocateProducerIdsCommand()
        response = await self.submit(pb.SubmitRequest(allocate_producer_ids=command))
        block = response.allocate_producer_ids
        return range(block.first_producer_id, block.first_producer_id + block.count)

    async def create_internal_topic(self, name: str) -> None:
        """Create an internal topic unless it exists."""
        command = pb.CreateInternalTopicCommand(name=name)
        response = await self.submit(pb.SubmitRequest(create_internal_topic=command))
        for topic in response.create_topics.topics:
            if topic.error.code:
                raise error_from_proto(topic.error)

    async def change_groups(
        self,
        coordinator_partition: PartitionIndex,
        leader_epoch: LeaderEpoch,
        changes: list[pb.GroupChange],
    ) -> list[BrokerError | None]:
        """Have changes of groups decided, in order.

        Returns:
            One entry a change: why it was refused, or None.

        Raises:
            NotCoordinatorError: Another node coordinates these groups by now.
        """
        command = pb.ChangeGroupsCommand(
            coordinator_partition=coordinator_partition, leader_epoch=leader_epoch, changes=changes
        )
        response = await self.submit(pb.SubmitRequest(change_groups=command))
        return [
            error_from_proto(error) if error.code else None
            for error in response.change_groups.errors
        ]

    async def alter_partitions(
        self, partitions: list[pb.AlterPartition]
    ) -> list[BrokerError | None]:
        """Have ISR changes of partitions this node leads decided.

        Returns:
            One entry a change: why it was refused, or None.

        Raises:
            BrokerError: None was decided, or nobody knows.
        """
        command = pb.AlterPartitionsCommand(partitions=partitions)
        response = await self.submit(pb.SubmitRequest(alter_partitions=command))
        return [
            error_from_proto(each.error) if each.error.code else None
            for each in response.alter_partitions.partitions
        ]

"""`ControllerService`: what nodes ask of the controllers. Translates; decides nothing.

Only the active controller answers RegisterNode, WatchCluster and Submit; the others fail with
NOT_CONTROLLER, naming the active one when they know it. Heartbeats are heard by all.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog

from odradek.controller.active import ActiveController
from odradek.controller.committed import Committed
from odradek.controller.feed import Feed
from odradek.controller.liveness import Liveness
from odradek.controller.signals import Signal
from odradek.controller.state import heartbeats
from odradek.controller.state.decide import Answer
from odradek.controller.state.image import NO_CONTROLLER
from odradek.controller.state.nodes import Registration
from odradek.controller.state.touched import Touched
from odradek.controller.wire.requests import (
    answer_to_proto,
    refusal_to_proto,
    registration_from_proto,
    submission_from_proto,
)
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    NotControllerError,
    OutcomeUnknownError,
    RequestTimedOutError,
    ThrottledError,
)
from odradek.protocol.types import ControllerId, Incarnation, NodeId
from odradek.rpc.server import first_request
from odradek.v1 import controller_pb2, controller_pb2_grpc

_log = structlog.get_logger()

# The node should ask again, perhaps another controller; everything else is an answer.
_UNDECIDED = (NotControllerError, ThrottledError, OutcomeUnknownError, RequestTimedOutError)

HeartbeatRequest = controller_pb2.ControllerServiceHeartbeatRequest
HeartbeatResponse = controller_pb2.ControllerServiceHeartbeatResponse
Write = Callable[[HeartbeatResponse], Awaitable[None]]


class ControllerApi(controller_pb2_grpc.ControllerServiceServicer):
    """The service of one controller."""

    def __init__(
        self,
        *,
        controller_id: ControllerId,
        active: ActiveController,
        committed: Committed,
        feed: Feed,
        liveness: Liveness,
        heartbeat_interval_s: float,
    ) -> None:
        """Translate between the wire and these."""
        self._controller_id = controller_id
        self._active = active
        self._committed = committed
        self._feed = feed
        self._liveness = liveness
        self._heartbeat_interval_s = heartbeat_interval_s
        # Fires when what a node is told by heartbeat may have changed.
        self._standing_changed = Signal()
        active.changed.forward_to(self._standing_changed)
        committed.listen(self._on_committed)

    async def RegisterNode(  # noqa: N802 - the contract's name
        self, request: controller_pb2.RegisterNodeRequest, context: Any
    ) -> controller_pb2.RegisterNodeResponse:
        """Admit a process as its node's next incarnation."""
        del context
        registration = registration_from_proto(request)
        decided = await self._active.request(registration, size_bytes=request.ByteSize())
        assert isinstance(decided.reply, Registration), "the reply of its request"
        _log.info(
            "registered",
            node=request.node_id,
            incarnation=decided.reply.incarnation,
            address=f"{request.host}:{request.port}",
            lost_data=request.lost_data,
        )
        return controller_pb2.RegisterNodeResponse(
            cluster_id=self._committed.image.cluster_id,
            incarnation=decided.reply.incarnation,
            controller_epoch=self._active.require_epoch(),
            version=decided.version,
            heartbeat_interval_ms=round(self._heartbeat_interval_s * 1000),
            session_timeout_ms=round(self._liveness.policy.session_timeout_s * 1000),
        )

    async def Submit(  # noqa: N802 - the contract's name
        self, request: controller_pb2.SubmitRequest, context: Any
    ) -> controller_pb2.SubmitResponse:
        """Decide one change; the call fails when nothing was decided, as far as is known."""
        del context
        self._active.require_epoch()
        try:
            submission = submission_from_proto(request)
            decided = await self._active.request(submission, size_bytes=request.ByteSize())
        except BrokerError as error:
            if isinstance(error, _UNDECIDED):
                raise
            return refusal_to_proto(error)
        assert isinstance(decided.reply, Answer), "the reply of its request"
        return answer_to_proto(decided.reply.encoded, decided.version)

    async def WatchCluster(  # noqa: N802 - the contract's name
        self, request: controller_pb2.WatchClusterRequest, context: Any
    ) -> AsyncIterator[controller_pb2.WatchClusterResponse]:
        """Send the image once and changes after it."""
        del context
        updates = self._feed.watch(NodeId(request.node_id), Incarnation(request.incarnation))
        async for update in updates:
            yield update

    async def Heartbeat(  # type: ignore[override]  # noqa: N802 - writes by context, not by yield
        self, request_iterator: AsyncIterator[HeartbeatRequest], context: Any
    ) -> None:
        """Hear a node until its stream ends; answer each heartbeat, and every change unasked."""
        stream = _HeartbeatStream(self, context.write)
        pushing = asyncio.create_task(stream.push_changes())
        try:
            requests = aiter(request_iterator)
            request = await first_request(anext(requests, None))
            while request is not None:
                await stream.on_heartbeat(request)
                request = await anext(requests, None)
        finally:
            stream.close()
            pushing.cancel()
            await asyncio.wait([pushing])
            if not pushing.cancelled() and (failure := pushing.exception()) is not None:
                _log.debug("a heartbeat stream broke", reason=repr(failure))

    def standing(self, heartbeat: heartbeats.Heartbeat) -> HeartbeatResponse:
        """Return what a node is told that said this."""
        active = self._active.active_id
        response = HeartbeatResponse(
            controller_id=self._controller_id,
            active_id=NO_CONTROLLER if active is None else active,
        )
        epoch = self._active.epoch
        if epoch is None:
            return response
        response.active = True
        response.controller_epoch = epoch
        node = self._committed.image.nodes.get(heartbeat.node_id)
        if node is None or node.incarnation != heartbeat.incarnation:
            response.must_register = True
            return response
        response.fenced = node.fenced
        # Fencing moved its leaderships to whoever could take them.
        response.may_shut_down = node.fenced and heartbeat.wants_shutdown
        return response

    @property
    def standing_changed(self) -> asyncio.Event:
        """Set when what `standing` returns may have changed."""
        return self._standing_changed.next()

    @property
    def liveness(self) -> Liveness:
        """Who is told of heartbeats."""
        return self._liveness

    def _on_committed(self, touched: Touched | None) -> None:
        if touched is None or touched.nodes:
            self._standing_changed.fire()


class _HeartbeatStream:
    """One node's stream to this controller."""

    def __init__(self, api: ControllerApi, write: Write) -> None:
        self._api = api
        self._write = write
        self._lock = asyncio.Lock()  # a stream takes one message at a time
        self._heard: heartbeats.Heartbeat | None = None
        self._told: HeartbeatResponse | None = None

    async def on_heartbeat(self, request: HeartbeatRequest) -> None:
        heartbeat = heartbeats.Heartbeat(
            node_id=NodeId(request.node_id),
            incarnation=Incarnation(request.incarnation),
            version=request.version,
            wants_shutdown=request.wants_shutdown,
            storage_full=request.storage_full,
        )
        first = self._heard is None
        if self._heard is not None and self._heard.node_id != heartbeat.node_id:
            raise InvalidRequestError(
                "a heartbeat stream belongs to one node",
                field="node_id",
                value=heartbeat.node_id,
                limit=self._heard.node_id,
            )
        self._heard = heartbeat
        self._api.liveness.on_heartbeat(heartbeat, first=first)
        await self._tell(self._api.standing(heartbeat))

    async def push_changes(self) -> None:
        while True:
            changed = self._api.standing_changed
            await changed.wait()
            if self._heard is not None and self._told != self._api.standing(self._heard):
                await self._tell(self._api.standing(self._heard))

    def close(self) -> None:
        if self._heard is not None:
            self._api.liveness.on_stream_closed(self._heard)

    async def _tell(self, response: HeartbeatResponse) -> None:
        async with self._lock:
            self._told = response
            await self._write(response)

"""The shell of `GroupMember`: streams to the coordinator, timers, and the walk of a rebalance.

One stream task at a time, one ticking task, and at most one task that performs a walk (or tells the
application what it lost). Heartbeats leave from here however long the application takes for a
record; only a blocked event loop silences them.

Invariant: effects are performed in the order and in the step in which the machine returned them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from typing import Final, Protocol, TypeAlias, assert_never

import grpc

from odradek.client.cluster.background import Background
from odradek.client.cluster.coordinator import Coordinator, from_topic_partitions, topic_partitions
from odradek.client.cluster.scope import Scope
from odradek.client.config import ConsumerOptions
from odradek.client.consuming.group_member import (
    Connect,
    Disconnect,
    Effect,
    Fail,
    GroupMember,
    Heartbeat,
    HeartbeatReply,
    Lose,
    MemberState,
    Reconcile,
    Send,
)
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import OdradekError, RequestTimedOutError, error_from_proto
from odradek.protocol.types import GroupId, MemberId
from odradek.rpc.backoff import delays
from odradek.rpc.channels import ConnectionLostError, error_from_rpc
from odradek.v1 import group_pb2

_Call: TypeAlias = grpc.aio.StreamStreamCall[
    group_pb2.GroupServiceHeartbeatRequest, group_pb2.GroupServiceHeartbeatResponse
]

_LEAVE_TIMEOUT_S: Final = 3.0
_TICK_S_MAX: Final = 1.0
_TICK_S_MIN: Final = 0.01

_log = logging.getLogger(__name__)


class Rebalancing(Protocol):
    """What a rebalance asks of the consumer."""

    async def reconcile(
        self, revoked: frozenset[TopicIdPartition], assigned: frozenset[TopicIdPartition]
    ) -> None:
        """Finish, commit and give up some partitions, then take others over."""

    def drop(self, partitions: frozenset[TopicIdPartition]) -> None:
        """Stop reading at once: others may read these already."""

    async def tell_lost(
        self, partitions: frozenset[TopicIdPartition], reason: OdradekError | None
    ) -> None:
        """Tell the application what was dropped."""

    def fail(self, error: BaseException) -> None:
        """Give the application an error; the group is over for it."""


class GroupSession:
    """One member of one group, on the wire."""

    def __init__(
        self,
        scope: Scope,
        options: ConsumerOptions,
        background: Background,
        *,
        coordinator: Coordinator,
        topics: tuple[str, ...],
        member_id: MemberId,
        rebalancing: Rebalancing,
    ) -> None:
        assert options.group is not None, "a session is of a group"
        self._scope = scope
        self._options = options
        self._background = background
        self._coordinator = coordinator
        self._rebalancing = rebalancing
        self._member = GroupMember(
            GroupId(options.group), member_id, topics, static=options.instance_id is not None
        )
        self._outgoing: deque[Heartbeat] = deque(maxlen=64)
        self._due = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None
        self._walk: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._step = asyncio.Event()
        self._pauses = delays(scope.chance)

    @property
    def member(self) -> tuple[MemberId, int]:
        """Member id and epoch, for commits."""
        return self._member.member_id, self._member.epoch

    @property
    def state(self) -> MemberState:
        """Where the member stands."""
        return self._member.state

    def start(self) -> None:
        """Join the group; also after `leave`."""
        self._perform(self._member.on_start(self._now_s()))
        self._ticking = self._background.spawn(self._tick(), name="heartbeats")

    async def rejoin(self) -> None:
        """Join again after `leave`, once that has ended."""
        while self._member.state is MemberState.LEAVING:
            await self._stepped()
        if self._member.state is MemberState.LEFT:
            self.start()

    async def leave(self, *, for_good: bool = False) -> None:
        """Leave the group; the consumer has committed and told everything before."""
        self._cancel_walk()
        if self._ticking is not None:
            self._ticking.cancel()
        self._perform(self._member.on_leave(self._now_s(), for_good=for_good))
        try:
            async with asyncio.timeout(_LEAVE_TIMEOUT_S):
                while self._member.state is MemberState.LEAVING:
                    await self._stepped()
        except TimeoutError:
            _log.info("group %s did not confirm that we left", self._member.group)
        self._perform(self._member.on_left())

    # ------------------------------------------------------------------ effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._stream = self._background.spawn(
                        self._run_stream(after_failure=effect.after_failure), name="coordinator"
                    )
                case Send():
                    self._outgoing.append(effect.heartbeat)
                    self._due.set()
                case Reconcile():
                    assert self._walk is None, "one walk at a time"
                    self._walk = self._background.spawn(self._reconcile(effect), name="rebalance")
                case Lose():
                    self._cancel_walk()
                    self._rebalancing.drop(effect.partitions)
                    self._walk = self._background.spawn(self._lose(effect), name="lost")
                case Disconnect():
                    self._disconnect()
                case Fail():
                    self._rebalancing.fail(effect.error)
                case _:
                    assert_never(effect)
        self._step.set()
        self._step = asyncio.Event()

    async def _stepped(self) -> None:
        """Wait until the machine has made a step."""
        await self._step.wait()

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def _cancel_walk(self) -> None:
        if self._walk is not None:
            self._walk.cancel()
            self._walk = None

    async def _reconcile(self, walk: Reconcile) -> None:
        if await self._told(self._rebalancing.reconcile(walk.revoked, walk.assigned)):
            self._walk = None
            self._perform(self._member.on_reconciled(self._now_s()))

    async def _lose(self, lost: Lose) -> None:
        if await self._told(self._rebalancing.tell_lost(lost.partitions, lost.reason)):
            self._walk = None
            self._perform(self._member.on_lost_told(self._now_s()))

    async def _told(self, telling: Awaitable[None]) -> bool:
        """Run a callback of the application; what it raises is the application's to handle."""
        try:
            await telling
        except Exception as error:  # noqa: BLE001 raised again where the application asks next
            self._rebalancing.fail(error)
            return False
        return True

    # ------------------------------------------------------------------ time

    async def _tick(self) -> None:
        while True:
            now_s = self._now_s()
            self._perform(self._member.on_tick(now_s))
            wait_s = self._member.next_heartbeat_s - now_s
            await asyncio.sleep(min(max(wait_s, _TICK_S_MIN), _TICK_S_MAX))

    # ------------------------------------------------------------------ one stream

    async def _run_stream(self, *, after_failure: bool) -> None:
        if after_failure:
            await asyncio.sleep(next(self._pauses))
        try:
            await self._converse()
        except OdradekError as error:
            _log.debug("heartbeats of group %s: %s", self._member.group, error)
            if error.refreshes_metadata or isinstance(error, RequestTimedOutError):
                self._coordinator.forget()
            self._perform(self._member.on_disconnected(error, self._now_s()))

    async def _converse(self) -> None:
        connection = await self._coordinator.connection()
        call = connection.group.Heartbeat()
        self._outgoing.clear()
        failures: tuple[BaseException, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._perform(self._member.on_connected(self._now_s()))
                tasks.create_task(self._write(call))
                tasks.create_task(self._read(call))
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, OdradekError) as lost:
            failures = lost.exceptions
        finally:
            call.cancel()
        raise _most_telling(failures)

    async def _write(self, call: _Call) -> None:
        while True:
            self._due.clear()
            while self._outgoing:
                await call.write(self._to_proto(self._outgoing.popleft()))
            await self._due.wait()

    async def _read(self, call: _Call) -> None:
        while True:
            reply = await call.read()
            if not isinstance(reply, group_pb2.GroupServiceHeartbeatResponse):
                raise ConnectionLostError("the coordinator ended the heartbeat stream")
            if reply.HasField("error"):
                raise error_from_proto(reply.error)
            self._pauses = delays(self._scope.chance)
            self._perform(self._member.on_reply(_from_proto(reply), self._now_s()))

    def _to_proto(self, heartbeat: Heartbeat) -> group_pb2.GroupServiceHeartbeatRequest:
        request = group_pb2.GroupServiceHeartbeatRequest(
            group=self._member.group,
            member_id=self._member.member_id,
            member_epoch=heartbeat.member_epoch,
            instance_id=self._options.instance_id or "",
        )
        if heartbeat.topics is not None:
            request.topics.extend(heartbeat.topics)
            request.subscription_changed = True
            request.rack = self._scope.options.rack
            request.client_id = self._scope.options.client_id
            request.rebalance_timeout_ms = round(self._options.rebalance_timeout_s * 1000)
        if heartbeat.owned is not None:
            request.owned.extend(topic_partitions(heartbeat.owned))
            request.owned_changed = True
        return request

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _from_proto(reply: group_pb2.GroupServiceHeartbeatResponse) -> HeartbeatReply:
    return HeartbeatReply(
        reply.member_epoch,
        reply.heartbeat_interval_ms / 1000,
        reply.session_timeout_ms / 1000,
        from_topic_partitions(reply.assignment) if reply.assignment_changed else None,
    )


def _most_telling(failures: tuple[BaseException, ...]) -> OdradekError:
    """Return why a stream ended; what the coordinator said counts more than what broke with it."""
    for failure in failures:
        if isinstance(failure, OdradekError):
            return failure
    for failure in failures:
        if isinstance(failure, grpc.aio.AioRpcError):
            return error_from_rpc(failure)
    return ConnectionLostError(str(failures[0]))

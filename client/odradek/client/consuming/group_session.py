"""The shell of `GroupMember`: streams to the coordinator, timers, and the walk of a rebalance.

One stream at a time, one ticking task, and at most one task that performs a walk (or tells the
application what it lost). Heartbeats leave from here however long the application takes for a
record; only a blocked event loop silences them.

A stream that was disconnected may end with its own error in the same pass of the loop: a process
that stood still hears of its expulsion and finds its session over at once, and a task group prefers
its children's errors to its own cancellation. Such a stream is of the past, whatever it says. Taken
for the present one's, its error would open a second stream beside the first.

Invariants: effects are performed in the order and in the step in which the machine returned them;
a frame is written to the stream it was made for; the machine hears of the present stream only.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
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
# Never reached: a stream that answers nothing for three intervals is given up.
_FRAMES_MAX: Final = 64

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Stream:
    """One stream, from the search for the coordinator to its end, and what waits to be written."""

    outgoing: deque[Heartbeat] = field(default_factory=lambda: deque(maxlen=_FRAMES_MAX))
    due: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def send(self, heartbeat: Heartbeat) -> None:
        self.outgoing.append(heartbeat)
        self.due.set()


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
    """One member of one group, on the wire.

    Attributes:
        closing: True once the consumer closes: it does not join again.
    """

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
        self._stream: _Stream | None = None
        self._walk: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self.closing = False
        self._settles = False
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
        self._settles = False
        self._perform(self._member.on_start(self._now_s()))
        self._ticking = self._background.spawn(self._tick(), name="heartbeats")

    async def rejoin(self) -> None:
        """Join again after `leave`, once that has ended, unless the consumer closes."""
        while self._member.state is MemberState.LEAVING:
            await self._stepped()
        if self._member.state is MemberState.LEFT and not self.closing:
            self.start()

    async def settle(self, *, timeout_s: float) -> None:
        """Begin no rebalance any more until `start`, and let the one under way end.

        Whoever gives everything up must not do so beside a walk that gives up, or takes over, too.
        A walk may be what waits for us: it is cancelled once the time is up.
        """
        self._settles = True
        try:
            async with asyncio.timeout(timeout_s):
                # One walk may follow another: a membership that ends is told at all times.
                while (walk := self._walk_of_others()) is not None:
                    await asyncio.wait([walk])
        except TimeoutError:
            _log.warning("group %s: a rebalance callback does not end", self._member.group)
            walk = self._walk_of_others()
            self._cancel_walk()
            if walk is not None:
                await asyncio.wait([walk], timeout=_LEAVE_TIMEOUT_S)

    def _walk_of_others(self) -> asyncio.Task[None] | None:
        """Return the walk under way, unless it is what asks."""
        walk = self._walk
        return None if walk is None or walk.done() or walk is asyncio.current_task() else walk

    async def leave(self, *, for_good: bool = False) -> None:
        """Leave the group; the consumer has settled, committed and told everything before."""
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
                    self._connect(after_failure=effect.after_failure)
                case Send():
                    assert self._stream is not None, "frames are made for a stream"
                    self._stream.send(effect.heartbeat)
                case Reconcile() if self._settles:
                    pass  # what is owned is about to be given up, what is not stays another's
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

    def _connect(self, *, after_failure: bool) -> None:
        assert self._stream is None, "one stream at a time"
        self._stream = stream = _Stream()
        work = self._run_stream(stream, after_failure=after_failure)
        stream.task = self._background.spawn(work, name="coordinator")

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and stream.task is not None:
            stream.task.cancel()
            # It stood and said nothing: meanwhile another node may coordinate.
            self._coordinator.forget()

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

    async def _run_stream(self, stream: _Stream, *, after_failure: bool) -> None:
        if after_failure:
            await asyncio.sleep(next(self._pauses))
        try:
            await self._converse(stream)
        except OdradekError as error:
            if stream is not self._stream:
                return
            self._stream = None
            _log.debug("heartbeats of group %s: %s", self._member.group, error)
            if error.refreshes_metadata or isinstance(error, RequestTimedOutError):
                self._coordinator.forget()
            self._perform(self._member.on_disconnected(error, self._now_s()))

    async def _converse(self, stream: _Stream) -> None:
        connection = await self._coordinator.connection()
        call = connection.group.Heartbeat()
        failures: tuple[BaseException, ...] = ()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._perform(self._member.on_connected(self._now_s()))
                tasks.create_task(self._write(stream, call))
                tasks.create_task(self._read(stream, call))
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, OdradekError) as lost:
            failures = lost.exceptions
        finally:
            call.cancel()
        raise _most_telling(failures)

    async def _write(self, stream: _Stream, call: _Call) -> None:
        while True:
            stream.due.clear()
            while stream.outgoing:
                await call.write(self._to_proto(stream.outgoing.popleft()))
            await stream.due.wait()

    async def _read(self, stream: _Stream, call: _Call) -> None:
        while True:
            reply = await call.read()
            if not isinstance(reply, group_pb2.GroupServiceHeartbeatResponse):
                raise ConnectionLostError("the coordinator ended the heartbeat stream")
            if reply.HasField("error"):
                raise error_from_proto(reply.error)
            if stream is not self._stream:
                return
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

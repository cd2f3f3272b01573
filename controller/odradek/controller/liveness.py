"""Who lives: hears heartbeats on every controller, fences and unfences on the active one."""

import asyncio
from contextlib import suppress

import structlog

from odradek.controller.active import ActiveController
from odradek.controller.committed import Committed
from odradek.controller.signals import Signal
from odradek.controller.state.heartbeats import Due, Heartbeat, HeartbeatPolicy, Heartbeats
from odradek.controller.state.nodes import FenceNode, RetireNode, UnfenceNode
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import NodeId

_log = structlog.get_logger()

# Silence is judged this often; the end of a broken stream's grace is met exactly.
_TICK_S = 0.05
_WHAT = {FenceNode: "fenced", UnfenceNode: "unfenced", RetireNode: "retires"}


class Liveness:
    """Feeds the pure `Heartbeats` with events and time, and has decided what it finds due."""

    def __init__(
        self, active: ActiveController, committed: Committed, policy: HeartbeatPolicy
    ) -> None:
        """Begin having heard nobody."""
        self.policy = policy
        self._active = active
        self._committed = committed
        self._heartbeats = Heartbeats(policy)
        self._poked = Signal()
        active.changed.forward_to(self._poked)
        # Nodes whose fencing or unfencing is being decided.
        self._deciding: set[NodeId] = set()

    def on_heartbeat(self, heartbeat: Heartbeat, *, first: bool) -> None:
        """A node spoke; `first` on this stream."""
        self._heartbeats.on_heartbeat(heartbeat, self._now_s(), first=first)
        self._poked.fire()

    def on_stream_closed(self, last: Heartbeat) -> None:
        """A stream ended after this heartbeat."""
        registered = last.node_id in self._committed.image.nodes
        self._heartbeats.on_stream_closed(last, self._now_s(), registered=registered)
        self._poked.fire()

    def settled(self) -> tuple[NodeId, ...]:
        """Return the nodes that have been up for a while."""
        return self._heartbeats.settled(self._now_s())

    async def run(self) -> None:
        """Judge while active, keep time while not, until cancelled."""
        async with asyncio.TaskGroup() as decisions:
            while True:
                epoch = self._active.epoch
                if epoch is None:
                    self._heartbeats.on_passive()
                else:
                    self._heartbeats.on_active(self._now_s())
                await self._judge(epoch, decisions)

    async def _judge(self, epoch: int | None, decisions: asyncio.TaskGroup) -> None:
        """Do what is due, until this controller is active in another epoch, or not any more."""
        while self._active.epoch == epoch:
            poked = self._poked.next()
            nodes = self._committed.image.nodes.values()
            for request in self._heartbeats.due(nodes, self._now_s()):
                if request.node_id not in self._deciding:
                    self._deciding.add(request.node_id)
                    decisions.create_task(self._decide(request))
            now_s = self._now_s()
            until_s = min(now_s + _TICK_S, self._heartbeats.next_due_s(now_s) or float("inf"))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await poked.wait()

    async def _decide(self, request: Due) -> None:
        what = _WHAT.get(type(request), "has reported its disk")
        try:
            await self._active.request(request)
        except BrokerError as error:
            # Still due at the next tick, here or on the next active controller.
            _log.warning("undecided", node=request.node_id, what=what, error=error.message)
        else:
            _log.info(what, node=request.node_id)
        finally:
            self._deciding.discard(request.node_id)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

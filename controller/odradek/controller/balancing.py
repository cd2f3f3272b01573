"""Putting things where they belong while nothing is wrong: the active controller's slow hand.

Looks once a second if something has changed, and asks for a bounded step when there is something to
do. What to do is decided by the pure state; here is only when.
"""

import asyncio
from contextlib import suppress

import structlog

from odradek.controller.active import ActiveController
from odradek.controller.committed import Committed
from odradek.controller.liveness import Liveness
from odradek.controller.state.decide import PreferLeaders
from odradek.controller.state.elections import misled
from odradek.controller.state.rebalance import Rebalance, plan
from odradek.controller.state.touched import Touched
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import NodeId

_log = structlog.get_logger()

_STEP_INTERVAL_S = 1.0
# Each move makes clients look for the new leader once.
_LEADERS_PER_STEP_MAX = 100
# Their bytes are throttled where they are sent; this bounds what is unfinished at any time.
_RECEIVING_MAX = 5


class Balancer:
    """Steps while this controller is active."""

    def __init__(self, active: ActiveController, committed: Committed, liveness: Liveness) -> None:
        """Begin idle."""
        self._active = active
        self._committed = committed
        self._liveness = liveness
        # What was looked at last: whether anything changed since, and who was ready.
        self._changed = True
        self._ready: tuple[NodeId, ...] = ()
        committed.listen(self._on_committed)

    async def run(self) -> None:
        """Step until cancelled."""
        while True:
            changed = self._active.changed.next()
            if self._active.epoch is None:
                self._changed = True
                await changed.wait()
                continue
            try:
                await self._step()
            except BrokerError as error:
                self._changed = True  # look again
                _log.info("balancing waits", reason=error.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STEP_INTERVAL_S):
                    await changed.wait()

    async def _step(self) -> None:
        ready = self._liveness.settled()
        if not self._changed and ready == self._ready:
            return
        self._changed, self._ready = False, ready
        request = Rebalance(ready, _RECEIVING_MAX)
        moves = plan(self._committed.image, request)
        if moves:
            await self._active.request(request)
            _log.info("replicas move", partitions=len(moves))
        if misled(self._committed.image, ready):
            await self._active.request(PreferLeaders(ready, _LEADERS_PER_STEP_MAX))

    def _on_committed(self, touched: Touched | None) -> None:
        if touched is None or touched.nodes or touched.topics or touched.partitions:
            self._changed = True

"""Putting things where they belong while nothing is wrong: the active controller's slow hand.

Looks once a second, and asks for a bounded step when there is something to do. What to do is
decided by the pure state; here is only when.
"""

import asyncio
from contextlib import suppress

import structlog

from odradek.controller.active import ActiveController
from odradek.controller.committed import Committed
from odradek.controller.liveness import Liveness
from odradek.controller.state.decide import PreferLeaders
from odradek.controller.state.elections import misled
from odradek.protocol.errors import BrokerError

_log = structlog.get_logger()

_STEP_INTERVAL_S = 1.0
# Each move makes clients look for the new leader once.
_LEADERS_PER_STEP_MAX = 100


class Balancer:
    """Steps while this controller is active."""

    def __init__(self, active: ActiveController, committed: Committed, liveness: Liveness) -> None:
        """Begin idle."""
        self._active = active
        self._committed = committed
        self._liveness = liveness

    async def run(self) -> None:
        """Step until cancelled."""
        while True:
            changed = self._active.changed.next()
            if self._active.epoch is None:
                await changed.wait()
                continue
            try:
                await self._step()
            except BrokerError as error:
                _log.info("balancing waits", reason=error.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STEP_INTERVAL_S):
                    await changed.wait()

    async def _step(self) -> None:
        settled = self._liveness.settled()
        if misled(self._committed.image, settled):
            await self._active.request(PreferLeaders(settled, _LEADERS_PER_STEP_MAX))

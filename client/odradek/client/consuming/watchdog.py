"""Notices an application that sits on a record.

A slow handler is nobody's fault and is never expelled; a stuck one should not stay unseen. So the
record in hand is looked at now and then: a warning after 30 s, again after twice as long each time,
and a call to `on_overdue` once it took longer than the application itself allowed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from odradek.client.record import Record

_FIRST_WARNING_S: Final = 30.0
_LOOK_S: Final = 1.0

_log = logging.getLogger(__name__)


class Watchdog:
    """Watches what one consumer has in hand.

    Args:
        in_hand: Returns the record that has been in hand longest, or None.
        max_processing_time_s: None: only warn.
        on_overdue: Called once for a record that takes longer.
    """

    def __init__(
        self,
        in_hand: Callable[[], Record[Any, Any] | None],
        *,
        max_processing_time_s: float | None,
        on_overdue: Callable[[], Awaitable[None]],
    ) -> None:
        self._in_hand = in_hand
        self._max_s = max_processing_time_s
        self._on_overdue = on_overdue

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        look_s = _LOOK_S if self._max_s is None else min(_LOOK_S, self._max_s / 4)
        record: Record[Any, Any] | None = None
        since_s = loop.time()
        warn_s, overdue = _FIRST_WARNING_S, False
        while True:
            await asyncio.sleep(look_s)
            now = self._in_hand()
            if now is None or now is not record:
                record, since_s = now, loop.time()
                warn_s, overdue = _FIRST_WARNING_S, False
                continue
            held_s = loop.time() - since_s
            if held_s >= warn_s:
                warn_s *= 2
                _log.warning(
                    "%s-%d offset %d has been in processing for %.0f s",
                    record.topic,
                    record.partition,
                    record.offset,
                    held_s,
                )
            if self._max_s is not None and held_s >= self._max_s and not overdue:
                overdue = True
                _log.warning(
                    "%s-%d offset %d took longer than max_processing_time_s=%g: leaving the group",
                    record.topic,
                    record.partition,
                    record.offset,
                    self._max_s,
                )
                await self._on_overdue()

"""Repeat one attempt until it succeeds, is refused, or its time is over."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from odradek.protocol.errors import OdradekError, RequestTimedOutError
from odradek.rpc.backoff import delays

T = TypeVar("T")


async def retrying(
    attempt: Callable[[], Awaitable[T]], *, what: str, timeout_s: float, chance: random.Random
) -> T:
    """Return what the first successful attempt returns.

    Args:
        attempt: Raises a retriable error to be called again after a pause.
        what: For the message when time is over.
        timeout_s: All attempts and pauses together.
        chance: For the pauses.

    Raises:
        OdradekError: The first that is not retriable, or the last when time is over.
        RequestTimedOutError: Time is over and no attempt has ended.
    """
    last: OdradekError | None = None
    try:
        async with asyncio.timeout(timeout_s):
            for pause_s in delays(chance):
                try:
                    return await attempt()
                except OdradekError as error:
                    if not error.retriable:
                        raise
                    last = error
                await asyncio.sleep(pause_s)
    except TimeoutError:
        if last is not None:
            raise last from None
    raise RequestTimedOutError(
        f"{what}: no answer in {timeout_s:g} s", field="timeout_s", value=timeout_s, limit=timeout_s
    )

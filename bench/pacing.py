"""Records of 100 B at a steady rate, each with the time of its leaving in it."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

RATE: Final = 1_000
WARM_UP_RECORDS: Final = 2 * RATE
VALUE_BYTES: Final = 100
_STAMP = struct.Struct(">q")


async def paced(count: int) -> AsyncIterator[bytes]:
    """Yield so many values at the steady rate; each carries the time of its leaving."""
    started_s = time.perf_counter()
    for number in range(count):
        due_s = started_s + number / RATE
        if (ahead_s := due_s - time.perf_counter()) > 0:
            await asyncio.sleep(ahead_s)
        yield _STAMP.pack(time.perf_counter_ns()) + bytes(VALUE_BYTES - _STAMP.size)


def age_s(value: bytes | memoryview) -> float:
    """Return how long ago, in seconds, `paced` yielded the value in this process."""
    sent_ns: int = _STAMP.unpack_from(value)[0]
    return (time.perf_counter_ns() - sent_ns) / 1e9


def percentile_ms(ages_s: Sequence[float], percentile: float) -> float:
    """Return a percentile in milliseconds."""
    samples = sorted(ages_s)
    return samples[min(len(samples) - 1, int(len(samples) * percentile / 100))] * 1000

"""Wall clocks, one for each node and producer, that run a little fast or slow, and jump.

Monotonic time is true everywhere. A jump sets a wall clock off by seconds, hours or a day and a
half, ahead or back, or puts it right. Their chance is their own: without them a seed would run as
it does with them, but for what they cause.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random

from odradek.node.replication.checks import timestamp_refusal
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.topic_config import TimestampType, TopicConfig
from odradek.protocol.types import TopicName
from tests.simulation.cluster.events import Scheduler

_START_MS = 1_700_000_000_000
_OFF_S = (0.0, 0.0, 3.0, 3600.0, 8 * 3600.0, 36 * 3600.0)
_DRIFT_MAX = 1e-3
_AHEAD_OF_ALL_S = 1800.0
_LOG_APPEND_TIME_BIT = 0x08
NO_TIME = -1


@dataclass(slots=True)
class WallClock:
    """What a machine takes for the time.

    Attributes:
        ahead_max_s: It is never set further ahead: nodes refuse records of an hour ahead for good.
    """

    scheduler: Scheduler
    ahead_max_s: float
    rate: float
    off_s: float = 0.0

    @property
    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return _START_MS + int((self.scheduler.now_s * self.rate + self.off_s) * 1000)


class Clocks:
    """All wall clocks, and what they do to topics."""

    def __init__(self, scheduler: Scheduler, chance: Random, met: Counter[str]) -> None:
        self._scheduler = scheduler
        self._chance = chance
        self._met = met
        self._clocks: list[WallClock] = []
        self._jumps_per_s = chance.choice([0.05, 0.2, 2.0])
        self.topic_config = chance.choice(
            [
                (),  # what is an hour ahead of its leader is refused
                (("message.timestamp.type", "LogAppendTime"),),
                (("message.timestamp.after.max.ms", str(1 << 40)),),
                (("message.timestamp.after.max.ms", str(1 << 40)),),
            ]
        )
        self._has_healed = False

    def of_node(self) -> WallClock:
        """Make a clock that may say anything."""
        return self._add(_OFF_S[-1])

    def of_producer(self) -> WallClock:
        """Make a clock whose records nodes take, once theirs are right."""
        return self._add(_AHEAD_OF_ALL_S)

    def _add(self, ahead_max_s: float) -> WallClock:
        rate = 1 + self._chance.uniform(-_DRIFT_MAX, _DRIFT_MAX)
        self._clocks.append(WallClock(self._scheduler, ahead_max_s, rate))
        return self._clocks[-1]

    def start(self) -> None:
        """Begin to jump."""
        self._scheduler.after(self._chance.expovariate(self._jumps_per_s), self._jump)

    def _jump(self) -> None:
        if self._has_healed:
            return
        clock = self._chance.choice(self._clocks)
        off_s = self._chance.choice(_OFF_S) * self._chance.choice([-1, 1])
        clock.off_s = min(off_s, clock.ahead_max_s)
        self._met["clock jumps"] += 1
        self.start()

    def taken(self, batch: BatchHeader, config: TopicConfig, wall: WallClock) -> BatchHeader:
        """Return a batch as the leader with a clock stamps it.

        Raises:
            InvalidTimestampError: It is too far ahead of the clock.
        """
        refusal = timestamp_refusal(batch, config, TopicName("data"), wall.now_ms)
        if refusal is not None:
            self._met["records from the future"] += 1
            raise refusal
        if config.timestamp_type is TimestampType.CREATE_TIME:
            return batch
        attributes = batch.attributes | _LOG_APPEND_TIME_BIT
        return batch._replace(attributes=attributes, max_timestamp=wall.now_ms)

    def heal(self) -> None:
        """Put all clocks right."""
        self._has_healed = True
        for clock in self._clocks:
            clock.off_s = 0.0


def append_time_ms(batch: BatchHeader) -> int:
    """Return what the producer of a batch is told of its time."""
    return batch.max_timestamp if batch.is_log_append_time else NO_TIME

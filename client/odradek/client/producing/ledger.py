"""What a producer holds in memory, and which failures nobody has heard of. Pure.

Invariants: `used_bytes` is the sum of what unfinished batches hold, so it exceeds its limit by one
record at most; a failure leaves the ledger only by being raised, or by being awaited.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from odradek.client.errors import DeliveryFailedError
from odradek.protocol.errors import OdradekError

if TYPE_CHECKING:
    from odradek.client.producing.producer_batch import ProducerBatch

_FAILURES_MAX = 1000


@dataclass(slots=True)
class Ledger:
    """One producer's.

    Attributes:
        limit_bytes: The producer's `buffer_bytes`.
        used_bytes: Held by records without an outcome.
    """

    limit_bytes: int
    used_bytes: int = 0
    _failed: "deque[ProducerBatch]" = field(default_factory=deque)
    _forgotten: list[tuple[int, OdradekError]] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        """True while another record may be taken."""
        return self.used_bytes < self.limit_bytes

    def on_finished(self, batch: "ProducerBatch") -> None:
        """A batch has its outcome."""
        self.used_bytes -= batch.charged_bytes
        assert self.used_bytes >= 0, "nothing is released twice"
        if batch.error is not None and batch.unheard_count:
            self._failed.append(batch)
            if len(self._failed) > _FAILURES_MAX:
                self._forget(self._failed.popleft())

    def _forget(self, batch: "ProducerBatch") -> None:
        """Let an old failure's batch go, but remember that it was."""
        if batch.unheard_count and batch.error is not None:
            count, first = self._forgotten[0] if self._forgotten else (0, batch.error)
            self._forgotten = [(count + batch.unheard_count, first)]

    def take_failure(self) -> DeliveryFailedError | None:
        """Return the failures nobody awaited as one error, once."""
        failures = [
            *self._forgotten,
            *((each.unheard_count, each.error) for each in self._failed if each.error is not None),
        ]
        self._forgotten = []
        self._failed.clear()
        unheard = [(count, error) for count, error in failures if count]
        if not unheard:
            return None
        failure = DeliveryFailedError(
            sum(count for count, _ in unheard), tuple(error for _, error in unheard)
        )
        failure.__cause__ = unheard[0][1]
        return failure

"""What a producer holds in memory, and which failures nobody has heard of. Pure.

Invariants: `used_bytes` is the sum of what unfinished batches hold, with the longest of frames for
values that are not framed yet, so it exceeds its limit by one record at most; a failure leaves the
ledger only by being raised, or by being awaited.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from odradek.client.errors import DeliveryFailedError
from odradek.protocol.errors import OdradekError

_FAILURES_MAX = 1000
# A request's worth: with many partitions smaller breaths would send batches of a few records each.
_BREATH_BYTES = 1024 * 1024


class Finished(Protocol):
    """A batch with its outcome, as the ledger sees it."""

    @property
    def charged_bytes(self) -> int:
        """What it held of the buffer."""

    @property
    def error(self) -> OdradekError | None:
        """Why it failed; None when acknowledged."""

    @property
    def unheard_count(self) -> int:
        """How many of its records nobody has awaited; falls when somebody does."""


@dataclass(slots=True)
class Ledger:
    """One producer's.

    Attributes:
        limit_bytes: The producer's `buffer_bytes`.
        used_bytes: Held by records without an outcome.
        quick_until_bytes: From here on a record takes the slow way, where the loop gets its turn
            and the limit is seen to; 0 while somebody waits for room.
    """

    limit_bytes: int
    used_bytes: int = 0
    quick_until_bytes: int = 0
    _failed: deque[Finished] = field(default_factory=deque)
    _forgotten: list[tuple[int, OdradekError]] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        """True while another record may be taken."""
        return self.used_bytes < self.limit_bytes

    @property
    def is_quick(self) -> bool:
        """True while records may be taken without a look at anything else."""
        return self.used_bytes < self.quick_until_bytes

    def breathe(self) -> None:
        """The loop has had its turn: some more records may be taken in one go."""
        self.quick_until_bytes = min(self.limit_bytes, self.used_bytes + _BREATH_BYTES)

    def on_finished(self, batch: Finished) -> None:
        """A batch has its outcome."""
        self.used_bytes -= batch.charged_bytes
        assert self.used_bytes >= 0, "nothing is released twice"
        self.on_unheard(batch)

    def on_unheard(self, batch: Finished) -> None:
        """Remember a batch if it has failed and somebody is still to hear of that."""
        if batch.error is None or not batch.unheard_count or batch in self._failed:
            return
        self._failed.append(batch)
        if len(self._failed) > _FAILURES_MAX:
            self._forget(self._failed.popleft())

    def _forget(self, batch: Finished) -> None:
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

"""One partition of `__consumer_offsets`: replayed at election, appended to after.

Problem: hundreds of members commit every second, and each append costs a sync. Idea: one append is
in flight; whatever is committed meanwhile goes into the next batch. State follows the log: a record
changes `offsets` once its batch is committed, in log order, the same as on replay.

A seam for later: `CommittedOffsets` lives in memory and is rebuilt from the whole (compacted) log;
a state table with an applied offset would shorten `load` to a tail.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from odradek.node.coordination.boundaries import Clock, InternalPartition
from odradek.node.coordination.offsets import CommittedOffsets
from odradek.node.coordination.records import OffsetsRecord, decode, encode
from odradek.protocol.errors import (
    BrokerError,
    FencedLeaderEpochError,
    LeaderNotAvailableError,
    NotCoordinatorError,
    NotLeaderOrFollowerError,
    ThrottledError,
)
from odradek.protocol.record_batch import BatchBuilder, BatchHeader
from odradek.protocol.record_batch import decode as decode_batch

_BATCH_BYTES: Final = 256 << 10
_READ_BYTES: Final = 1 << 20
_PENDING_RECORDS_MAX: Final = 100_000
_NOT_LEADER: Final = (NotLeaderOrFollowerError, LeaderNotAvailableError, FencedLeaderEpochError)


@dataclass(slots=True, eq=False)
class _Append:
    """Records that are acknowledged together."""

    unwritten: deque[OffsetsRecord]
    done: asyncio.Future[None]


class OffsetLog:
    """The log and what it says. Use from the loop's thread only."""

    def __init__(self, internal: InternalPartition, clock: Clock) -> None:
        self.offsets = CommittedOffsets()
        self._internal = internal
        self._clock = clock
        self._pending: deque[_Append] = deque()
        self._pending_records = 0
        self._wake = asyncio.Event()
        self._last: asyncio.Future[None] | None = None
        self._closed: BrokerError | None = None

    async def load(self) -> None:
        """Replay everything committed.

        Raises:
            BrokerError: This node does not lead any more, or cannot read.
        """
        await self._internal.confirm_leadership()
        self.offsets = CommittedOffsets()
        offset = self._internal.log_start_offset
        end = self._internal.high_watermark
        while offset < end:
            batches = await self._internal.read(offset, _READ_BYTES)
            assert batches, "reads below the high watermark return batches"
            for batch in batches:
                header = BatchHeader.parse(batch)
                if not header.is_control:
                    for raw in decode_batch(batch):
                        record = decode(raw.key, raw.value)
                        if record is not None:
                            self.offsets.apply(record)
                offset = header.next_offset
            await asyncio.sleep(0)  # let the node breathe between reads

    def append(self, records: Iterable[OffsetsRecord]) -> asyncio.Future[None]:
        """Queue records; the future resolves once they are committed and visible in `offsets`.

        Raises:
            ThrottledError: Too many records wait.
            NotCoordinatorError: The log was closed.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = _Append(deque(records), done)
        if self._closed is not None:
            raise self._closed
        if not entry.unwritten:
            done.set_result(None)
            return done
        if self._pending_records >= _PENDING_RECORDS_MAX:
            raise ThrottledError(
                f"{self._pending_records} commits wait for the log",
                field="offsets",
                value=len(entry.unwritten),
                limit=_PENDING_RECORDS_MAX,
            )
        self._pending_records += len(entry.unwritten)
        self._pending.append(entry)
        self._last = done
        self._wake.set()
        return done

    async def settled(self) -> None:
        """Return once all that is queued now is committed or refused."""
        if self._last is not None:
            await asyncio.wait((self._last,))

    async def run(self) -> None:
        """Append what is queued, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                await self._append_batch()

    def close(self, error: BrokerError) -> None:
        """Refuse what waits and what comes."""
        self._closed = error
        self._fail(list(self._pending), error)

    async def _append_batch(self) -> None:
        batch, records, entries = self._next_batch()
        try:
            await self._internal.append(batch)
        except BrokerError as error:
            self._fail(entries, _for_committers(error))
            return
        for record in records:
            self.offsets.apply(record)
        self._pending_records -= len(records)
        while self._pending and not self._pending[0].unwritten:
            done = self._pending.popleft().done
            if not done.done():
                done.set_result(None)

    def _next_batch(self) -> tuple[bytes, list[OffsetsRecord], list[_Append]]:
        """Move records from the queue's head into a batch."""
        builder = BatchBuilder(_BATCH_BYTES)
        now_ms = self._clock.wall_ms()
        records: list[OffsetsRecord] = []
        entries: list[_Append] = []
        for entry in self._pending:
            entries.append(entry)
            while entry.unwritten:
                key, value = encode(entry.unwritten[0])
                if builder.append(key, value, now_ms, []) is None:
                    return bytes(builder.close()), records, entries
                records.append(entry.unwritten.popleft())
        return bytes(builder.close()), records, entries

    def _fail(self, entries: list[_Append], error: BrokerError) -> None:
        failed = set(map(id, entries))
        for entry in entries:
            if not entry.done.done():
                entry.done.set_exception(error)
                entry.done.exception()  # whoever waits still sees it; nobody need wait
        self._pending = deque(each for each in self._pending if id(each) not in failed)
        self._pending_records = sum(len(each.unwritten) for each in self._pending)


def _for_committers(error: BrokerError) -> BrokerError:
    """Say in a group's terms what the partition said."""
    if isinstance(error, _NOT_LEADER):
        return NotCoordinatorError(
            f"this node leads the group's partition no more: {error.message}"
        )
    return error

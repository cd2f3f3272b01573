"""Pushes to one follower's node: what is appended, as it is appended, and what lies further back.

Problem: a follower must have each batch before this node's own sync is done, thousands of
partitions share one stream, and one that lags must not hold up the others. Idea: replicas stand in
line when they have something to send; one frame takes what many of them have. A replica whose
cursor the tail cache no longer reaches leaves the line for the catch-up stream, which reads the
disk, and comes back once the cache reaches it again.

Copying must not take the disk and the network away from producers: what followers outside the ISR
read from disk is throttled, over all of them together. Members of the ISR are not, since producers
wait for them; nor is as much as is appended meanwhile, so that a follower catches up at any rate.

Invariants: a replica changes streams only when all that was sent is acknowledged, so that nothing
overtakes anything; what is under way on a stream is bounded; nothing waits here but for room, and
the throttled ones for their time.

Source: Apache Kafka's leader.replication.throttled.rate (KIP-73).
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

import structlog

from odradek.node.replication.lane import Lane
from odradek.node.replication.leader import Refused
from odradek.node.replication.leading import Leading
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.progress import Cursor
from odradek.node.replication.throttle import Throttle
from odradek.protocol.errors import BrokerError, OffsetOutOfRangeError
from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.replication import PushFrame, encode_pushes
from odradek.protocol.types import NodeId, Offset
from odradek.rpc.outlet import Outlet, Speaker

_log = structlog.get_logger()

UNACKED_BYTES_MAX: Final = 8 << 20
CATCH_UP_BYTES_MAX: Final = 4 << 20
FRAME_BYTES: Final = 1 << 20
HIGH_WATERMARK_WAIT_S: Final = 0.005
_PARTITIONS_MAX: Final = 2000

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
Push: TypeAlias = PushFrame[list[bytes]]


class LivePusher:
    """The live stream's side of one follower's node.

    Args:
        follower: Whose node it is.
        fell_behind: Takes a replica whose cursor the tail cache does not reach.
    """

    def __init__(self, follower: NodeId, fell_behind: Callable[[PartitionReplica], None]) -> None:
        self._follower = follower
        self._fell_behind = fell_behind
        self._lane = Lane(UNACKED_BYTES_MAX)
        self._due: dict[PartitionReplica, None] = {}
        self._unsettled: dict[PartitionReplica, None] = {}
        """They fell behind, but what they were sent is not acknowledged yet."""
        self._watermarks: dict[PartitionReplica, None] = {}
        self._watermarks_are_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._answers: deque[bytes] = deque()
        self._outlet: Outlet[bytes] | None = None
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Let no timer outlive the stream."""
        if self._timer is not None:
            self._timer.cancel()

    def push_due(self, replica: PartitionReplica) -> None:
        """A replica has something to send."""
        self._unsettled.pop(replica, None)
        self._due[replica] = None
        self._wake()

    def high_watermark_advanced(self, replica: PartitionReplica) -> None:
        """Its new high watermark goes with the next frame, or alone before long."""
        self._watermarks[replica] = None
        if self._timer is None:
            self._timer = self._loop.call_later(HIGH_WATERMARK_WAIT_S, self._on_timer)

    def answer(self, data: bytes) -> None:
        """Send an encoded answer to an announcement."""
        self._answers.append(data)
        self._wake()

    def on_frame_acked(self, number: int) -> None:
        """The follower's node is done with frames up to a number."""
        self._lane.on_acked(number)
        if self._due:
            self._wake()

    def on_acked(self, replica: PartitionReplica) -> None:
        """The follower acknowledged something."""
        if replica in self._unsettled:
            self.push_due(replica)

    async def run(self, end: Speaker[bytes]) -> None:
        """Write until cancelled."""
        self._outlet = Outlet(end, self._next_message)
        await self._outlet.run()

    def _wake(self) -> None:
        if self._outlet is not None:
            self._outlet.wake()

    def _on_timer(self) -> None:
        self._timer = None
        if self._watermarks:
            self._watermarks_are_due = True
            self._wake()

    def _next_message(self) -> bytes | None:
        if self._answers:
            return self._answers.popleft()
        pushes: list[Push] = []
        number = 0
        if self._due and self._lane.has_room:
            pushed_bytes = self._take_due(pushes)
            if pushed_bytes:
                self._lane.on_sent(pushed_bytes)
                number = self._lane.number
        if pushes or self._watermarks_are_due:
            self._take_watermarks(pushes)
        return encode_pushes(number, pushes) if pushes else None

    def _take_due(self, pushes: list[Push]) -> int:
        """Collect what replicas have to send, in line, up to a frame's size."""
        pushed_bytes = 0
        for replica in list(self._due):
            del self._due[replica]
            self._watermarks.pop(replica, None)
            size_bytes = self._take(replica, FRAME_BYTES - pushed_bytes, pushes)
            pushed_bytes += size_bytes
            if pushed_bytes >= FRAME_BYTES or len(pushes) >= _PARTITIONS_MAX:
                break
        return pushed_bytes

    def _take(self, replica: PartitionReplica, bytes_max: int, pushes: list[Push]) -> int:
        leading = replica.leading
        cursor = None if leading is None else leading.cursor(self._follower)
        if leading is None or cursor is None:
            return 0
        try:
            batches = replica.log.read_cached(cursor.offset, bytes_max)
        except OffsetOutOfRangeError:
            leading.on_cursor_lost(self._follower, cursor.session)
            return 0
        if batches is None:
            if cursor.is_settled:
                self._fell_behind(replica)
            else:
                self._unsettled[replica] = None
            return 0
        pushes.append(make_push(self._follower, replica, leading, cursor, batches))
        if batches and _end_of(batches) < replica.log_end_offset:
            self._due[replica] = None
        return sum(map(len, batches))

    def _take_watermarks(self, pushes: list[Push]) -> None:
        for replica in list(self._watermarks)[:_PARTITIONS_MAX]:
            del self._watermarks[replica]
            leading = replica.leading
            cursor = None if leading is None else leading.cursor(self._follower)
            if leading is not None and cursor is not None:
                pushes.append(make_push(self._follower, replica, leading, cursor, []))
        self._watermarks_are_due = bool(self._watermarks)


class CatchUpPusher:
    """The catch-up stream's side of one follower's node.

    Args:
        follower: Whose node it is.
        caught_up: Takes a replica whose cursor the tail cache reaches again.
        throttle: Shared with the other followers of this node.
    """

    def __init__(
        self,
        follower: NodeId,
        caught_up: Callable[[PartitionReplica], None],
        throttle: Throttle,
    ) -> None:
        self._follower = follower
        self._caught_up = caught_up
        self._throttle = throttle
        self._lane = Lane(CATCH_UP_BYTES_MAX)
        self._urgent: dict[PartitionReplica, None] = {}
        """The follower is in the ISR."""
        self._patient: dict[PartitionReplica, None] = {}
        """The others, in line."""
        self._unsettled: dict[PartitionReplica, None] = {}
        """The cache reaches them, but what they were sent is not acknowledged yet."""
        self._granted: dict[PartitionReplica, int] = {}
        """Where each one's log ended, in bytes, as far as its growth was granted on top."""
        self._wake = asyncio.Event()

    def __contains__(self, replica: PartitionReplica) -> bool:
        return replica in self._granted

    def add(self, replica: PartitionReplica) -> None:
        """A replica fell behind, or its cursor changed."""
        self._granted.setdefault(replica, replica.log.end_bytes)
        self._unsettled.pop(replica, None)
        line, other = self._urgent, self._patient
        if self._is_patient(replica):
            line, other = other, line
        other.pop(replica, None)
        line.setdefault(replica)
        self._wake.set()

    def _is_patient(self, replica: PartitionReplica) -> bool:
        leading = replica.leading
        return leading is not None and self._follower not in leading.core.maximal_isr

    def on_frame_acked(self, number: int) -> None:
        """The follower's node is done with frames up to a number."""
        self._lane.on_acked(number)
        if self._urgent or self._patient:
            self._wake.set()

    def on_acked(self, replica: PartitionReplica) -> None:
        """The follower acknowledged something."""
        if replica in self._unsettled:
            self.add(replica)

    async def run(self, write: Write) -> None:
        """Read and write until cancelled, one replica after the other."""
        while True:
            self._wake.clear()
            wait_s = self._throttle.wait_s(time.monotonic())
            line = self._urgent if self._urgent or wait_s else self._patient
            if line and self._lane.has_room:
                replica = next(iter(line))
                del line[replica]
                await self._advance(replica, write)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self._patient and wait_s else None):
                    await self._wake.wait()

    async def _advance(self, replica: PartitionReplica, write: Write) -> None:
        granted = self._granted.pop(replica)
        leading = replica.leading
        cursor = None if leading is None else leading.cursor(self._follower)
        if leading is None or cursor is None:
            return
        try:
            if replica.log.read_cached(cursor.offset, 1) is not None:
                if cursor.is_settled:
                    self._caught_up(replica)
                else:
                    self._granted[replica] = granted
                    self._unsettled[replica] = None
                return
            bytes_max = FRAME_BYTES
            if self._is_patient(replica):
                wanted_bytes = max(self._throttle.bytes_at_once, replica.log.end_bytes - granted)
                bytes_max = int(min(FRAME_BYTES, wanted_bytes))
            batches = await replica.read(cursor.offset, bytes_max, replica.log_end_offset)
        except OffsetOutOfRangeError:
            leading.on_cursor_lost(self._follower, cursor.session)
            return
        except BrokerError as error:
            _log.error("a follower cannot be served", replica=str(replica), reason=error.message)
            leading.perform([Refused(self._follower, cursor.session, error)])  # it asks again
            return
        now = leading.cursor(self._follower) if replica.leading is leading else None
        if now is None:
            return
        self._granted[replica] = granted
        self.add(replica)
        if batches and (now.session, now.offset) == (cursor.session, cursor.offset):
            push = make_push(self._follower, replica, leading, cursor, batches)
            size_bytes = sum(map(len, batches))
            self._lane.on_sent(size_bytes)
            if self._is_patient(replica):
                self._charge(replica, size_bytes)
            await write(encode_pushes(self._lane.number, (push,)))

    def _charge(self, replica: PartitionReplica, size_bytes: int) -> None:
        grown_bytes = max(replica.log.end_bytes - self._granted[replica], 0)
        free_bytes = min(size_bytes, grown_bytes)
        self._granted[replica] += free_bytes
        self._throttle.take(size_bytes - free_bytes, time.monotonic())


def make_push(
    follower: NodeId,
    replica: PartitionReplica,
    leading: Leading,
    cursor: Cursor,
    batches: list[bytes],
) -> Push:
    """Make a push of batches from a cursor on, and count it as sent."""
    if batches:
        leading.on_sent(follower, cursor.session, _end_of(batches))
    core = leading.core
    return PushFrame(
        replica.uid,
        core.leader_epoch,
        cursor.session,
        cursor.offset,
        core.high_watermark,
        replica.log_start_offset,
        batches,
    )


def _end_of(batches: list[bytes]) -> Offset:
    return BatchHeader.parse(batches[-1]).next_offset

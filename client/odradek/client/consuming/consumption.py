"""The inside of a consumer: its parts, their life, and the way of a slice to the application."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Container, Iterable
from contextlib import suppress
from typing import Final, Generic, TypeAlias, TypeVar

from odradek.client.cluster.background import Background
from odradek.client.cluster.coordinator import NO_MEMBER, Coordinator
from odradek.client.cluster.scope import Scope
from odradek.client.config import ConsumerOptions, DeliveryGuarantee
from odradek.client.consuming.commits import Commits, Offsets
from odradek.client.consuming.group_member import EXPULSIONS, MemberState
from odradek.client.consuming.group_session import GroupSession
from odradek.client.consuming.handler_runner import DeadLetters, HandlerRunner, RunOptions
from odradek.client.consuming.handout import Slice
from odradek.client.consuming.in_hand import InHand
from odradek.client.consuming.positions import (
    CommitPoint,
    LogPosition,
    TopicIdPartition,
    check_offset,
)
from odradek.client.consuming.queries import ConsumerQueries
from odradek.client.consuming.reader import Reader
from odradek.client.consuming.rebalance import Rebalance
from odradek.client.consuming.topic_watch import TopicWatch
from odradek.client.consuming.watchdog import Watchdog
from odradek.client.errors import DeserializationError, InvalidOptionsError, NotAssignedError
from odradek.client.record import Record
from odradek.client.serdes import Serde
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.names import check_group_id
from odradek.protocol.record_batch import PlainRecord
from odradek.protocol.types import (
    NO_LEADER_EPOCH,
    MemberId,
    PartitionIndex,
    TopicName,
    TopicPartition,
)
from odradek.rpc.backoff import delays

K = TypeVar("K")
V = TypeVar("V")

Partition: TypeAlias = TopicPartition | tuple[str, int]
"""How callers name a partition."""

_log = logging.getLogger(__name__)

_CLOSE_COMMIT_TIMEOUT_S: Final = 10.0
_GONE: Final = {MemberState.LEAVING, MemberState.LEFT}
_BREATH_S: Final = 0.005  # so long the loop may be kept from other tasks while records are there


class Consumption(Generic[K, V]):
    """Wires a consumer together. Also the `Source` of `HandlerRunner`."""

    def __init__(
        self,
        scope: Scope,
        options: ConsumerOptions,
        topics: Iterable[str],
        key: Serde[K],
        value: Serde[V],
    ) -> None:
        self.options = options
        self.at_most_once = options.delivery is DeliveryGuarantee.AT_MOST_ONCE
        self._scope = scope
        self._topics = tuple(dict.fromkeys(topics))
        self._background = Background("consumer", on_failure=self._on_failure)
        self._coordinator: Coordinator | None = None
        if options.group is not None:
            self._coordinator = Coordinator(scope, check_group_id(options.group))
        self.reader: Reader[K, V] = Reader(
            scope,
            options,
            self._background,
            key,
            value,
            read_committed=None if self._coordinator is None else self._committed_now,
            clock_s=time.time,
            let_go=self._let_go,
        )
        self.positions = self.reader.positions
        self.in_hand = InHand(self.positions, self.reader.handout, at_most_once=self.at_most_once)
        self.queries = ConsumerQueries(
            scope,
            options,
            self.reader,
            self.in_hand,
            coordinator=self._coordinator,
            member=self._member,
            clock_s=time.time,
        )
        self._commits: Commits | None = None
        self._rebalance: Rebalance | None = None
        self._session: GroupSession | None = None
        if self._coordinator is not None:
            self._join_parts(self._coordinator)
        self._runner: HandlerRunner[K, V] | None = None
        self._breathed_s = 0.0

    def _join_parts(self, coordinator: Coordinator) -> None:
        self._commits = Commits(self._scope, coordinator, self.positions, self._member)
        self._rebalance = Rebalance(self.options, self.reader, self._commits, self._let_go)
        if self._topics:
            self._session = GroupSession(
                self._scope,
                self.options,
                self._background,
                coordinator=coordinator,
                topics=self._topics,
                member_id=MemberId(str(uuid.uuid4())),
                rebalancing=self._rebalance,
            )

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Begin: check the topics, join or assign, and start every task."""
        for topic in self._topics:
            await self.topic(topic)
        await self._background.start()
        self._scope.on_close.add(self._on_client_closed)
        self.reader.start()
        if self._session is not None:
            self._session.start()
        else:
            watch = TopicWatch(self._scope, self.reader, self._topics)
            watch.assign_new(self._scope.metadata.image)
            self._background.spawn(watch.run(), name="topics")
        if self._commits is not None and self.options.auto_commit and not self.at_most_once:
            commits = self._commits.run(self.options.commit_interval_s, self.in_hand.settle)
            self._background.spawn(commits, name="commits")
        watchdog = Watchdog(
            self._oldest_in_hand,
            max_processing_time_s=self.options.max_processing_time_s,
            on_overdue=self._expel,
        )
        self._background.spawn(watchdog.run(), name="watchdog")

    async def topic(self, name: str) -> None:
        """Raise unless there is such a topic."""
        await self._scope.metadata.topic(name, timeout_s=self._scope.options.operation_timeout_s)

    async def close(self) -> None:
        """Stop handing out, let handlers end, commit, tell, leave."""
        self._scope.on_close.discard(self._on_client_closed)
        self.reader.handout.close()
        if self._session is not None:
            self._session.closing = True
        self.in_hand.let_go(self.positions.assigned())
        with suppress(TimeoutError):  # what handlers do not finish is not committed: it comes again
            async with asyncio.timeout(self.options.rebalance_timeout_s):
                if self._runner is not None:
                    await self._runner.finished.wait()
        try:
            await self._leave()
        finally:
            await self._background.close()

    async def _leave(self) -> None:
        """Give up what is assigned and leave the group, after the rebalance under way, if any."""
        try:
            if self._rebalance is not None:
                if self._session is not None:
                    with self._rebalance.hurried():
                        await self._session.settle(timeout_s=_CLOSE_COMMIT_TIMEOUT_S)
                names = sorted(self.positions.assigned())
                await self._rebalance.finish(names, timeout_s=_CLOSE_COMMIT_TIMEOUT_S)
        finally:
            if self._session is not None:
                await self._session.leave()

    def _on_failure(self, error: BaseException) -> None:
        self.reader.handout.fail(error)

    def _on_client_closed(self) -> None:
        self._on_failure(self._scope.misuse())

    async def _expel(self) -> None:
        """The application takes longer than it allowed itself: give its partitions to others."""
        if self._session is None or self._rebalance is None or self._runner is not None:
            return
        self.positions.hold(self.positions.assigned())
        await self._leave()
        if self.in_hand.slice is None:  # it asked for more meanwhile, and waits
            await self._session.rejoin()

    def _oldest_in_hand(self) -> Record[K, V] | None:
        if self._runner is not None:
            oldest = self._runner.oldest()
            return None if oldest is None else oldest[0]
        held = self.in_hand.slice
        return self.in_hand.record or (held.records[0] if held is not None else None)

    def _let_go(self, partitions: Iterable[TopicPartition]) -> None:
        self.in_hand.let_go(partitions)

    # ------------------------------------------------------------------ taking

    async def take(
        self, count_max: int, *, but_not: Container[TopicPartition] = ()
    ) -> Slice[K, V] | None:
        """Return the next records; None once the consumer is closed. Safe to cancel."""
        if self._session is not None and self._session.state in _GONE:
            await self._session.rejoin()
        now_s = time.monotonic()
        if now_s - max(self._breathed_s, self.reader.handout.waited_s) >= _BREATH_S:
            # With records at hand nothing below suspends, and heartbeats would starve.
            self._breathed_s = now_s
            await asyncio.sleep(0)
        if self.at_most_once and self._commits is not None:
            return await self._take_once(count_max, but_not, self._commits)
        return await self.reader.handout.take(count_max, but_not=but_not)

    async def _take_once(
        self, count_max: int, but_not: Container[TopicPartition], commits: Commits
    ) -> Slice[K, V] | None:
        pauses = delays(self._scope.chance)
        while True:
            taken = await self.reader.handout.take(count_max, but_not=but_not)
            if taken is None:
                return None
            try:
                await self._commit_ahead(taken, commits)
            except (*EXPULSIONS, NotAssignedError) as error:
                # Not ours any more; who was expelled hears it on its heartbeats too.
                _log.debug("%s is not handed out: %s", taken.partition, error)
                await asyncio.sleep(next(pauses))
            else:
                return taken

    async def _commit_ahead(self, taken: Slice[K, V], commits: Commits) -> None:
        """Commit a slice before the application sees it; if that fails it is not handed out."""
        try:
            await commits.commit(
                [CommitPoint(taken.partition, taken.end, taken.epoch)],
                timeout_s=self._scope.options.operation_timeout_s,
            )
        except BaseException:
            self.reader.handout.give_back(taken, len(taken.records))
            raise

    def damaged(self, error: DeserializationError) -> PlainRecord | None:
        """Return the record that does not deserialize; None when it is gone."""
        return self.reader.handout.damaged(_where(error), error.offset)

    def skip(self, error: DeserializationError) -> bool:
        """Step past a record that does not deserialize; False when it is gone."""
        return self.reader.handout.skip(_where(error), error.offset)

    def on_progress(self) -> None:
        """The application is done with something, or has room for more."""
        if self._runner is not None:
            self.reader.handout.wake()
        if self._rebalance is not None:
            self._rebalance.on_progress()

    def rewind(self, partition: TopicPartition) -> None:
        """Hand out again what was taken of a partition and not processed."""
        state = self.positions.get(partition)
        if state is not None and state.processed is not None:
            self.reader.seek(partition, state.processed, state.processed_epoch)

    async def run(
        self,
        handler: Callable[[Record[K, V]], Awaitable[object]],
        options: RunOptions,
        dead_letters: DeadLetters | None,
    ) -> None:
        """Have handlers handle everything until the consumer is closed."""
        self.in_hand.rewind()
        self._runner = HandlerRunner(
            self,
            self.positions,
            handler,
            options,
            dead_letters,
            at_most_once=self.at_most_once,
            chance=self._scope.chance,
        )
        for name in self.reader.handout.keep_raw(keep=True):
            state = self.positions.get(name)
            if state is not None and state.position is not None:
                self.reader.seek(name, state.position, state.position_epoch)
        try:
            await self._runner.run()
        finally:
            self.reader.handout.keep_raw(keep=False)
            self._runner = None
            self.on_progress()

    # ------------------------------------------------------------------ partitions

    def _find(self, partition: Partition) -> TopicIdPartition:
        return self.queries.find(_name(partition))

    def assigned(self, partition: Partition) -> TopicPartition:
        """Return the name of an assigned partition.

        Raises:
            NotAssignedError: It is not assigned.
        """
        name = _name(partition)
        if self.positions.get(name) is None:
            raise NotAssignedError(
                f"{name} is not assigned to this consumer", field="partition", value=name
            )
        return name

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Read exactly these partitions."""
        if self._topics:
            raise InvalidOptionsError(
                "Consumer.assign", ("the consumer was made with topics; assign is for one without",)
            )
        wanted = {found.name: found for found in map(self._find, partitions)}
        released = [state.id for state in self.positions if wanted.get(state.id.name) != state.id]
        names = [each.name for each in released]
        self.in_hand.let_go(names)
        points = self.positions.commits_due(names)
        if points and self._commits is not None and self.options.auto_commit:
            self._background.spawn(
                self._commits.commit_given_up(points, timeout_s=_CLOSE_COMMIT_TIMEOUT_S),
                name="commit",
            )
        self.reader.unassign(names)
        self.reader.assign(
            each for name, each in sorted(wanted.items()) if self.positions.get(name) is None
        )

    async def commit(self, offsets: Offsets | None, metadata: str) -> None:
        """Commit given offsets, or everything handed out."""
        if self._commits is None:
            raise InvalidRequestError(
                "a consumer without a group has nowhere to commit", field="group", value=""
            )
        if offsets is None:
            self.in_hand.acknowledge()
            self.on_progress()
            points = self.positions.commits_due()
        else:
            points = [self._point(*each) for each in offsets.items()]
        timeout_s = self._scope.options.operation_timeout_s
        await self._commits.commit(points, timeout_s=timeout_s, metadata=metadata)
        for point in points:
            self._acknowledge(point)

    def _acknowledge(self, point: CommitPoint) -> None:
        """Count what was committed as processed, or an automatic commit would take it back."""
        name = point.partition.name
        state = self.positions.get(name)
        if state is None or state.id != point.partition:
            return
        position = self.queries.known_position(name)
        if position is not None and point.offset <= position:
            self.in_hand.acknowledge_to(name, point.offset)
            self.positions.on_processed(name, state.generation, point.offset, point.leader_epoch)
            self.on_progress()

    def _point(self, partition: Partition, offset: int) -> CommitPoint:
        state = self.positions.get(self.assigned(partition))
        assert state is not None, "just found assigned"
        epoch = state.processed_epoch if state.processed == offset else NO_LEADER_EPOCH
        return CommitPoint(state.id, check_offset(offset), epoch)

    async def _committed_now(
        self, partitions: Iterable[TopicIdPartition]
    ) -> dict[TopicIdPartition, LogPosition | None]:
        return await self.queries.committed(partitions)

    def _member(self) -> tuple[MemberId, int]:
        return NO_MEMBER if self._session is None else self._session.member

    async def committed(
        self, partitions: Iterable[Partition]
    ) -> dict[TopicIdPartition, LogPosition | None]:
        """Return the group's committed offsets."""
        if self._coordinator is None:
            raise InvalidRequestError(
                "a consumer without a group has no committed offsets", field="group", value=""
            )
        return await self.queries.committed_soon([self._find(each) for each in partitions])


def _where(error: DeserializationError) -> TopicPartition:
    return _name((error.topic, error.partition))


def _name(partition: Partition) -> TopicPartition:
    if isinstance(partition, TopicPartition):
        return partition
    topic, index = partition
    return TopicPartition(TopicName(topic), PartitionIndex(index))

"""What an application hears of its partitions, in virtual time: each taken over is given up once.

A whole consumer, with a coordinator in memory and nothing to read: its assignments change, it is
expelled, it is overdue, it closes, while its callbacks take their time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import pytest

from odradek.client.cluster.image import ClusterImage, NodeInfo, PartitionInfo, TopicInfo
from odradek.client.cluster.scope import Scope
from odradek.client.config import ClientOptions, ConsumerOptions
from odradek.client.consuming import consumption
from odradek.client.consuming.consumption import Consumption
from odradek.client.consuming.group_member import MemberState
from odradek.client.consuming.positions import CommitPoint, LogPosition, TopicIdPartition
from odradek.client.serdes import raw
from odradek.protocol.errors import BrokerError, UnknownMemberIdError
from odradek.protocol.types import (
    NO_NODE,
    LeaderEpoch,
    MemberId,
    NodeId,
    PartitionIndex,
    TopicId,
    TopicName,
    TopicPartition,
)
from odradek.v1 import group_pb2 as pb
from tests.client.consumer_world import World, world
from tests.client.test_group_session import HEARTBEAT_S, SESSION_S, Call, Node
from tests.virtual_time import run

TOPIC_ID = TopicId(b"t" * 16)
PARTITIONS = 4


class Assigning(Node):
    """A coordinator that gives its member the partitions a test wants."""

    wanted: frozenset[int] = frozenset()
    _told: tuple[Call, frozenset[int]] | None = None

    def on_frame(self, call: Call, frame: pb.GroupServiceHeartbeatRequest) -> None:
        leaves = frame.member_epoch < 0
        news = (call, self.wanted)
        call.say(
            pb.GroupServiceHeartbeatResponse(
                member_epoch=frame.member_epoch if leaves else 1,
                heartbeat_interval_ms=round(HEARTBEAT_S * 1000),
                session_timeout_ms=round(SESSION_S * 1000),
                assignment_changed=news != self._told and not leaves,
                assignment=[
                    pb.TopicPartitions(topic_id=TOPIC_ID, topic="t", partitions=sorted(self.wanted))
                ],
            )
        )
        self._told = news

    async def commit(
        self, points: Sequence[CommitPoint], member: tuple[MemberId, int], metadata: str = ""
    ) -> list[BrokerError | None]:
        await asyncio.sleep(0.01)
        return [None for _ in points]

    async def committed(
        self, partitions: Any, member: tuple[MemberId, int], *, require_stable: bool
    ) -> dict[TopicIdPartition, LogPosition | None]:
        await asyncio.sleep(0.01)
        return dict.fromkeys(partitions)


class Application:
    """Notes what it is told of each partition, and takes its time about it."""

    def __init__(self, chance: Random, takes_s: Sequence[float]) -> None:
        self.told: dict[int, list[str]] = {}
        self._chance = chance
        self.takes_s = takes_s
        self._hears = False

    async def _hear(self, what: str, partitions: Sequence[TopicPartition]) -> None:
        assert not self._hears, "one callback at a time"
        self._hears = True
        for each in partitions:
            self.told.setdefault(each.partition, []).append(what)
        try:
            await asyncio.sleep(self._chance.choice(self.takes_s))
        finally:
            self._hears = False

    async def on_assigned(self, partitions: Sequence[TopicPartition]) -> None:
        await self._hear("taken", partitions)

    async def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        await self._hear("given up", partitions)

    async def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        await self._hear("lost", partitions)

    def has_nothing_left(self) -> None:
        """Check that everything taken over was given up or lost, once and after it was taken."""
        for index, told in self.told.items():
            taken, gone = told[::2], told[1::2]
            assert set(taken) <= {"taken"}, (index, told)
            assert set(gone) <= {"given up", "lost"}, (index, told)
            assert len(taken) == len(gone), (index, told)


class Stage:
    """A consumer, its coordinator and its application."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, chance: Random, takes_s: Sequence[float] = (0.0,)
    ) -> None:
        scope = Scope(ClientOptions(bootstrap=("node:9092",), client_id="test"))
        scope.chance = chance
        scope.metadata.image = _image()
        self.node = Assigning(scope)
        monkeypatch.setattr(consumption, "Coordinator", lambda *_: self.node)
        self.application = Application(chance, takes_s)
        options = ConsumerOptions(
            group="g",
            on_assigned=self.application.on_assigned,
            on_revoked=self.application.on_revoked,
            on_lost=self.application.on_lost,
        )
        self.consumer: Consumption[bytes, bytes] = Consumption(scope, options, ["t"], raw, raw)

    def expel(self) -> None:
        for call in self.node.open_calls:
            call.end(UnknownMemberIdError("its session ended"))

    async def rejoin(self) -> None:
        session = self.consumer._session
        assert session is not None
        if session.state in {MemberState.LEAVING, MemberState.LEFT}:
            await session.rejoin()


def _image() -> ClusterImage:
    topic = TopicInfo(
        TopicName("t"),
        TOPIC_ID,
        tuple(
            PartitionInfo(PartitionIndex(index), NO_NODE, LeaderEpoch(0))
            for index in range(PARTITIONS)
        ),
        internal=False,
        config={},
    )
    nodes = {NodeId(1): NodeInfo(NodeId(1), "node", 9092)}
    return ClusterImage("c", 1, nodes, {topic.name: topic}, {TOPIC_ID: topic.name})


def test_closing_while_partitions_are_taken_over_gives_them_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        stage = Stage(monkeypatch, Random(0), takes_s=[1.0])
        stage.node.wanted = frozenset({0})
        await stage.consumer.start()
        await asyncio.sleep(0.5)
        assert stage.application.told == {0: ["taken"]}
        await stage.consumer.close()
        assert stage.application.told == {0: ["taken", "given up"]}

    run(scenario())


def test_closing_does_not_wait_for_ever_for_a_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        stage = Stage(monkeypatch, Random(0), takes_s=[1e9])
        stage.node.wanted = frozenset({0})
        await stage.consumer.start()
        await asyncio.sleep(0.5)
        stage.application.takes_s = [0.0]
        async with asyncio.timeout(60):
            await stage.consumer.close()
        assert stage.application.told == {0: ["taken", "given up"]}

    run(scenario())


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_meanwhile_each_partition_taken_over_is_given_up_once(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    async def scenario() -> None:
        chance = Random(seed)
        stage = Stage(monkeypatch, chance, takes_s=[0.0, 0.02, 1.0, HEARTBEAT_S])
        await stage.consumer.start()
        for _ in range(20):
            match chance.randrange(6):
                case 0:
                    stage.expel()
                case 1:
                    await stage.consumer._expel()
                    await stage.rejoin()
                case _:
                    size = chance.randrange(PARTITIONS + 1)
                    stage.node.wanted = frozenset(chance.sample(range(PARTITIONS), size))
            await asyncio.sleep(chance.choice([0, 0.005, 0.02, 0.5, HEARTBEAT_S, SESSION_S]))
        overdue = asyncio.create_task(stage.consumer._expel())
        await asyncio.sleep(chance.choice([0, 0.005, 0.5]))
        await stage.consumer.close()
        await overdue
        stage.application.has_nothing_left()

    run(scenario())


@pytest.fixture
async def one() -> AsyncIterator[World]:
    async with world() as made:
        yield made


async def test_a_callback_that_meets_a_cancelled_task_has_failed(one: World) -> None:
    await one.topic(records=50)

    async def on_assigned(partitions: Sequence[TopicPartition]) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    async with one.consumer("t", group="g", on_assigned=on_assigned) as consumer:
        with pytest.raises(RuntimeError, match="callback raised CancelledError"):
            await anext(consumer)

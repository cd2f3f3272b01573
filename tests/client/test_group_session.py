"""The shell of a group member, in virtual time: one stream at a time, whatever ends it and when."""

import asyncio
from random import Random
from typing import Self, cast

import grpc
import pytest

from odradek.client.cluster.background import Background
from odradek.client.cluster.connections import Connection
from odradek.client.cluster.coordinator import Coordinator
from odradek.client.cluster.scope import Scope
from odradek.client.config import ClientOptions, ConsumerOptions
from odradek.client.consuming.group_member import MemberState
from odradek.client.consuming.group_session import GroupSession
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import (
    BrokerError,
    FencedMemberEpochError,
    InvalidRequestError,
    NotCoordinatorError,
    OdradekError,
    UnknownMemberIdError,
    error_to_proto,
)
from odradek.protocol.types import GroupId, MemberId
from odradek.rpc.channels import ConnectionLostError
from odradek.v1 import group_pb2 as pb
from tests.virtual_time import VirtualLoop, run

HEARTBEAT_S = 2.0
SESSION_S = 6.0


class Call:
    """A heartbeat stream as gRPC shows it to the member."""

    def __init__(self, node: "Node") -> None:
        self.is_over = False
        self.frames: list[pb.GroupServiceHeartbeatRequest] = []
        self._node = node
        self._is_closed = False
        self._answers: asyncio.Queue[object] = asyncio.Queue()

    async def write(self, frame: pb.GroupServiceHeartbeatRequest) -> None:
        await asyncio.sleep(0)
        if self._is_closed:
            raise _closed()
        if self.is_over:
            raise asyncio.InvalidStateError("RPC already finished.")
        self.frames.append(frame)
        self._node.on_frame(self, frame)

    async def read(self) -> object:
        answer = await self._answers.get()
        if self._is_closed:
            raise _closed()
        return answer

    def cancel(self) -> bool:
        self.is_over = True
        return True

    def say(self, answer: object) -> None:
        self._answers.put_nowait(answer)

    def end(self, error: BrokerError) -> None:
        self.say(pb.GroupServiceHeartbeatResponse(error=error_to_proto(error)))
        self.say(grpc.aio.EOF)

    def close_channel(self) -> None:
        """As when the node's address changes."""
        self._is_closed = True
        self.say(grpc.aio.EOF)


def _closed() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    reason = "the channel was closed"
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details=reason)


class Node(Coordinator):
    """A coordinator of one member; it insists on what a stream's first frame must carry."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope, GroupId("g"))
        self.calls: list[Call] = []
        self.is_reachable = True
        self.answers = True
        self.is_forgotten = False

    def forget(self) -> None:
        self.is_forgotten = True

    @property
    def open_calls(self) -> list[Call]:
        return [call for call in self.calls if not call.is_over]

    async def connection(self) -> Connection:
        await asyncio.sleep(0.01)
        if not self.is_reachable:
            raise ConnectionLostError("cut off")
        return cast("Connection", self)

    @property
    def group(self) -> "Node":
        return self

    def Heartbeat(self) -> Call:  # noqa: N802  the contract's name
        self.calls.append(Call(self))
        return self.calls[-1]

    def on_frame(self, call: Call, frame: pb.GroupServiceHeartbeatRequest) -> None:
        if len(call.frames) == 1 and not (frame.subscription_changed and frame.owned_changed):
            call.end(InvalidRequestError("the first frame carries topics and owned partitions"))
            return
        if not self.answers:
            return
        call.say(
            pb.GroupServiceHeartbeatResponse(
                member_epoch=1,
                heartbeat_interval_ms=round(HEARTBEAT_S * 1000),
                session_timeout_ms=round(SESSION_S * 1000),
                assignment_changed=len(call.frames) == 1,
            )
        )


class Application:
    """What a rebalance asks of a consumer; it has nothing to give up."""

    def __init__(self) -> None:
        self.tells_loss_in_s = 0.0
        self.failures: list[BaseException] = []

    async def reconcile(
        self, revoked: frozenset[TopicIdPartition], assigned: frozenset[TopicIdPartition]
    ) -> None:
        pass

    def drop(self, partitions: frozenset[TopicIdPartition]) -> None:
        pass

    async def tell_lost(
        self, partitions: frozenset[TopicIdPartition], reason: OdradekError | None
    ) -> None:
        if self.tells_loss_in_s:
            await asyncio.sleep(self.tells_loss_in_s)

    def fail(self, error: BaseException) -> None:
        self.failures.append(error)


class Stage:
    """A member and its coordinator."""

    def __init__(self) -> None:
        scope = Scope(ClientOptions(bootstrap=("node:9092",), client_id="test"))
        self.chance = scope.chance = Random(0)
        self.node = Node(scope)
        self.application = Application()
        self.background = Background("test", on_failure=self.application.failures.append)
        self.session = GroupSession(
            scope,
            ConsumerOptions(group="g"),
            self.background,
            coordinator=self.node,
            topics=("t",),
            member_id=MemberId("m"),
            rebalancing=self.application,
        )

    async def __aenter__(self) -> Self:
        await self.background.start()
        self.session.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.background.close()

    async def stands(self) -> None:
        """Let the member do its work; in the end it is a member with one stream."""
        await asyncio.sleep(SESSION_S * 3)
        assert self.application.failures == []
        assert self.session.state is MemberState.STABLE
        assert len(self.node.open_calls) == 1

    def stop_process_for(self, pause_s: float) -> None:
        """As SIGSTOP: afterwards everything that is due happens in one pass of the loop."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.virtual.now_s += pause_s


ENDINGS = [
    FencedMemberEpochError("its session ended"),
    UnknownMemberIdError("its session ended"),
    NotCoordinatorError("another node's"),
]


@pytest.mark.parametrize("pause_s", [SESSION_S, SESSION_S * 1.5])
@pytest.mark.parametrize("error", ENDINGS)
def test_a_member_expelled_while_its_process_stood_still_joins_again(
    pause_s: float, error: BrokerError
) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.stands()
            # It wakes up to two news at once: its session is over, and the coordinator said so.
            stage.node.open_calls[0].end(error)
            stage.stop_process_for(pause_s)
            await stage.stands()

    run(scenario())


@pytest.mark.parametrize("error", ENDINGS)
def test_a_stream_given_up_for_its_silence_is_not_heard_any_more(error: BrokerError) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.stands()
            stage.node.open_calls[0].end(error)
            stage.stop_process_for(HEARTBEAT_S * 3 - 0.01)  # and the session has yet to end
            await stage.stands()

    run(scenario())


def test_a_silent_coordinator_is_looked_for_anew() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.stands()
            assert not stage.node.is_forgotten
            stage.node.answers = False
            await asyncio.sleep(HEARTBEAT_S * 4)
            assert stage.node.is_forgotten
            stage.node.answers = True
            await stage.stands()

    run(scenario())


def test_a_channel_closed_under_the_stream_is_a_lost_connection() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await stage.stands()
            stage.node.open_calls[0].close_channel()
            await asyncio.sleep(HEARTBEAT_S / 2)
            assert len(stage.node.calls) == 2
            await stage.stands()

    run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_of_accidents_there_is_one_stream_in_the_end(seed: int) -> None:
    async def scenario() -> None:
        random = Random(seed)
        async with Stage() as stage:
            for _ in range(60):
                disturb(stage, random)
                await asyncio.sleep(random.choice([0, 0, 0.005, 0.02, 0.1, HEARTBEAT_S, SESSION_S]))
            stage.node.is_reachable = stage.node.answers = True
            await stage.stands()

    run(scenario())


def disturb(stage: Stage, random: Random) -> None:
    """Do one of the things that happen to a member, its coordinator and what lies between."""
    node = stage.node
    match random.randrange(8):
        case 0 | 1:
            for call in node.open_calls:
                call.end(random.choice(ENDINGS))
        case 2:
            for call in node.open_calls:
                call.say(grpc.aio.EOF)
        case 3:
            stage.stop_process_for(random.choice([HEARTBEAT_S, SESSION_S, SESSION_S * 2]))
        case 4:
            node.is_reachable = not node.is_reachable
        case 5:
            node.answers = not node.answers
        case 6:
            for call in node.open_calls:
                call.close_channel()
        case _:
            stage.application.tells_loss_in_s = random.choice([0.0, 0.03, SESSION_S])

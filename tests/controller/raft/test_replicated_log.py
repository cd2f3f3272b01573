"""ReplicatedLog over real gRPC and files, in one process."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from odradek.controller.raft import (
    COMMAND_BYTES_MAX,
    DataDirectoryError,
    Leadership,
    RaftOptions,
    ReplicatedLog,
)
from odradek.controller.raft.filesystem import File, OsFileSystem
from odradek.protocol.errors import (
    InvalidRequestError,
    NotControllerError,
    OutcomeUnknownError,
    RequestTimedOutError,
    ThrottledError,
)
from odradek.protocol.types import ControllerId
from odradek.rpc import server as server_shell
from odradek.rpc.channels import open_channel
from odradek.rpc.server import Server
from odradek.v1 import raft_pb2, raft_pb2_grpc

DEADLINE_S = 20.0


class Counter:
    """Counts what it applies; `explode` is a bug."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, index: int, command: bytes) -> bytes:
        if command == b"explode":
            raise ZeroDivisionError("a bug in the state machine")
        self.commands.append(command)
        return b"%d" % len(self.commands)

    def capture(self) -> object:
        return tuple(self.commands)

    def serialize(self, image: object) -> bytes:
        assert isinstance(image, tuple)
        return b"\n".join(image)

    def restore(self, snapshot: bytes, index: int) -> None:
        self.commands = snapshot.split(b"\n")


class FailingFiles(OsFileSystem):
    """A disk whose fsync fails from a moment on."""

    def __init__(self) -> None:
        self.fails = False

    def open(self, path: Path) -> File:
        file = super().open(path)
        real = file.sync

        def sync() -> None:
            if self.fails:
                raise OSError(5, "input/output error")
            real()

        file.sync = sync  # type: ignore[method-assign]
        return file


@pytest.fixture
def base() -> Any:
    directory = Path(tempfile.mkdtemp(prefix="raft-"))  # short: the paths of sockets are limited
    yield directory
    shutil.rmtree(directory)


class Controllers:
    def __init__(self, base: Path, count: int, **changes: Any) -> None:
        self.base = base
        self.exits: dict[ReplicatedLog, AsyncExitStack] = {}
        self.fatal: list[BaseException] = []
        self.files = [FailingFiles() for _ in range(count)]
        self.machines = [Counter() for _ in range(count)]
        self.logs = [
            ReplicatedLog(
                self.options(number, count, **changes),
                self.machines[number],
                open_channel=open_channel,
                fatal=self.fatal.append,
                files=self.files[number],
            )
            for number in range(count)
        ]

    def options(self, number: int, count: int, **changes: Any) -> RaftOptions:
        fields: dict[str, Any] = {
            "cluster_id": "test",
            "self_id": ControllerId(number),
            "peers": {
                ControllerId(other): f"unix:{self.base}/{other}.sock"
                for other in range(count)
                if other != number
            },
            "data_directory": self.base / str(number),
            "bootstrap": True,
            **changes,
        }
        return RaftOptions(**fields)

    async def all_applied(self, index: int) -> None:
        """Wait until every controller has applied an entry."""
        async with asyncio.timeout(DEADLINE_S):
            while not all(log.status().applied_index >= index for log in self.logs):
                await asyncio.to_thread(lambda: None)

    async def leader(self) -> ReplicatedLog:
        """Wait until one of them leads."""
        waits = [asyncio.ensure_future(leads(log)) for log in self.logs]
        async with asyncio.timeout(DEADLINE_S):
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        await asyncio.wait(waits)
        return done.pop().result()


async def leads(log: ReplicatedLog) -> ReplicatedLog:
    async for event in log.leadership():
        if event.is_leader:
            return log
    raise AssertionError("closed")


@contextlib.asynccontextmanager
async def controllers(base: Path, count: int, **changes: Any) -> AsyncIterator[Controllers]:
    group = Controllers(base, count, **changes)
    async with AsyncExitStack() as stack:
        for number, log in enumerate(group.logs):
            server = Server(f"unix:{base}/{number}.sock")
            raft_pb2_grpc.add_RaftServiceServicer_to_server(log.servicer, server.grpc)
            await server.start()
            stack.push_async_callback(server.drain, 0)
            group.exits[log] = await stack.enter_async_context(AsyncExitStack())
            await group.exits[log].enter_async_context(log)
        yield group


async def test_three_controllers_apply_the_same_commands_in_the_same_order(base: Path) -> None:
    async with controllers(base, 3) as group:
        leader = await group.leader()
        proposals = [leader.propose(b"%d" % n, timeout_s=DEADLINE_S) for n in range(200)]
        answers = await asyncio.gather(*proposals)
        assert answers == [b"%d" % (n + 1) for n in range(200)]
        index = await leader.barrier(timeout_s=DEADLINE_S)
        assert group.machines[group.logs.index(leader)].commands[-1] == b"199"
        await group.all_applied(index)
        assert [machine.commands for machine in group.machines] == [
            [b"%d" % n for n in range(200)]
        ] * 3
        assert {log.leader_id for log in group.logs} == {leader.leader_id}


async def test_a_follower_names_the_leader(base: Path) -> None:
    async with controllers(base, 3) as group:
        leader = await group.leader()
        await leader.barrier(timeout_s=DEADLINE_S)
        follower = next(log for log in group.logs if log is not leader)
        with pytest.raises(NotControllerError, match=f"controller {leader.leader_id} is"):
            await follower.propose(b"x", timeout_s=DEADLINE_S)
        with pytest.raises(NotControllerError):
            await follower.barrier(timeout_s=DEADLINE_S)


async def test_a_command_decided_under_another_leadership_is_refused(base: Path) -> None:
    async with controllers(base, 1) as group:
        leader = await group.leader()
        with pytest.raises(NotControllerError):
            await leader.propose(b"stale", timeout_s=DEADLINE_S, term=leader.term - 1)
        assert await leader.propose(b"x", timeout_s=DEADLINE_S, term=leader.term) == b"1"
        assert group.machines[0].commands == [b"x"]


async def test_the_largest_command_passes_and_a_larger_one_is_named(base: Path) -> None:
    async with controllers(base, 3) as group:
        leader = await group.leader()
        assert await leader.propose(bytes(COMMAND_BYTES_MAX), timeout_s=DEADLINE_S) == b"1"
        with pytest.raises(InvalidRequestError) as caught:
            await leader.propose(bytes(COMMAND_BYTES_MAX + 1), timeout_s=DEADLINE_S)
        assert caught.value.field == "command"
        assert caught.value.value == str(COMMAND_BYTES_MAX + 1)
        assert caught.value.limit == str(COMMAND_BYTES_MAX)


async def test_without_a_quorum_the_outcome_is_unknown(base: Path) -> None:
    async with controllers(base, 3, leader_contact_timeout_s=60.0) as group:
        leader = await group.leader()
        await leader.barrier(timeout_s=DEADLINE_S)
        for log in group.logs:
            if log is not leader:
                await group.exits[log].aclose()
        with pytest.raises(OutcomeUnknownError):
            await leader.propose(b"x", timeout_s=0.2)
        with pytest.raises(RequestTimedOutError):
            await leader.barrier(timeout_s=0.2)


async def test_more_than_the_bound_is_throttled(base: Path) -> None:
    async with controllers(base, 1, pending_bytes_max=10_000) as group:
        leader = await group.leader()
        proposals = [leader.propose(bytes(1000), timeout_s=DEADLINE_S) for _ in range(100)]
        results = await asyncio.gather(*proposals, return_exceptions=True)
        assert {type(one) for one in results} == {bytes, ThrottledError}
        assert await leader.propose(b"later", timeout_s=DEADLINE_S)


async def test_a_failed_fsync_is_fatal_and_acknowledges_nothing(base: Path) -> None:
    async with controllers(base, 1) as group:
        leader = await group.leader()
        group.files[0].fails = True
        with pytest.raises(OutcomeUnknownError):
            await leader.propose(b"x", timeout_s=1.0)
        assert [type(error) for error in group.fatal] == [OSError]
        assert group.machines[0].commands == []


async def test_a_bug_in_the_state_machine_is_fatal(base: Path) -> None:
    async with controllers(base, 1) as group:
        leader = await group.leader()
        with pytest.raises(OutcomeUnknownError):
            await leader.propose(b"explode", timeout_s=1.0)
        assert [type(error) for error in group.fatal] == [ZeroDivisionError]


async def test_state_survives_snapshots_and_restarts(base: Path) -> None:
    for start in range(3):
        async with controllers(base, 1, snapshot_after_entries=10) as group:
            leader = await group.leader()
            await leader.barrier(timeout_s=DEADLINE_S)
            assert len(group.machines[0].commands) == 50 * start
            for _ in range(50):
                await leader.propose(b"x", timeout_s=DEADLINE_S)
            async with asyncio.timeout(DEADLINE_S):
                while leader.status().snapshot_index == 0:  # written in the background
                    await leader.barrier(timeout_s=DEADLINE_S)


async def test_an_empty_directory_is_refused_and_nothing_is_left_running(base: Path) -> None:
    group = Controllers(base, 1, bootstrap=False)
    with pytest.raises(DataDirectoryError, match="bootstrap"):
        await group.logs[0].__aenter__()
    async with Controllers(base, 1).logs[0]:
        pass  # the lock was released


async def test_leadership_begins_with_the_present_and_ends_with_the_log(base: Path) -> None:
    events: list[Leadership] = []

    async def collect(log: ReplicatedLog) -> None:
        events.extend([event async for event in log.leadership()])

    async with controllers(base, 1) as group:
        collecting = asyncio.create_task(collect(group.logs[0]))
        leader = await group.leader()
        term = leader.term
    async with asyncio.timeout(DEADLINE_S):
        await collecting
    assert not events[0].is_leader
    assert Leadership(term, is_leader=True, leader_id=ControllerId(0)) in events


async def test_a_change_of_its_own_term_is_never_merged_away(base: Path) -> None:
    async with controllers(base, 1) as group:
        log = await group.leader()
        events = log.leadership()
        assert (await anext(events)).is_leader
        log._announce(Leadership(99, is_leader=True, leader_id=ControllerId(0)))
        assert not (await anext(events)).is_leader
        assert await anext(events) == Leadership(99, is_leader=True, leader_id=ControllerId(0))


def hello(**changes: Any) -> raft_pb2.ExchangeRequest:
    fields: dict[str, Any] = {
        "cluster_id": "test",
        "from_id": 1,
        "to_id": 0,
        "incarnation": 1 << 62,
        "session": 1,
        **changes,
    }
    return raft_pb2.ExchangeRequest(hello=raft_pb2.RaftHello(**fields))


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (hello(cluster_id="other"), "cluster 'test'"),
        (hello(to_id=2), "controller 0"),
        (hello(from_id=9), "not one of this cluster"),
        (hello(incarnation=0, session=0), "newer stream"),
        (raft_pb2.ExchangeRequest(vote_answer=raft_pb2.VoteAnswer(term=1)), "hello"),
    ],
)
async def test_a_stranger_is_refused(
    base: Path, first: raft_pb2.ExchangeRequest, reason: str
) -> None:
    async with (
        controllers(base, 1, peers={ControllerId(1): "unix:/nowhere"}),
        open_channel(f"unix:{base}/0.sock") as channel,
    ):
        call = raft_pb2_grpc.RaftServiceStub(channel).Exchange()
        await call.write(first)
        with pytest.raises(grpc.aio.AioRpcError, match=reason):
            await call.read()


@pytest.mark.parametrize(
    "frame",
    [
        hello(),
        raft_pb2.ExchangeRequest(),
        raft_pb2.ExchangeRequest(
            append_entries=raft_pb2.AppendEntries(term=1, entries=[raft_pb2.RaftEntry(term=2)])
        ),
        raft_pb2.ExchangeRequest(
            append_entries=raft_pb2.AppendEntries(
                term=1, entries=[raft_pb2.RaftEntry(kind=raft_pb2.ENTRY_KIND_UNSPECIFIED)]
            )
        ),
        raft_pb2.ExchangeRequest(
            install_snapshot=raft_pb2.InstallSnapshot(data=b"beyond", total_bytes=1)
        ),
        raft_pb2.ExchangeRequest(install_snapshot=raft_pb2.InstallSnapshot(total_bytes=1 << 40)),
    ],
)
async def test_a_frame_beyond_the_allow_list_ends_its_stream(
    base: Path, frame: raft_pb2.ExchangeRequest
) -> None:
    async with controllers(base, 1, peers={ControllerId(1): "unix:/nowhere"}) as group:
        async with open_channel(f"unix:{base}/0.sock") as channel:
            call = raft_pb2_grpc.RaftServiceStub(channel).Exchange()
            await call.write(hello())
            await call.read()
            await call.write(frame)
            with pytest.raises(grpc.aio.AioRpcError):
                await end_of(call)
        assert group.fatal == []


async def test_a_stream_that_says_nothing_is_ended(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        controllers(base, 1, peers={ControllerId(1): "unix:/nowhere"}),
        open_channel(f"unix:{base}/0.sock") as channel,
    ):
        monkeypatch.setattr(server_shell, "FIRST_REQUEST_S", 0.05)
        call = raft_pb2_grpc.RaftServiceStub(channel).Exchange()
        with pytest.raises(grpc.aio.AioRpcError, match="first request"):
            await asyncio.wait_for(call.read(), 5)


async def end_of(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_messages_of_a_superseded_stream_are_dropped(base: Path) -> None:
    """What an older stream still delivers cannot raise the term."""
    async with controllers(base, 1, peers={ControllerId(1): "unix:/nowhere"}) as group:
        log = group.logs[0]
        async with (
            open_channel(f"unix:{base}/0.sock") as old_channel,
            open_channel(f"unix:{base}/0.sock") as new_channel,
        ):
            old = raft_pb2_grpc.RaftServiceStub(old_channel).Exchange()
            await old.write(hello(session=1))
            await old.read()
            new = raft_pb2_grpc.RaftServiceStub(new_channel).Exchange()
            await new.write(hello(session=2))
            await new.read()
            late = raft_pb2.AppendEntries(term=50, prev_log_index=1, commit_index=1)
            await old.write(raft_pb2.ExchangeRequest(append_entries=late))
            current = raft_pb2.AppendEntries(term=7, prev_log_index=1, commit_index=1)
            await new.write(raft_pb2.ExchangeRequest(append_entries=current))
            async with asyncio.timeout(DEADLINE_S):
                async for event in log.leadership():
                    if event.term:
                        break
            assert log.term == 7

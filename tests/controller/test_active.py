"""Rounds of decisions: what is answered is committed, what is not is said honestly."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from odradek.controller.active import ActiveController, Decided
from odradek.controller.committed import ClusterMachine, Committed
from odradek.controller.raft import COMMAND_BYTES_MAX
from odradek.controller.state.decide import (
    AllocateProducerIds,
    Answer,
    CreateTopics,
    DeleteTopics,
    Submission,
)
from odradek.controller.state.nodes import FenceNode, Registration, UnfenceNode
from odradek.controller.state.topics import NewTopic, TopicRef
from odradek.controller.wire.records import decode_snapshot, encode_snapshot
from odradek.controller.wire.requests import answer_to_proto
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    NotControllerError,
    OutcomeUnknownError,
    ThrottledError,
)
from odradek.protocol.types import NO_NODE, ControllerId, Incarnation, NodeId
from tests.controller.memory_log import Fate, MemoryLog, eventually
from tests.controller.state.cluster import registration

N1 = NodeId(1)


@dataclass
class World:
    log: MemoryLog
    committed: Committed
    active: ActiveController

    async def lead(self) -> int:
        term = self.log.lead()
        await eventually(lambda: self.active.epoch == term)
        return term

    async def start_node(self) -> Incarnation:
        decided = await self.active.request(registration(1))
        assert isinstance(decided.reply, Registration)
        incarnation = decided.reply.incarnation
        await self.active.request(UnfenceNode(N1, incarnation, decided.version))
        return incarnation


@asynccontextmanager
async def world(*, command_bytes_max: int = COMMAND_BYTES_MAX) -> AsyncIterator[World]:
    machine = ClusterMachine()
    committed = Committed(machine)
    log = MemoryLog(machine)
    active = ActiveController(
        log,
        committed,
        controller_id=ControllerId(1),
        cluster_id="c",
        chance=Random(1),
        command_bytes_max=command_bytes_max,
    )
    task = asyncio.create_task(active.run())
    try:
        yield World(log, committed, active)
    finally:
        task.cancel()
        await asyncio.wait([task])


def allocate(sequence: int) -> Submission:
    return Submission(N1, Incarnation(1), sequence, AllocateProducerIds())


async def soon(coroutine: Coroutine[Any, Any, Decided]) -> "asyncio.Task[Decided]":
    """Start a request and let it arrive."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


async def test_a_passive_controller_names_the_active_one() -> None:
    async with world() as w:
        with pytest.raises(NotControllerError, match="no active one"):
            await w.active.request(registration(1))
        w.log.follow(leader_id=3)
        await eventually(lambda: w.active.active_id == 3)
        with pytest.raises(NotControllerError, match="controller 3 is") as caught:
            await w.active.request(registration(1))
        assert caught.value.limit == "3"


async def test_leading_the_log_is_committed_before_anything_is_decided() -> None:
    async with world() as w:
        w.log.open.clear()
        w.log.lead()
        with pytest.raises(NotControllerError):
            await w.active.request(registration(1))
        assert w.active.active_id is None
        w.log.open.set()
        await eventually(lambda: w.active.epoch == 1)
        assert w.active.active_id == 1
        image = w.committed.image
        assert (image.cluster_id, image.controller_id, image.controller_epoch) == ("c", 1, 1)


async def test_the_cluster_keeps_its_id() -> None:
    async with world() as w:
        await w.lead()
        w.log.follow()
        await w.lead()
        assert w.committed.image.cluster_id == "c"
        assert w.committed.image.controller_epoch == 3


async def test_what_waits_is_committed_together() -> None:
    async with world() as w:
        await w.lead()
        await w.start_node()
        commands = len(w.log.commands)
        decided = await asyncio.gather(*(w.active.request(allocate(n)) for n in range(1, 101)))
        assert len(w.log.commands) == commands + 1
        assert len({each.reply for each in decided}) == 100
        assert {each.version for each in decided} == {w.committed.image.version}
        assert w.committed.image.next_producer_id == 100_000


async def test_near_names_are_looked_for_a_few_times_a_request() -> None:
    async with world() as one:
        await one.lead()
        incarnation = await one.start_node()
        created = CreateTopics((NewTopic("positions"),), validate_only=False)
        await one.active.request(Submission(N1, incarnation, 1, created))
        for sequence in (2, 3):
            deletion = DeleteTopics((TopicRef("position"),) * 100)
            decided = await one.active.request(Submission(N1, incarnation, sequence, deletion))
            assert isinstance(decided.reply, Answer)
            topics = answer_to_proto(decided.reply.encoded, decided.version).delete_topics.topics
            assert [len(each.error.suggestions) for each in topics] == [1] * 4 + [0] * 96


async def test_a_refusal_too_waits_for_proof_of_leadership() -> None:
    async with world() as w:
        await w.lead()
        await w.start_node()
        w.log.open.clear()
        refused = await soon(w.active.request(registration(1, process=9, directory=9)))
        checked = await soon(w.active.request(FenceNode(NodeId(7), Incarnation(7))))
        assert not refused.done()
        barriers = w.log.barriers
        w.log.open.set()
        with pytest.raises(DuplicateNodeRegistrationError):
            await refused
        await checked
        assert w.log.barriers > barriers


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.COMMITTED])
async def test_an_unknown_outcome_is_asked_again_and_happens_once(fate: Fate) -> None:
    async with world() as w:
        await w.lead()
        await w.start_node()
        w.log.fates.append(fate)
        with pytest.raises(OutcomeUnknownError):
            await w.active.request(allocate(1))
        again = await w.active.request(allocate(1))
        assert w.committed.image.next_producer_id == 1000
        assert (await w.active.request(allocate(2))).reply != again.reply


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.COMMITTED])
async def test_taking_over_is_tried_until_it_is_certain(fate: Fate) -> None:
    async with world() as w:
        w.log.fates.append(fate)
        await w.lead()
        await w.start_node()
        assert w.committed.image.controller_epoch == 1


async def test_losing_leadership_answers_everybody() -> None:
    async with world() as w:
        await w.lead()
        await w.start_node()
        w.log.open.clear()
        under_way = await soon(w.active.request(allocate(1)))
        await eventually(lambda: not w.active._pending)
        waiting = await soon(w.active.request(allocate(2)))
        w.log.follow(leader_id=2)
        with pytest.raises(OutcomeUnknownError):
            await under_way
        with pytest.raises(NotControllerError, match="controller 2 is"):
            await waiting
        w.log.open.set()
        await w.lead()
        await w.active.request(allocate(1))


async def test_too_much_at_once_is_throttled() -> None:
    async with world() as w:
        await w.lead()
        await w.start_node()
        w.log.open.clear()
        under_way = await soon(w.active.request(allocate(1)))
        await eventually(lambda: not w.active._pending)
        large = await soon(w.active.request(allocate(2), size_bytes=32 * 1024 * 1024))
        with pytest.raises(ThrottledError) as caught:
            await w.active.request(allocate(3), size_bytes=1)
        assert caught.value.limit
        w.log.open.set()
        await asyncio.gather(under_way, large)
        await w.active.request(allocate(3), size_bytes=1)


async def test_a_decision_larger_than_a_command_is_committed_in_several() -> None:
    async with world(command_bytes_max=4096) as w:
        await w.lead()
        incarnation = await w.start_node()
        for number in range(3):
            create = CreateTopics((NewTopic(f"t{number}", 100),))
            await w.active.request(Submission(N1, Incarnation(1), number, create))
        commands = len(w.log.commands)
        await w.active.request(FenceNode(N1, incarnation))
        assert len(w.log.commands) > commands + 1
        assert all(len(command) <= 4096 for command in w.log.commands)
        leaders = {each.leader for each in w.committed.image.partitions.values()}
        assert leaders == {NO_NODE}


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.COMMITTED])
async def test_a_decision_in_several_commands_takes_effect_with_the_last_or_not_at_all(
    fate: Fate,
) -> None:
    async with world(command_bytes_max=4096) as w:
        await w.lead()
        incarnation = await w.start_node()
        for number in range(3):
            create = CreateTopics((NewTopic(f"t{number}", 100),))
            await w.active.request(Submission(N1, Incarnation(1), number, create))
        w.log.fates = [Fate.ANSWERED, fate]
        with pytest.raises(OutcomeUnknownError):
            await w.active.request(FenceNode(N1, incarnation))
        image = w.committed.image
        assert not image.nodes[N1].fenced
        assert {each.leader for each in image.partitions.values()} == {N1}
        await w.active.request(allocate(9))
        assert not image.nodes[N1].fenced
        await w.active.request(FenceNode(N1, incarnation))
        assert image.nodes[N1].fenced
        assert {each.leader for each in image.partitions.values()} == {NO_NODE}


async def test_a_successor_drops_what_was_left_unfinished() -> None:
    async with world(command_bytes_max=4096) as w:
        await w.lead()
        incarnation = await w.start_node()
        for number in range(3):
            create = CreateTopics((NewTopic(f"t{number}", 100),))
            await w.active.request(Submission(N1, Incarnation(1), number, create))
        w.log.fates = [Fate.ANSWERED, Fate.LOST]
        with pytest.raises(OutcomeUnknownError):
            await w.active.request(FenceNode(N1, incarnation))
        assert w.committed.image.unfinished
        assert decode_snapshot(encode_snapshot(w.committed.image)) == w.committed.image
        w.log.follow()
        await w.lead()
        assert not w.committed.image.unfinished
        assert not w.committed.image.nodes[N1].fenced


async def test_a_record_larger_than_a_command_is_refused_and_the_others_go_on() -> None:
    async with world(command_bytes_max=4096) as w:
        await w.lead()
        await w.start_node()
        huge = Submission(N1, Incarnation(1), 1, CreateTopics((NewTopic("t", 9_000),)))
        before, refused, after = await asyncio.gather(
            w.active.request(allocate(2)),
            w.active.request(huge),
            w.active.request(allocate(3)),
            return_exceptions=True,
        )
        assert isinstance(before, Decided)
        assert "split it" in str(refused)
        assert isinstance(after, Decided)
        assert not w.committed.image.topics
        assert w.committed.image.next_producer_id == 2000


async def test_who_stopped_waiting_is_not_decided_for() -> None:
    async with world() as w:
        await w.lead()
        await w.start_node()
        w.log.open.clear()
        under_way = await soon(w.active.request(allocate(1)))
        await eventually(lambda: not w.active._pending)
        gone = await soon(w.active.request(allocate(2)))
        gone.cancel()
        w.log.open.set()
        await under_way
        await w.active.request(allocate(3))
        assert w.committed.image.next_producer_id == 2000

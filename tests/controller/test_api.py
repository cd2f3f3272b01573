"""The service over real gRPC, on a log without replicas."""

import asyncio

import pytest

from odradek.controller.api import HeartbeatRequest
from odradek.protocol.errors import (
    InvalidRequestError,
    NotControllerError,
    RequestTimedOutError,
    StaleBrokerEpochError,
    error_from_proto,
)
from odradek.protocol.types import NodeId
from odradek.rpc import server
from odradek.v1 import controller_pb2
from tests.controller.memory_log import eventually
from tests.controller.served import raises, world


async def test_a_passive_controller_answers_heartbeats_and_nothing_else() -> None:
    async with world() as w:
        w.log.follow(leader_id=2)
        await eventually(lambda: w.active.active_id == 2)
        node = w.node()
        async with raises(NotControllerError) as caught:
            await node.register()
        assert isinstance(caught[0], NotControllerError)
        assert caught[0].limit == "2"
        async with raises(NotControllerError):
            await node.create("t")
        async with raises(NotControllerError):
            await node.watch().read()
        response = await node.beat()
        assert (response.active, response.active_id, response.must_register) == (False, 2, False)
        term = await w.lead()
        response = await node.told()
        assert (response.active, response.controller_epoch) == (True, term)
        assert response.must_register


async def test_a_node_is_unfenced_when_it_has_caught_up_and_told_so() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        registered = await node.register()
        assert registered.cluster_id == "c"
        assert registered.controller_epoch == 1
        assert (registered.heartbeat_interval_ms, registered.session_timeout_ms) == (1000, 6000)
        watch = node.watch()
        first = await watch.read()
        assert first.metadata.snapshot
        assert first.metadata.version >= registered.version
        assert first.metadata.nodes[0].fenced
        assert (await node.beat(registered.version - 1)).fenced
        assert (await node.beat(registered.version)).fenced
        assert not (await node.told()).fenced
        second = await watch.read()
        assert not second.metadata.nodes[0].fenced


async def test_requests_of_a_node() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        created = await node.create("t", 6)
        assert created.version == created.create_topics.version == w.committed.image.version
        (topic,) = created.create_topics.topics
        assert (topic.name, topic.partitions) == ("t", 6)
        refused = await node.create("t")
        assert refused.create_topics.topics[0].error.code
        none = await node.submit(controller_pb2.SubmitRequest())
        assert isinstance(error_from_proto(none.error), InvalidRequestError)
        repeated = controller_pb2.SubmitRequest(
            sequence=77, allocate_producer_ids=controller_pb2.AllocateProducerIdsCommand()
        )
        answers = [await node.submit(repeated) for _ in range(3)]
        assert answers[0] == answers[1] == answers[2]
        node.incarnation += 1
        stale = await node.create("u")
        assert isinstance(error_from_proto(stale.error), StaleBrokerEpochError)


async def test_an_answer_names_a_version_that_holds_what_it_says() -> None:
    """Also of what was decided together with what it rests on: a repeat, a refusal."""
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        w.log.open.clear()
        before = asyncio.ensure_future(node.create("before"))
        await eventually(lambda: any(not each.decided.done() for each in w.active._batch))
        original = asyncio.ensure_future(node.create("t"))
        await eventually(lambda: len(w.active._pending) == 1)
        node.sequence -= 1
        others = [asyncio.ensure_future(node.create("t")) for _ in ("repeat", "refused")]
        await eventually(lambda: len(w.active._pending) == 3)
        w.log.open.set()
        repeat, refused = await asyncio.gather(*others)
        assert (await before).version < w.committed.image.version
        assert repeat == await original
        assert refused.create_topics.topics[0].error.code
        assert original.result().version == refused.version == w.committed.image.version


async def test_a_broken_connection_fences_within_the_grace() -> None:
    async with world() as w:
        await w.lead()
        dying, watching = w.node(1), w.node(2)
        await dying.start()
        await dying.create("t", 1)
        await watching.start()
        watch = watching.watch()
        assert (await watch.read()).metadata.topics[0].partitions[0].leader_id == 1
        began_s = asyncio.get_running_loop().time()
        await dying.channel.close()
        update = await watch.read()
        assert asyncio.get_running_loop().time() - began_s < 1.0
        assert update.metadata.nodes[0].fenced
        assert update.metadata.partitions[0].partition.leader_id == -1
        again = w.node(1)
        again.incarnation = dying.incarnation
        await again.start(b"q")
        leader = -1
        while leader != 1:
            update = await watch.read()
            leader = max(
                (each.partition.leader_id for each in update.metadata.partitions), default=-1
            )


async def test_a_node_that_wishes_to_stop_sees_others_lead_and_is_let_go() -> None:
    async with world() as w:
        await w.lead()
        node, other = w.node(1), w.node(2)
        await node.start()
        await other.start()
        await node.create("t", 4, replication=2)
        assert not (await node.beat(w.committed.image.version, wants_shutdown=True)).may_shut_down
        await eventually(lambda: w.committed.image.nodes[NodeId(1)].stopping)
        partitions = w.committed.image.partitions
        assert {each.leader for each in partitions.values()} == {2}
        assert not w.committed.image.nodes[NodeId(1)].fenced
        response = await node.beat(w.committed.image.version, wants_shutdown=True)
        while not response.may_shut_down:
            response = await node.told()
        assert response.fenced


async def test_a_full_disk_is_known_to_all() -> None:
    async with world() as w:
        await w.lead()
        node = w.node(1)
        await node.start()
        watch = node.watch()
        assert not (await watch.read()).metadata.nodes[0].storage_full
        assert node.heartbeats is not None
        await node.heartbeats.write(
            HeartbeatRequest(node_id=1, incarnation=node.incarnation, storage_full=True)
        )
        assert (await watch.read()).metadata.nodes[0].storage_full


async def test_metadata_says_which_partitions_there_can_be() -> None:
    async with world() as w:
        await w.lead()
        node = w.node(1)
        await node.start()
        watch = node.watch()
        assert (await watch.read()).metadata.next_partition_uid == 1
        await node.create("t", 5)
        assert (await watch.read()).metadata.next_partition_uid == 6


async def test_a_superseded_process_is_told_and_its_watch_ends() -> None:
    async with world() as w:
        await w.lead()
        old, new = w.node(1), w.node(1)
        await old.start()
        watch = old.watch()
        await watch.read()
        new.incarnation = old.incarnation
        await new.register(b"q")
        assert (await old.told()).must_register
        async with raises(StaleBrokerEpochError):
            while True:
                await watch.read()
        async with raises(StaleBrokerEpochError):
            await old.watch().read()


async def test_a_watch_ends_when_another_controller_takes_over() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        watch = node.watch()
        await watch.read()
        w.log.follow(leader_id=2)
        async with raises(NotControllerError):
            while True:
                await watch.read()
        response = await node.told()
        while response.active:
            response = await node.told()
        assert response.active_id == 2


async def test_a_step_that_concerns_nobody_still_moves_the_version() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        watch = node.watch()
        await watch.read()
        answer = await node.submit(
            controller_pb2.SubmitRequest(
                allocate_producer_ids=controller_pb2.AllocateProducerIdsCommand()
            )
        )
        version = 0
        while version < answer.version:
            version = (await watch.read()).metadata.version


async def test_a_heartbeat_stream_belongs_to_one_node() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.beat()
        node.node_id = 2
        async with raises(InvalidRequestError):
            await node.beat()


async def test_a_heartbeat_stream_that_says_nothing_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world() as w:
        await w.lead()
        monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.05)
        node = w.node()
        node.heartbeats = node.stub.Heartbeat()
        async with raises(RequestTimedOutError):
            await node.told()
        monkeypatch.setattr(server, "FIRST_REQUEST_S", 1.0)
        silent = w.node()
        await silent.beat()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await silent.told()


async def test_streams_that_come_and_go_leave_nothing_behind() -> None:
    async with world() as w:
        await w.lead()
        node = w.node()
        await node.start()
        for _ in range(20):
            watch = node.watch()
            await watch.read()
            watch.call.cancel()
        other = w.node(9)
        await other.beat()
        await other.channel.close()
        await eventually(lambda: not w.feed._watchers)
        await eventually(lambda: w.liveness._heartbeats._pulses.keys() == {1})

"""The group service as clients meet it, over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import pytest

from odradek.protocol.errors import BrokerError
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import Offset
from odradek.rpc.errors import error_from_rpc
from odradek.v1 import error_pb2, group_pb2

from .broker import HASTY, PATIENT, TOO_LARGE, WAIT_S, Broker, Member, running_broker, until_serving
from .cluster import GPS, image_of


@pytest.fixture
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    async with running_broker(times=getattr(request, "param", PATIENT)) as running:
        running.world.lead()
        await until_serving(running)
        yield running


in_haste = pytest.mark.parametrize("broker", [HASTY], indirect=True, ids=["in haste"])


def code_of(error: grpc.aio.AioRpcError) -> int:
    rebuilt = error_from_rpc(error)
    assert isinstance(rebuilt, BrokerError)
    return rebuilt.code


async def until_balanced(members: Iterable[Member]) -> None:
    """Wait until all have joined, and six partitions are read by them, within one of balance."""
    everybody = list(members)
    async with asyncio.timeout(WAIT_S):
        while not is_balanced(everybody):
            member = everybody[0]
            async with member.changed:
                await member.changed.wait()  # each heartbeat's reply wakes it


def is_balanced(members: list[Member]) -> bool:
    if not all(member.epoch for member in members):
        return False  # it has not joined yet
    loads = [len(member.owned) for member in members]
    together = {index for member in members for index in member.owned}
    return sum(loads) == len(together) == 6 and max(loads) - min(loads) <= 1


async def test_the_first_member_reads_everything_and_commits(broker: Broker) -> None:
    member = await Member(broker, "a").join()
    await member.until(lambda one: one.owned == frozenset(range(6)))
    assert await broker.commit("a", member.epoch, 17) == 0
    assert await broker.committed() == {0: 17}
    await member.die()


async def test_ten_members_on_six_partitions_leave_four_idle(broker: Broker) -> None:
    members = [await Member(broker, f"m{number}").join() for number in range(10)]
    await until_balanced(members)
    assert sorted(len(member.owned) for member in members) == [0] * 4 + [1] * 6
    described = await broker.describe()
    assert len(described.members) == 10
    assert described.coordinator_id == 1
    for member in members:
        await member.die()


async def test_who_leaves_is_replaced_at_once(broker: Broker) -> None:
    first = await Member(broker, "a").join()
    second = await Member(broker, "b").join()
    await until_balanced([first, second])
    await second.leave()
    await first.until(lambda one: len(one.owned) == 6)
    assert len((await broker.describe()).members) == 1
    await first.die()


@in_haste
async def test_a_member_whose_stream_breaks_is_replaced_after_its_grace(broker: Broker) -> None:
    first = await Member(broker, "a").join()
    second = await Member(broker, "b").join()
    await until_balanced([first, second])
    await second.die()
    await first.until(lambda one: len(one.owned) == 6)
    await first.die()


async def test_reconnecting_within_the_grace_moves_nothing(broker: Broker) -> None:
    first = await Member(broker, "a").join()
    second = await Member(broker, "b").join()
    await until_balanced([first, second])
    epoch, owned = (await broker.describe()).group_epoch, second.owned
    await second.die()
    await second.join()
    await second.until(lambda one: one.owned == owned)
    assert (await broker.describe()).group_epoch == epoch
    await first.die()
    await second.die()


@in_haste
async def test_a_hung_member_is_expelled_and_its_late_commit_refused(broker: Broker) -> None:
    first = await Member(broker, "a").join()
    hung = await Member(broker, "b").join()
    await until_balanced([first, hung])
    late_partition, late_epoch = min(hung.owned), hung.epoch
    hung.silent = True
    await hung.until(lambda one: one.error == error_pb2.ERROR_CODE_FENCED_MEMBER_EPOCH)
    await first.until(lambda one: len(one.owned) == 6)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await broker.commit("b", late_epoch, 99, late_partition)
    assert code_of(refused.value) == error_pb2.ERROR_CODE_UNKNOWN_MEMBER_ID
    assert await broker.commit("a", first.epoch, 5, late_partition) == 0
    assert await broker.committed() == {late_partition: 5}
    await first.die()
    await hung.die()


async def test_a_restarted_coordinator_replays_offsets_and_keeps_members(broker: Broker) -> None:
    member = await Member(broker, "a").join()
    await member.until(lambda one: len(one.owned) == 6)
    for partition in range(6):
        assert await broker.commit("a", member.epoch, 10 + partition, partition) == 0
    epoch = member.epoch
    broker.world.lead()
    await member.until(lambda one: one.error == error_pb2.ERROR_CODE_NOT_COORDINATOR)
    await until_serving(broker)
    assert await broker.committed() == {index: 10 + index for index in range(6)}
    await member.die()
    member.epoch, member.error = epoch, 0
    await member.join()
    await member.until(lambda one: one.epoch == epoch and one.owned == frozenset(range(6)))
    assert await broker.commit("a", epoch, 20) == 0
    await member.die()


async def test_a_late_commit_takes_nothing_back(broker: Broker) -> None:
    member = await Member(broker, "a").join()
    await member.until(lambda one: one.owned == frozenset(range(6)))
    epoch = member.epoch
    assert await broker.commit("a", epoch, 17, sequence=2) == 0
    late = await broker.commit("a", epoch, 9, sequence=1)
    assert late == error_pb2.ERROR_CODE_INVALID_REQUEST
    broker.world.lead()
    await until_serving(broker)
    late = await broker.commit("a", epoch, 9, sequence=1)
    assert late == error_pb2.ERROR_CODE_INVALID_REQUEST
    assert await broker.committed() == {0: 17}
    await member.die()


async def test_nothing_is_answered_before_the_log_was_replayed() -> None:
    async with running_broker() as broker:
        broker.world.lead(may_read=False)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await broker.committed()
        assert code_of(refused.value) == error_pb2.ERROR_CODE_COORDINATOR_LOAD_IN_PROGRESS
        member = await Member(broker, "a").join()
        await member.until(
            lambda one: one.error == error_pb2.ERROR_CODE_COORDINATOR_LOAD_IN_PROGRESS
        )
        await member.die()
        broker.world.led.may_read.set()
        await until_serving(broker)


async def test_a_deposed_coordinator_commits_nothing(broker: Broker) -> None:
    member = await Member(broker, "a").join()
    await member.until(lambda one: len(one.owned) == 6)
    broker.world.led.deposed = True
    for attempt in (broker.commit("a", member.epoch, 17), broker.committed()):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await attempt
        assert code_of(refused.value) == error_pb2.ERROR_CODE_NOT_COORDINATOR
    assert broker.world.log.batches == []
    await member.die()


async def test_the_controllers_word_deposes_a_coordinator(broker: Broker) -> None:
    first = await Member(broker, "a").join()
    await first.until(lambda one: len(one.owned) == 6)
    broker.world.leader_epoch += 1  # type: ignore[assignment]  # another node was elected
    second = await Member(broker, "b").join()
    for member in (first, second):
        await member.until(lambda one: one.error == error_pb2.ERROR_CODE_NOT_COORDINATOR)
        await member.die()


async def test_a_static_member_takes_its_place_back(broker: Broker) -> None:
    first = await Member(broker, "a").join()
    static = await Member(broker, "b1", instance_id="van").join()
    await until_balanced([first, static])
    kept = static.owned
    await static.leave(epoch=-2)
    successor = await Member(broker, "b2", instance_id="van").join()
    await successor.until(lambda one: one.owned == kept)
    assert len(first.owned) == 3
    await first.die()
    await successor.die()


async def test_the_successor_of_a_live_static_member_fences_it(broker: Broker) -> None:
    old = await Member(broker, "a1", instance_id="van").join()
    await old.until(lambda one: len(one.owned) == 6)
    new = await Member(broker, "a2", instance_id="van").join()
    await old.until(lambda one: one.error == error_pb2.ERROR_CODE_FENCED_INSTANCE_ID)
    await new.until(lambda one: len(one.owned) == 6)
    await old.die()
    await new.die()


async def test_bad_commits_are_refused_one_by_one(broker: Broker) -> None:
    good = group_pb2.OffsetCommit(topic_id=GPS, topic="gps", partition=1, offset=1)
    negative = group_pb2.OffsetCommit(topic_id=GPS, topic="gps", partition=2, offset=-1)
    unknown = group_pb2.OffsetCommit(topic="gsp", partition=0, offset=1)
    request = group_pb2.CommitOffsetsRequest(
        group="g", member_epoch=-1, offsets=[negative, good, unknown]
    )
    response = await broker.stub.CommitOffsets(request)
    errors = [each.error for each in response.offsets]
    assert [each.code for each in errors] == [
        error_pb2.ERROR_CODE_INVALID_REQUEST,
        error_pb2.ERROR_CODE_UNSPECIFIED,
        error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION,
    ]
    assert (errors[0].field, errors[0].value, errors[0].limit) == ("offsets.offset", "-1", "0")
    assert list(errors[2].suggestions) == ["gps"]
    assert await broker.committed() == {1: 1}


async def test_positions_of_partitions_without_a_commit_are_minus_one(broker: Broker) -> None:
    await broker.commit("", -1, 7, partition=3)
    wanted = group_pb2.TopicPartitions(topic_id=GPS, topic="gps", partitions=[2, 3, 6])
    request = group_pb2.FetchOffsetsRequest(group="g", member_epoch=-1, partitions=[wanted])
    response = await broker.stub.FetchOffsets(request)
    assert [each.offset for each in response.offsets] == [-1, 7, -1]
    assert response.offsets[2].error.code == error_pb2.ERROR_CODE_UNKNOWN_TOPIC_OR_PARTITION


async def test_an_unknown_group_suggests_near_names(broker: Broker) -> None:
    await broker.commit("", -1, 7, group="live-map")
    request = group_pb2.DescribeGroupsRequest(groups=["live-mop"] * 100)
    errors = [each.error for each in (await broker.stub.DescribeGroups(request)).groups]
    assert {each.code for each in errors} == {error_pb2.ERROR_CODE_GROUP_ID_NOT_FOUND}
    assert [list(each.suggestions) for each in errors] == [["live-map"]] * 4 + [[]] * 96


async def test_groups_are_listed_by_state(broker: Broker) -> None:
    await broker.commit("", -1, 7, group="only-offsets")
    member = await Member(broker, "a").join()
    await member.until(lambda one: len(one.owned) == 6)
    listed = (await broker.stub.ListGroups(group_pb2.ListGroupsRequest())).groups
    assert [(each.group, each.state, each.member_count) for each in listed] == [
        ("g", group_pb2.GROUP_STATE_STABLE, 1),
        ("only-offsets", group_pb2.GROUP_STATE_EMPTY, 0),
    ]
    stable = group_pb2.ListGroupsRequest(states=[group_pb2.GROUP_STATE_STABLE])
    assert [each.group for each in (await broker.stub.ListGroups(stable)).groups] == ["g"]
    await member.die()


async def test_only_an_empty_group_is_deleted_and_its_offsets_with_it(broker: Broker) -> None:
    member = await Member(broker, "a").join()
    await member.until(lambda one: len(one.owned) == 6)
    await broker.commit("a", member.epoch, 17)
    deletion = group_pb2.DeleteGroupsRequest(groups=["g", "nobody"])
    refused = (await broker.stub.DeleteGroups(deletion)).groups
    assert [each.error.code for each in refused] == [
        error_pb2.ERROR_CODE_NON_EMPTY_GROUP,
        error_pb2.ERROR_CODE_GROUP_ID_NOT_FOUND,
    ]
    await member.leave()
    done = (await broker.stub.DeleteGroups(group_pb2.DeleteGroupsRequest(groups=["g"]))).groups
    assert done[0].error.code == 0
    assert await broker.committed() == {}
    assert (await broker.describe()).error.code == error_pb2.ERROR_CODE_GROUP_ID_NOT_FOUND
    broker.world.lead()
    await until_serving(broker)
    assert await broker.committed() == {}, "the deletion is in the log"


async def test_offsets_are_deleted_unless_somebody_reads_the_topic(broker: Broker) -> None:
    member = await Member(broker, "a").join()
    await member.until(lambda one: len(one.owned) == 6)
    await broker.commit("a", member.epoch, 17)
    wanted = group_pb2.TopicPartitions(topic_id=GPS, topic="gps", partitions=[0])
    request = group_pb2.DeleteOffsetsRequest(group="g", partitions=[wanted])
    refused = (await broker.stub.DeleteOffsets(request)).offsets
    assert refused[0].error.code == error_pb2.ERROR_CODE_NON_EMPTY_GROUP
    await member.leave()
    assert (await broker.stub.DeleteOffsets(request)).offsets[0].error.code == 0
    assert await broker.committed() == {}


async def test_a_group_too_large_for_the_controllers_is_told_and_stops_no_other(
    broker: Broker,
) -> None:
    first = await Member(broker, "a", group=TOO_LARGE).join()
    others = [await Member(broker, name, group=f"g-{name}").join() for name in "bcd"]
    await first.until(lambda one: one.error == error_pb2.ERROR_CODE_INVALID_REQUEST)
    for other in others:
        await other.until(lambda one: len(one.owned) == 6)
    for member in (first, *others):
        await member.die()


async def test_a_deleted_topic_takes_its_offsets_along(broker: Broker) -> None:
    await broker.commit("", -1, 17)
    await broker.commit("", -1, 18, group="h")
    internal = broker.world.image.topic_named(CONSUMER_OFFSETS)
    assert internal is not None
    broker.world.image = image_of(internal, version=9)
    assert await broker.committed() == {}, "at once for readers"
    for groups in broker.world.coordination.all():
        groups.clean_up()
    assert await broker.committed() == {}
    assert (await broker.describe()).error.code == error_pb2.ERROR_CODE_GROUP_ID_NOT_FOUND


async def test_the_first_search_for_a_coordinator_creates_the_internal_topic() -> None:
    async with running_broker(has_internal_topic=False) as broker:
        request = group_pb2.FindCoordinatorRequest(group="g")
        answers = await asyncio.gather(*(broker.stub.FindCoordinator(request) for _ in range(5)))
        assert {(each.node_id, each.host, each.port, each.partition) for each in answers} == {
            (1, "broker", 7070, 0)
        }
        assert broker.world.internal_topics_created == 1


@pytest.mark.parametrize("group", ["", "g" * 256, "bell\x07"])
async def test_illegal_group_names_are_refused(broker: Broker, group: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await broker.stub.FindCoordinator(group_pb2.FindCoordinatorRequest(group=group))
    assert code_of(refused.value) == error_pb2.ERROR_CODE_INVALID_GROUP_ID


async def test_internal_topics_cannot_be_subscribed(broker: Broker) -> None:
    call = broker.stub.Heartbeat()
    await call.write(
        group_pb2.GroupServiceHeartbeatRequest(
            group="g",
            member_id="a",
            topics=["__consumer_offsets"],
            subscription_changed=True,
            owned_changed=True,
        )
    )
    reply = await call.read()
    assert reply.error.code == error_pb2.ERROR_CODE_INVALID_TOPIC
    assert reply.error.field == "topics"
    assert await call.read() is grpc.aio.EOF


async def test_a_lapse_of_the_session_during_the_replay_is_not_the_end(broker: Broker) -> None:
    broker.world.lead(may_read=False)
    led = broker.world.led
    led.deposed = True
    led.may_read.set()
    loading = error_pb2.ERROR_CODE_COORDINATOR_LOAD_IN_PROGRESS
    for _ in range(5):
        assert (await broker.describe()).error.code == loading
    led.deposed = False
    await until_serving(broker)
    member = await Member(broker, "a").join()
    await member.until(lambda one: one.owned == frozenset(range(6)))


async def test_a_damaged_log_is_refused_and_not_loading_for_ever(broker: Broker) -> None:
    broker.world.log.batches.append((Offset(0), bytes(61)))
    broker.world.log.end = Offset(1)
    broker.world.lead()
    loading = error_pb2.ERROR_CODE_COORDINATOR_LOAD_IN_PROGRESS
    async with asyncio.timeout(WAIT_S):
        while (answer := await broker.describe()).error.code == loading:
            pass
    assert answer.error.code == error_pb2.ERROR_CODE_COORDINATOR_NOT_AVAILABLE
    assert "cannot be read" in answer.error.message


async def test_more_partitions_than_can_be_answered_are_refused(broker: Broker) -> None:
    many = [group_pb2.TopicPartitions(topic_id=bytes(16), partitions=range(100_001))]
    for ask, request in (
        (broker.stub.FetchOffsets, group_pb2.FetchOffsetsRequest(group="g", partitions=many)),
        (broker.stub.DeleteOffsets, group_pb2.DeleteOffsetsRequest(group="g", partitions=many)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(request, timeout=WAIT_S)
        assert code_of(caught.value) == error_pb2.ERROR_CODE_INVALID_REQUEST

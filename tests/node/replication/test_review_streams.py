"""What streams survive: a node that registers again, acknowledgements that overtake an image."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from odradek.node.cluster.image import ImageUpdate, NodeState, PartitionState, TopicState
from odradek.node.cluster.view import ClusterView
from odradek.node.replication.follower import ANNOUNCE_RETRY_S, Ack
from odradek.node.replication.follower_node import FollowerNode
from odradek.node.replication.leader_node import LeaderNode
from odradek.node.replication.node_links import NodeLinks
from odradek.node.replication.partition import PartitionReplica
from odradek.node.replication.replicas import Replicas
from odradek.node.replication.session import Announcement
from odradek.node.replication.waiting import FutureWaiter
from odradek.node.storage import Storage
from odradek.protocol.errors import (
    BrokerError,
    IneligibleReplicaError,
    NotLeaderOrFollowerError,
    StaleBrokerEpochError,
    StorageFullError,
    ThrottledError,
)
from odradek.protocol.hot import Acks
from odradek.protocol.record_batch import stamped
from odradek.protocol.replication import PushFrame, ReplicateFrame
from odradek.protocol.types import (
    FIRST_OFFSET,
    Incarnation,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
    TopicId,
    TopicName,
)
from odradek.v1 import controller_pb2
from odradek.v1 import replica_pb2 as pb
from tests.node.replication.test_streams import three_nodes, until
from tests.node.running import SMALL, ProduceClient, batch, monotonic_ms

ME, OTHER = NodeId(1), NodeId(2)
UID = PartitionUid(7)


class _Controller:
    async def alter_partitions(
        self, partitions: list[controller_pb2.AlterPartition]
    ) -> list[BrokerError | None]:
        return [None for _ in partitions]


class _Host:
    """One node's replicas and links, without streams; the test is the other end."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.view = ClusterView()
        self.view.cluster_id = "c"
        self.links = NodeLinks(ME, lambda: Incarnation(1), self.view, _Controller())
        self.replicas = Replicas(
            ME,
            storage,
            self.view,
            lapsed=lambda: None,
            new_epochs_needed=lambda: None,
            links=self.links,
        )
        self.links.serve(self.replicas, storage.condemn)

    def image(
        self,
        leader: NodeId,
        leader_epoch: int,
        incarnation: int = 5,
        replicas: tuple[NodeId, ...] = (ME, OTHER),
    ) -> None:
        before = self.view.image
        partition = PartitionState(
            index=PartitionIndex(0),
            uid=UID,
            leader_id=leader,
            leader_epoch=LeaderEpoch(leader_epoch),
            partition_epoch=PartitionEpoch(leader_epoch),
            replicas=replicas,
            isr=replicas,
        )
        topic = TopicState(
            name=TopicName("t"), topic_id=TopicId(b"t" * 16), partitions=(partition,)
        )
        nodes = tuple(
            NodeState(node_id=node_id, host="h", port=1, incarnation=Incarnation(number))
            for node_id, number in ((ME, 1), (OTHER, incarnation))
        )
        update = ImageUpdate(version=before.version + 1, topics=(topic,), nodes=nodes)
        self.view.publish(update)
        self.replicas.reconcile(before, update)
        self.links.on_nodes_changed()

    def follower(self, incarnation: int = 5, link: int = 1) -> FollowerNode:
        return self.links.admit(
            pb.ReplicateOpen(node_id=OTHER, incarnation=incarnation, link=link, cluster_id="c")
        )


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[_Host]:
    def fatal(error: BaseException) -> None:
        raise AssertionError(f"fatal: {error}") from error

    async with Storage(tmp_path, SMALL, fatal=fatal, now_ms=monotonic_ms) as storage:
        yield _Host(storage)


async def test_an_ack_that_overtakes_the_leaders_image_counts(host: _Host) -> None:
    """Else the leader waits for an acknowledgement that never comes again."""
    host.image(ME, 0)
    replica = host.replicas.with_uid(UID)
    assert replica is not None
    replica.produce(batch(3), Acks.ALL, FutureWaiter(), 0)
    follower = host.follower()
    announcement = pb.ReplicaAnnouncement(
        uid=UID, leader_epoch=1, session=4, last_epoch=0, log_end=3, durable_end=0
    )
    follower._on_request(pb.ReplicateRequest(announcements=[announcement]))
    ack = pb.ReplicaAck(uid=UID, leader_epoch=1, session=4, durable_end=3)
    follower._on_request(pb.ReplicateRequest(acks=[ack]))
    host.image(ME, 1)
    host.replicas.commit_soon()
    await until(lambda: replica.high_watermark == 3)


async def test_a_contradiction_that_came_early_ends_its_link_alone(host: _Host) -> None:
    """Else one bad follower ends whoever becomes a leader."""
    host.image(ME, 0)
    follower = host.follower()
    impossible = pb.ReplicaAnnouncement(
        uid=UID, leader_epoch=1, session=4, last_epoch=0, log_end=3, durable_end=9
    )
    follower._on_request(pb.ReplicateRequest(announcements=[impossible]))
    host.image(ME, 1)
    assert follower.ended.is_set()
    replica = host.replicas.with_uid(UID)
    assert replica is not None
    assert replica.is_leader


async def test_a_link_that_ended_costs_nothing_more(host: _Host) -> None:
    host.image(ME, 0)
    replica = host.replicas.with_uid(UID)
    assert replica is not None
    follower = host.follower()
    announcement = pb.ReplicaAnnouncement(uid=UID, leader_epoch=0, session=4, last_epoch=-1)
    follower._on_request(pb.ReplicateRequest(announcements=[announcement]))
    follower.end()
    follower._on_request(pb.ReplicateRequest(announcements=[announcement]))
    follower.high_watermark_advanced(replica)
    assert follower._live._timer is None
    assert replica.leading is not None
    assert replica.leading.cursor(OTHER) is None


async def test_an_ack_never_overtakes_its_announcement(host: _Host) -> None:
    host.image(OTHER, 0)
    replica = host.replicas.with_uid(UID)
    assert replica is not None
    leader = LeaderNode(OTHER, host.replicas, lambda: None, pb.ReplicateOpen)
    announcement = Announcement(LeaderEpoch(0), 4, LeaderEpoch(0), Offset(3), Offset(0))
    leader.announce(replica, announcement)
    leader.ack(replica, Ack(4, Offset(3)))
    message = leader._next_request()
    assert message is not None
    request = pb.ReplicateRequest.FromString(message)
    assert [each.durable_end for each in request.announcements] == [3]
    assert not request.acks


async def test_streams_of_an_earlier_registration_end(host: _Host) -> None:
    """Else the follower copies for ever and is never in sync: it speaks as who it was."""
    host.image(ME, 0, incarnation=5)
    follower = host.follower(incarnation=5)
    host.image(ME, 0, incarnation=6)
    assert follower.ended.is_set()
    with pytest.raises(StaleBrokerEpochError):
        host.follower(incarnation=5, link=2)
    assert host.follower(incarnation=6, link=3) is not follower


async def test_a_link_that_was_overtaken_does_not_end_the_newer_one(host: _Host) -> None:
    """Else its follower waits for ever on streams that nobody pushes to."""
    host.image(ME, 0, incarnation=5)
    newer = host.follower(incarnation=5, link=2)
    with pytest.raises(StaleBrokerEpochError):
        host.follower(incarnation=5, link=1)
    assert not newer.ended.is_set()
    assert host.follower(incarnation=5, link=2) is newer
    newer.end()
    with pytest.raises(StaleBrokerEpochError):
        host.follower(incarnation=5, link=1)


async def test_a_follower_that_registers_again_joins_again(tmp_path: Path) -> None:
    async with three_nodes(tmp_path) as cluster:
        topic = cluster.controller.add_topic("t", replicas=(1, 2, 3))
        await cluster.known()
        produce = ProduceClient(cluster.nodes[1].channel)
        assert (await produce.produce(topic, batch())).error.code == 0
        before = cluster.controller.nodes[3].incarnation
        cluster.nodes[3].node._register_again()
        await until(lambda: cluster.controller.nodes[3].incarnation > before)
        await until(lambda: list(topic.partitions[0].isr) == [1, 2, 3])
        assert (await produce.produce(topic, batch())).error.code == 0
        assert cluster.replica(3, topic).log_end_offset == 2


async def test_a_leader_alone_below_the_minimum_confirms_nothing(tmp_path: Path) -> None:
    """Another may have been elected from the ELR while its own session has yet to lapse."""
    async with three_nodes(tmp_path) as cluster:
        cluster.controller.isr_refusal = IneligibleReplicaError()
        topic = cluster.controller.add_topic("t", replicas=(1, 2, 3), isr=(1,))
        enough = cluster.controller.add_topic(
            "u", replicas=(1, 9), isr=(1,), config={"min.insync.replicas": "1"}
        )
        await cluster.known()
        with pytest.raises(NotLeaderOrFollowerError):
            await cluster.replica(1, topic).confirm_leadership()
        await cluster.replica(1, enough).confirm_leadership()


def _push(session: int, start: int, records: bytes) -> PushFrame[memoryview]:
    zero = Offset(0)
    return PushFrame(UID, LeaderEpoch(0), session, Offset(start), zero, zero, memoryview(records))


def _stamped(data: bytes, base_offset: int) -> bytes:
    return bytes(stamped(data, Offset(base_offset), LeaderEpoch(0)))


async def _following(host: _Host, count: int) -> PartitionReplica:
    """Return a replica that follows, is connected, and has so many records."""
    host.image(OTHER, 0)
    replica = host.replicas.with_uid(UID)
    assert replica is not None
    assert replica.following is not None
    replica.following.on_connected()
    session = replica.following.core.session
    replica.following.on_pushed(_push(session, 0, _stamped(batch(count), 0)))
    assert replica.log_end_offset == count
    return replica


async def test_a_log_that_came_back_shorter_gets_no_hole(host: _Host) -> None:
    """A full disk: the store was reopened, and lost what it had not on disk."""
    replica = await _following(host, 3)
    following = replica.following
    assert following is not None
    replica.log.truncate_to(FIRST_OFFSET, 0)
    following.on_pushed(_push(following.core.session, 3, _stamped(batch(), 3)))
    assert replica.log_end_offset == 0
    assert following.core.log_end_offset == 0


async def test_a_log_that_came_back_shorter_is_announced(host: _Host) -> None:
    replica = await _following(host, 3)
    following = replica.following
    assert following is not None
    before = following.core.session
    replica.log.truncate_to(FIRST_OFFSET, 0)
    now_s = time.monotonic()
    replica.on_tick(now_s)
    replica.on_tick(now_s + 1)
    assert following.core.session > before
    assert following.core.log_end_offset == 0


async def test_a_log_that_came_back_shorter_may_be_led(host: _Host) -> None:
    """What had been noted of its lost end does not count, and is synced anew."""
    replica = await _following(host, 3)
    replica._durable.take(Offset(3))  # as `flush=os` counts it
    replica.log.truncate_to(FIRST_OFFSET, 0)
    host.image(ME, 1)
    assert replica.leading is not None
    assert replica.leading.core.durable_end == 0
    replica.produce(batch(2), Acks.ALL, FutureWaiter(), 0)
    host.replicas.commit_soon()
    leading = replica.leading
    await until(lambda: leading.core.durable_end == 2)


async def test_a_refused_announcement_is_repeated_before_the_next_tick(host: _Host) -> None:
    replica = await _following(host, 1)
    assert replica.following is not None
    core = replica.following.core
    leader = LeaderNode(OTHER, host.replicas, lambda: None, pb.ReplicateOpen)
    leader.follow(replica)
    refused = core.session
    refusal = pb.ReplicaRefusal(uid=UID, leader_epoch=0, session=refused)
    began_s = time.monotonic()
    leader._take(ReplicateFrame(0, [], [], [refusal]))
    await until(lambda: core.session > refused)
    assert time.monotonic() - began_s >= ANNOUNCE_RETRY_S
    assert not leader._refused


async def test_a_follower_whose_disk_is_full_has_it_looked_after(
    host: _Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await _following(host, 1)
    following = replica.following
    assert following is not None

    def full(*_: object) -> int:
        raise StorageFullError("no room")

    monkeypatch.setattr(host.storage._store, "write", full)
    following.on_pushed(_push(following.core.session, 1, _stamped(batch(), 1)))
    assert host.replicas._storage_failed


async def test_a_partition_that_returns_before_its_data_went_keeps_it(
    host: _Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is dropped later, below the replica that believes to have it."""
    replica = await _following(host, 3)
    with monkeypatch.context() as stalled:

        def throttled(uid: PartitionUid) -> int:
            raise ThrottledError(value=uid)

        stalled.setattr(host.storage, "drop", throttled)
        host.image(OTHER, 1, replicas=(OTHER,))
        assert host.replicas.with_uid(UID) is None
        host.image(OTHER, 2)
    host.replicas._drop_logs()
    again = host.replicas.with_uid(UID)
    assert again is not None
    assert again.log_end_offset == 3
    assert host.storage.log(UID) is again.log
    assert replica is not again


async def test_a_follower_that_cannot_be_served_asks_again(
    host: _Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is left out for good: nothing else brings it back into the line."""
    host.image(ME, 0)
    replica = host.replicas.with_uid(UID)
    assert replica is not None
    replica.produce(batch(3), Acks.ALL, FutureWaiter(), 0)
    follower = host.follower()
    announcement = pb.ReplicaAnnouncement(uid=UID, leader_epoch=0, session=4, last_epoch=-1)
    follower._on_request(pb.ReplicateRequest(announcements=[announcement]))
    host.storage._cache.discard(UID)

    async def closed(offset: Offset, bytes_max: int, end: Offset | None = None) -> list[bytes]:
        raise StorageFullError("the store is being reopened")

    async def write(message: bytes) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(replica, "read", closed)
    follower._catch_up.add(replica)
    await follower._catch_up._advance(replica, write)
    (answer,) = follower._live._answers
    assert [each.session for each in pb.ReplicateResponse.FromString(answer).refusals] == [4]

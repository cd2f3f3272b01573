"""Who leads after deaths, returns, lost disks and planned stops; and who is reported."""

from dataclasses import replace

import pytest

from odradek.controller.state.decide import AlterTopicConfigs, FinishElections, PreferLeaders
from odradek.controller.state.image import Draft
from odradek.controller.state.nodes import register
from odradek.controller.state.records import NodeFenced, Partition
from odradek.controller.state.topics import ConfigChange, TopicRef, alter_configs
from odradek.controller.wire.records import decode_snapshot, encode_snapshot
from odradek.protocol.types import NO_NODE, NodeId
from tests.controller.state.cluster import Cluster, registration

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)


class OnePartition(Cluster):
    """Three nodes and one partition with replicas 1, 2, 3 in sync."""

    def __init__(self, **config: str) -> None:
        super().__init__(nodes=3)
        settings = {key.replace("_", "."): value for key, value in config.items()}
        self.uid = self.assigned("t", 1, 2, 3, config=settings).uid

    @property
    def partition(self) -> Partition:
        return self.image.partitions[self.uid]

    def expect(self, leader: int, isr: tuple[int, ...], elr: tuple[int, ...]) -> None:
        """Assert who leads, who is in sync, and who is eligible."""
        now = self.partition
        assert (now.leader, now.isr, now.elr) == (leader, isr, elr)


def test_isr_members_that_fail_one_after_another_lose_nothing() -> None:
    cluster = OnePartition()
    epochs = [cluster.partition.leader_epoch]
    for dead, standing in (
        (1, (2, (2, 3), ())),  # still the minimum: node 1 will miss what is committed now
        (2, (3, (3,), (2,))),  # below: nothing is committed any more, so node 2 has everything
        (3, (NO_NODE, (), (2, 3))),
    ):
        cluster.fence(dead)
        cluster.expect(*standing)
        epochs.append(cluster.partition.leader_epoch)
    cluster.start(1, process=2)
    cluster.expect(NO_NODE, (), (2, 3))
    cluster.start(2, process=2)
    cluster.expect(2, (2,), (3,))
    cluster.start(3, process=2)
    cluster.expect(2, (2,), (3,))
    epochs.append(cluster.partition.leader_epoch)
    assert epochs == sorted(set(epochs))
    assert cluster.propose(cluster.partition, 2, 1).error is None
    cluster.expect(2, (2, 1), ())
    assert not cluster.losses


def test_a_leader_that_drops_members_below_the_minimum_keeps_them_eligible() -> None:
    cluster = OnePartition()
    cluster.propose(cluster.partition, 1)
    cluster.expect(1, (1,), (2, 3))
    cluster.fence(1)
    cluster.expect(2, (2,), (3, 1))


def test_a_minimum_of_one_leaves_nobody_else_eligible() -> None:
    cluster = OnePartition(min_insync_replicas="1")
    cluster.propose(cluster.partition, 1)
    cluster.expect(1, (1,), ())
    cluster.fence(1)
    cluster.expect(NO_NODE, (), (1,))


def test_a_lower_minimum_makes_nobody_lead_who_misses_what_it_let_through() -> None:
    cluster = OnePartition(min_insync_replicas="2")
    cluster.propose(cluster.partition, 1)
    lower = ConfigChange(TopicRef("t"), {"min.insync.replicas": "1"})
    cluster.submit(AlterTopicConfigs((lower,)))
    cluster.expect(1, (1,), ())
    higher = ConfigChange(TopicRef("t"), {}, ("min.insync.replicas",))
    cluster.submit(AlterTopicConfigs((higher,)))
    cluster.expect(1, (1,), ())
    cluster.fence(1)
    cluster.expect(NO_NODE, (), (1,))


def test_a_registration_ends_leadership_although_nobody_was_fenced() -> None:
    cluster = OnePartition()
    before = cluster.partition
    cluster.register(1, process=2)
    cluster.expect(2, (2, 3), ())
    assert cluster.partition.leader_epoch > before.leader_epoch


def test_a_sole_replica_leads_again_under_a_new_epoch() -> None:
    cluster = Cluster(nodes=1)
    (before,) = cluster.topic("t")
    cluster.register(1, process=2)
    cluster.unfence(1)
    (after,) = cluster.partitions("t")
    assert (after.leader, after.isr) == (1, (1,))
    assert after.leader_epoch > before.leader_epoch
    assert not cluster.losses


def test_who_lost_synced_data_is_neither_in_sync_nor_eligible() -> None:
    cluster = OnePartition()
    for dead in (1, 2, 3):
        cluster.fence(dead)
    cluster.admit(registration(2, process=2, lost_data=True))
    cluster.expect(NO_NODE, (), (3,))
    cluster.unfence(2)
    cluster.expect(NO_NODE, (), (3,))
    cluster.start(3, process=2)
    cluster.expect(3, (3,), ())
    assert not cluster.losses


def test_when_nobody_has_everything_the_last_leader_goes_on_and_that_is_reported() -> None:
    cluster = OnePartition()
    for dead in (1, 2, 3):
        cluster.fence(dead)
    assert cluster.partition.last_known_elr == (3,)
    for each in (2, 3):
        cluster.admit(registration(each, process=2, lost_data=True))
    cluster.expect(NO_NODE, (), ())
    cluster.start(1, process=2)
    cluster.unfence(2)
    cluster.expect(NO_NODE, (), ())
    assert not cluster.losses
    cluster.unfence(3)
    cluster.expect(3, (3,), ())
    assert not cluster.partition.last_known_elr
    (loss,) = cluster.losses
    assert (loss.uid, loss.leader) == (cluster.uid, 3)


def test_who_has_set_its_data_aside_leads_only_what_came_into_sync_or_was_given_up() -> None:
    cluster = OnePartition()
    for dead in (1, 2, 3):
        cluster.fence(dead)
    cluster.admit(registration(2, process=2, lost_data=True))
    cluster.admit(registration(3, process=2, lost_data=True, store_set_aside=True))
    for each in (1, 2, 3):
        cluster.unfence(each)
    cluster.expect(NO_NODE, (), ())
    # It starts again, with nothing lost since: still nobody has said what is to become of it.
    cluster.admit(registration(3, process=3, store_set_aside=True))
    cluster.unfence(3)
    cluster.expect(NO_NODE, (), ())
    assert not cluster.losses
    cluster.start(3, process=4)
    cluster.expect(3, (3,), ())
    assert len(cluster.losses) == 1
    # What it has since then is its own.
    cluster.admit(registration(3, process=5, store_set_aside=True))
    cluster.unfence(3)
    cluster.expect(3, (3,), ())
    assert len(cluster.losses) == 1


@pytest.mark.parametrize(("flush", "eligible"), [("commit", (2, 3)), ("os", (3,))])
def test_a_machine_that_went_down_lost_its_page_cache(
    flush: str, eligible: tuple[int, ...]
) -> None:
    cluster = OnePartition(flush=flush)
    for dead in (1, 2, 3):
        cluster.fence(dead)
    cluster.admit(registration(2, process=2, unclean_boot=True))
    cluster.expect(NO_NODE, (), eligible)


def test_flush_commit_is_trusted_only_of_a_node_that_synced_since_it_knows_of_it() -> None:
    cluster = OnePartition(flush="os")
    for dead in (1, 2, 3):
        cluster.fence(dead)
    before = cluster.image.version
    cluster.submit(AlterTopicConfigs((ConfigChange(TopicRef("t"), {}, unset=("flush",)),)))
    known = cluster.image.version
    cluster.submit(AlterTopicConfigs((ConfigChange(TopicRef("t"), {"retention.ms": "9"}),)))
    assert decode_snapshot(encode_snapshot(cluster.image)) == cluster.image
    for node_id, synced, eligible in ((2, known, (2, 3)), (3, before, (2,))):
        request = registration(node_id, process=2, unclean_boot=True)
        cluster.admit(replace(request, synced_metadata_version=synced))
        cluster.expect(NO_NODE, (), eligible)


def test_flush_commit_is_not_trusted_of_a_node_that_registers_in_the_same_round() -> None:
    cluster = OnePartition(flush="os")
    for dead in (1, 2, 3):
        cluster.fence(dead)
    request = replace(
        registration(2, process=2, unclean_boot=True),
        synced_metadata_version=cluster.image.version,
        previous_incarnation=cluster.image.nodes[N2].incarnation,
    )
    draft = Draft(cluster.image)
    alter_configs(draft, [ConfigChange(TopicRef("t"), {"flush": "commit"})])
    register(draft, request)
    assert draft.image.partitions[cluster.uid].elr == (3,)


def test_an_empty_disk_in_place_of_the_last_leader_leads_only_when_there_is_no_other() -> None:
    cluster = OnePartition()
    for dead in (1, 2, 3):
        cluster.fence(dead)
    for each in (2, 3):
        cluster.admit(registration(each, process=2, directory=each + 5, replace=True))
        cluster.unfence(each)
    cluster.expect(NO_NODE, (), ())
    cluster.start(1, process=2)
    cluster.expect(1, (1,), ())
    assert len(cluster.losses) == 1
    sole = Cluster(nodes=1)
    sole.topic("t")
    sole.fence(1)
    sole.admit(registration(1, process=2, directory=9, replace=True))
    sole.unfence(1)
    assert sole.partitions("t")[0].leader == 1
    assert len(sole.losses) == 1


def test_a_planned_stop_moves_leaders_first_and_spares_who_can_be_spared() -> None:
    cluster = OnePartition()
    before = cluster.partition
    cluster.retire(1)
    cluster.expect(2, (2, 3), ())
    assert cluster.partition.leader_epoch == before.leader_epoch + 1
    cluster.retire(2)  # two are the minimum: it stays in sync until it is gone
    cluster.expect(3, (2, 3), ())
    cluster.retire(3)  # nobody else is left
    cluster.expect(3, (2, 3), ())
    cluster.fence(2)
    cluster.expect(3, (3,), (2,))
    cluster.start(2, process=2)
    assert not cluster.image.nodes[N2].stopping


def test_what_a_stopping_node_held_up_follows_when_another_joins() -> None:
    cluster = OnePartition()
    cluster.fence(3)
    cluster.retire(1)
    cluster.expect(2, (1, 2), ())
    cluster.start(3, process=2)
    cluster.propose(cluster.partition, 1, 2, 3)
    cluster.expect(2, (2, 3), ())


def test_a_full_node_is_elected_only_when_there_is_no_other() -> None:
    cluster = OnePartition()
    cluster.fill(2)
    cluster.fence(1)
    assert cluster.partition.leader == N3
    cluster.fence(3)
    assert cluster.partition.leader == N2
    cluster.fill(2, full=False)
    assert not cluster.image.nodes[N2].storage_full


def test_preferred_leaders_lead_again_once_in_sync() -> None:
    cluster = OnePartition()
    cluster.fence(1)
    cluster.start(1, process=2)
    ready = PreferLeaders((N1, N2, N3), 10)
    cluster.decide(ready)
    assert cluster.partition.leader == N2
    cluster.propose(cluster.partition, 1, 2, 3)
    cluster.decide(PreferLeaders((N2, N3), 10))
    assert cluster.partition.leader == N2
    before = cluster.partition
    cluster.fill(1)
    cluster.decide(ready)
    assert cluster.partition == before
    cluster.fill(1, full=False)
    cluster.decide(ready)
    cluster.expect(1, (1, 2, 3), ())
    assert cluster.partition.leader_epoch == before.leader_epoch + 1


def test_preferred_leaders_return_a_few_at_a_time() -> None:
    cluster = Cluster(nodes=2)
    cluster.topic("t", partitions=10, replication=2)
    cluster.fence(1)
    cluster.start(1, process=2)
    for partition in cluster.partitions("t"):
        cluster.propose(partition, 1, 2)
    for expected in (3, 5, 5):
        cluster.decide(PreferLeaders((N1, N2), 3))
        assert sum(each.leader == 1 for each in cluster.partitions("t")) == expected


def test_a_successor_finishes_what_was_left_half_done() -> None:
    cluster = OnePartition()
    draft = Draft(cluster.image)
    draft.record(NodeFenced(N1))  # and then the controller died
    cluster.commit(draft)
    cluster.decide(FinishElections())
    cluster.expect(2, (2, 3), ())
    written = len(cluster.log)
    cluster.decide(FinishElections())
    assert len(cluster.log) == written


def test_a_topic_made_while_a_node_stops_leaves_nothing_to_follow() -> None:
    """Found by a property: the next controller would have had to move what was just placed."""
    cluster = Cluster(nodes=3)
    cluster.retire(1)
    partitions = cluster.topic("t", partitions=6)
    assert all(partition.leader != N1 for partition in partitions)
    cluster.begin_epoch()
    written = len(cluster.log)
    cluster.decide(FinishElections())
    assert len(cluster.log) == written

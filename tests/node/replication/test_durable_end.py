"""How much of a log is on disk, through syncs, cuts and a store that fails."""

from odradek.node.replication.durable_end import DurableEnd
from odradek.protocol.types import Offset


def test_a_sync_covers_what_was_appended_before_it() -> None:
    durable = DurableEnd(Offset(0))
    durable.on_appended(10, Offset(1))
    durable.on_appended(20, Offset(2))
    assert not durable.on_synced(9)
    assert durable.on_synced(10)
    assert (durable.end, durable.is_settled) == (1, False)
    assert durable.on_synced(25)
    assert (durable.end, durable.is_settled) == (2, True)


def test_a_cut_takes_back_what_lies_beyond() -> None:
    durable = DurableEnd(Offset(5))
    durable.on_appended(10, Offset(9))
    durable.on_truncated(20, Offset(3))
    assert durable.end == 3
    assert not durable.on_synced(10)
    assert durable.on_synced(20)
    assert durable.end == 3


def test_what_a_log_lost_meanwhile_does_not_count_in_another_role() -> None:
    durable = DurableEnd(Offset(2))
    durable.on_appended(10, Offset(9))
    assert durable.begin_role(12, Offset(4))
    assert not durable.on_synced(10)
    assert durable.end == 2
    assert durable.on_synced(12)
    assert durable.end == 4
    assert not durable.begin_role(12, Offset(4))


def test_after_a_failed_sync_nothing_counts_before_the_store_is_back() -> None:
    durable = DurableEnd(Offset(5))
    durable.on_appended(10, Offset(9))
    durable.on_storage_failed()
    assert not durable.on_synced(10)
    assert (durable.end, durable.is_settled) == (5, False)
    assert durable.on_storage_recovered(30, Offset(7))
    assert durable.end == 5
    assert durable.on_synced(30)
    assert (durable.end, durable.is_settled) == (7, True)
    assert not durable.on_storage_recovered(40, Offset(7)), "it had not failed"

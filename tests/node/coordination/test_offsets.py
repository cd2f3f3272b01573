"""Which commits are valid, and what time and deleted topics remove."""

from dataclasses import replace

import pytest

from odradek.node.coordination.model import Group
from odradek.node.coordination.offsets import (
    METADATA_BYTES_MAX,
    Cleanup,
    Commit,
    CommittedOffsets,
    Committer,
    accept_commit,
    check_committer,
    cleanup,
)
from odradek.node.coordination.records import (
    GroupEmptied,
    GroupRevived,
    OffsetCommitted,
    OffsetForgotten,
    decode,
    encode,
)
from odradek.protocol.errors import (
    FencedMemberEpochError,
    InconsistentTopicIdError,
    InvalidRequestError,
    NonEmptyGroupError,
    StaleMemberEpochError,
    UnknownMemberIdError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.types import LeaderEpoch, Offset, TopicId

from .cluster import GPS, GROUP, IMAGE, ORDERS, gps, group_of, image_of, member_of, topic

COMMIT = Commit(topic_id=GPS, topic="gps", partition=2, offset=17, leader_epoch=0, metadata="m")
DAY_MS = 24 * 3600 * 1000


def commit_as(
    group: Group | None, name: str, epoch: int, commit: Commit = COMMIT
) -> OffsetCommitted:
    committer = check_committer(GROUP, group, name, epoch, fenced=False)
    return accept_commit(committer, commit, IMAGE, now_ms=99)


def anybody() -> Committer:
    return check_committer(GROUP, None, "", -1, fenced=False)


def test_a_member_commits_what_it_is_assigned() -> None:
    record = commit_as(group_of(member_of("a", {2: 3})), "a", 5)
    assert record == OffsetCommitted(
        group=GROUP,
        partition=gps(2),
        offset=Offset(17),
        leader_epoch=LeaderEpoch(0),
        metadata="m",
        commit_time_ms=99,
    )


def test_a_member_that_lags_behind_an_unrelated_rebalance_commits() -> None:
    group = group_of(member_of("a", {2: 3}, epoch=9), epoch=9)
    assert commit_as(group, "a", 3).offset == 17


def counted(name: str, offset: int, sequence: int) -> OffsetCommitted:
    """Return the record of a commit of one of two members, each of which owned the partition."""
    commit = replace(COMMIT, offset=offset, sequence=sequence)
    return commit_as(group_of(member_of(name, {2: 3})), name, 5, commit)


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_commit_that_comes_late_is_refused(is_committed: bool) -> None:  # noqa: FBT001
    offsets = CommittedOffsets()
    newer = offsets.accept(counted("a", 17, 2))
    if is_committed:
        offsets.apply(newer)
    with pytest.raises(InvalidRequestError, match="commit 1 of member 'a' comes late") as refused:
        offsets.accept(counted("a", 9, 1))
    assert refused.value.field == "sequence"


def test_a_replayed_commit_refuses_what_came_before_it() -> None:
    record = decode(*encode(counted("a", 17, 2)))
    assert record is not None
    offsets = CommittedOffsets()
    offsets.apply(record)
    with pytest.raises(InvalidRequestError):
        offsets.accept(counted("a", 9, 1))


@pytest.mark.parametrize(
    "later",
    [counted("a", 9, 3), counted("a", 9, 2), counted("a", 9, 0), counted("b", 9, 1)],
    ids=["on purpose", "repeated", "not counted", "by the next owner"],
)
def test_a_position_goes_back_on_purpose(later: OffsetCommitted) -> None:
    offsets = CommittedOffsets()
    offsets.apply(offsets.accept(counted("a", 17, 2)))
    offsets.apply(offsets.accept(later))
    assert offsets.of(GROUP)[gps(2)].offset == 9


def test_a_tool_that_resets_an_empty_group_begins_a_new_count() -> None:
    offsets = CommittedOffsets()
    offsets.apply(offsets.accept(counted("a", 17, 2)))
    reset = accept_commit(anybody(), replace(COMMIT, offset=0, sequence=1), IMAGE, now_ms=99)
    offsets.apply(offsets.accept(reset))
    assert reset.member_id == ""
    assert offsets.accept(counted("a", 5, 1)).offset == 5


def test_a_commit_from_before_the_assignment_is_stale() -> None:
    with pytest.raises(StaleMemberEpochError, match="gps-2"):
        commit_as(group_of(member_of("a", {2: 3})), "a", 2)


def test_what_it_has_yet_to_revoke_is_still_its_own() -> None:
    assert commit_as(group_of(member_of("a", revoking={2: 3})), "a", 4).partition == gps(2)


def test_a_partition_of_somebody_else_is_refused() -> None:
    group = group_of(member_of("a", {1: 3}), member_of("b", {2: 3}))
    with pytest.raises(StaleMemberEpochError):
        commit_as(group, "a", 5)


@pytest.mark.parametrize("epoch", [6, 0, -1])
def test_an_epoch_that_is_not_of_the_group_is_fenced(epoch: int) -> None:
    with pytest.raises(FencedMemberEpochError):
        commit_as(group_of(member_of("a", {2: 3})), "a", epoch)


def test_who_was_expelled_here_is_fenced_before_the_controller_knows() -> None:
    group = group_of(member_of("a", {2: 3}))
    with pytest.raises(FencedMemberEpochError):
        check_committer(GROUP, group, "a", 5, fenced=True)


def test_who_went_away_does_not_commit() -> None:
    with pytest.raises(FencedMemberEpochError):
        commit_as(group_of(member_of("a", {2: 3}, instance_id="van", away=True)), "a", 5)


def test_an_unknown_member_is_named() -> None:
    for group in (None, group_of()):
        with pytest.raises(UnknownMemberIdError, match="'a'"):
            commit_as(group, "a", 5)


def test_nobody_commits_only_while_there_are_no_members() -> None:
    assert commit_as(None, "", -1).partition == gps(2)
    assert commit_as(group_of(), "", -1).partition == gps(2)
    with pytest.raises(NonEmptyGroupError):
        commit_as(group_of(member_of("a")), "", -1)


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"offset": -1}, InvalidRequestError, "offsets.offset"),
        ({"leader_epoch": -2}, InvalidRequestError, "offsets.leader_epoch"),
        ({"metadata": "é" * 2049}, InvalidRequestError, "offsets.metadata"),
        ({"partition": 6}, UnknownTopicOrPartitionError, "partition"),
        ({"partition": -1}, UnknownTopicOrPartitionError, "partition"),
        ({"topic_id": b"x" * 16}, UnknownTopicIdError, "topic_id"),
        ({"topic_id": ORDERS}, InconsistentTopicIdError, "topic"),
    ],
)
def test_bad_input_names_its_field(
    change: dict[str, object], error: type[Exception], field: str
) -> None:
    with pytest.raises(error) as refused:
        accept_commit(anybody(), replace(COMMIT, **change), IMAGE, 0)  # type: ignore[arg-type]
    assert refused.value.field == field  # type: ignore[attr-defined]


def test_the_most_metadata_there_may_be() -> None:
    longest = replace(COMMIT, metadata="m" * METADATA_BYTES_MAX)
    assert len(accept_commit(anybody(), longest, IMAGE, 0).metadata) == METADATA_BYTES_MAX


def test_an_unknown_topic_suggests_near_names() -> None:
    with pytest.raises(UnknownTopicOrPartitionError) as refused:
        accept_commit(anybody(), replace(COMMIT, topic_id=b"", topic="order"), IMAGE, 0)
    assert refused.value.suggestions == ("orders",)


def offsets_with(*indexes: int, at_ms: int = 0) -> CommittedOffsets:
    offsets = CommittedOffsets()
    for index in indexes:
        record = accept_commit(anybody(), replace(COMMIT, partition=index), IMAGE, at_ms)
        offsets.apply(record)
    return offsets


def apply_all(offsets: CommittedOffsets, due: Cleanup) -> None:
    for record in due.records:
        offsets.apply(record)


def test_offsets_stay_seven_days_after_the_last_member_left() -> None:
    offsets = offsets_with(0, 1)
    groups = {GROUP: group_of(member_of("a"))}
    assert cleanup(offsets, groups, IMAGE, 100 * DAY_MS, 7 * DAY_MS).records == ()
    groups = {GROUP: group_of()}
    due = cleanup(offsets, groups, IMAGE, 100 * DAY_MS, 7 * DAY_MS)
    assert due == Cleanup((GroupEmptied(GROUP, 100 * DAY_MS),), ())
    apply_all(offsets, due)
    assert cleanup(offsets, groups, IMAGE, 107 * DAY_MS - 1, 7 * DAY_MS) == Cleanup((), ())
    due = cleanup(offsets, groups, IMAGE, 107 * DAY_MS, 7 * DAY_MS)
    assert set(due.records) == {
        OffsetForgotten(GROUP, gps(0)),
        OffsetForgotten(GROUP, gps(1)),
        GroupRevived(GROUP),
    }
    assert due.groups == (GROUP,)
    apply_all(offsets, due)
    assert (offsets.by_group, offsets.emptied_at_ms) == ({}, {})


def test_a_late_commit_counts_from_itself() -> None:
    offsets = offsets_with(0)
    offsets.apply(GroupEmptied(GROUP, 0))
    offsets.apply(accept_commit(anybody(), replace(COMMIT, partition=1), IMAGE, 5 * DAY_MS))
    due = cleanup(offsets, {}, IMAGE, 8 * DAY_MS, 7 * DAY_MS)
    assert due == Cleanup((OffsetForgotten(GROUP, gps(0)),), ())


def test_a_commit_on_its_way_into_the_log_is_not_forgotten() -> None:
    """What is appended after it would take it away, though it was answered."""
    offsets = offsets_with(0)
    offsets.apply(GroupEmptied(GROUP, 0))
    fresh = accept_commit(anybody(), replace(COMMIT, partition=0), IMAGE, 8 * DAY_MS)
    offsets.accept(fresh)
    apply_all(offsets, cleanup(offsets, {}, IMAGE, 8 * DAY_MS, 7 * DAY_MS))
    assert gps(0) in offsets.of(GROUP)


def test_members_that_come_back_stop_the_clock() -> None:
    offsets = offsets_with(0)
    offsets.apply(GroupEmptied(GROUP, 0))
    alive = {GROUP: group_of(member_of("a"))}
    due = cleanup(offsets, alive, IMAGE, 30 * DAY_MS, 7 * DAY_MS)
    assert due.records == (GroupRevived(GROUP),)


def test_a_deleted_topic_takes_its_offsets_along() -> None:
    offsets = offsets_with(0)
    alive = {GROUP: group_of(member_of("a"))}
    without = image_of(topic("gps", TopicId(b"n" * 16), 6))
    due = cleanup(offsets, alive, without, 0, 7 * DAY_MS)
    assert due.records == (OffsetForgotten(GROUP, gps(0)),)


def test_forgetting_a_group_forgets_everything() -> None:
    offsets = offsets_with(0, 1)
    offsets.apply(GroupEmptied(GROUP, 0))
    for record in list(offsets.forget(GROUP)):
        offsets.apply(record)
    assert (offsets.by_group, offsets.emptied_at_ms) == ({}, {})

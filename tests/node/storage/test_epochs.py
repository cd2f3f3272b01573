"""The leader-epoch list finds where two logs part."""

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.protocol.types import NO_LEADER_EPOCH, LeaderEpoch, Offset

END = Offset(100)


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    made = LeaderEpochs()
    for epoch, start in entries:
        made.assign(LeaderEpoch(epoch), Offset(start))
    return made


def test_an_epoch_ends_where_the_next_begins() -> None:
    log = epochs((1, 0), (3, 10), (4, 40))
    assert log.end_of(LeaderEpoch(1), END) == EpochEnd(LeaderEpoch(1), Offset(10))
    assert log.end_of(LeaderEpoch(2), END) == EpochEnd(LeaderEpoch(1), Offset(10))
    assert log.end_of(LeaderEpoch(4), END) == EpochEnd(LeaderEpoch(4), END)
    assert log.end_of(LeaderEpoch(9), END) == EpochEnd(LeaderEpoch(4), END)
    assert log.end_of(LeaderEpoch(0), END) is None
    assert LeaderEpochs().end_of(LeaderEpoch(0), Offset(0)) is None


def test_offsets_know_their_epoch() -> None:
    log = epochs((1, 5), (3, 10))
    assert [log.epoch_at(Offset(o)) for o in (4, 5, 9, 10, 99)] == [NO_LEADER_EPOCH, 1, 1, 3, 3]
    assert log.latest == 3


def test_the_same_epoch_is_no_news() -> None:
    log = epochs((1, 0))
    assert not log.assign(LeaderEpoch(1), Offset(50))
    assert log.assign(LeaderEpoch(2), Offset(50))
    assert log.entries == ((1, 0), (2, 50))


def test_an_epoch_that_wrote_nothing_leaves_no_trace() -> None:
    assert epochs((1, 0), (2, 10), (5, 10)).entries == ((1, 0), (5, 10))


def test_truncation_forgets_epochs_from_there() -> None:
    log = epochs((1, 0), (3, 10), (4, 40))
    log.truncate_to(Offset(40))
    assert list(log.entries) == [(1, 0), (3, 10)]
    log.truncate_to(Offset(5))
    assert list(log.entries) == [(1, 0)]
    log.truncate_to(Offset(0))
    assert log.latest == NO_LEADER_EPOCH


def test_a_new_log_start_cuts_the_epoch_across_it() -> None:
    log = epochs((1, 0), (3, 10), (4, 40))
    log.advance_to(Offset(10))
    assert list(log.entries) == [(3, 10), (4, 40)]
    log.advance_to(Offset(70))
    assert list(log.entries) == [(4, 70)]


def test_a_prefix_does_not_diverge() -> None:
    leader = epochs((1, 0), (3, 10))
    assert leader.diverging(LeaderEpoch(1), Offset(10), END) is None
    assert leader.diverging(LeaderEpoch(3), END, END) is None


def test_a_reader_with_more_of_an_epoch_must_truncate() -> None:
    leader = epochs((1, 0), (3, 10))
    expected = EpochEnd(LeaderEpoch(1), Offset(10))
    assert leader.diverging(LeaderEpoch(1), Offset(15), END) == expected
    assert leader.diverging(LeaderEpoch(2), Offset(15), END) == expected


def test_a_reader_of_unknown_epochs_starts_over() -> None:
    leader = epochs((3, 10))
    assert leader.diverging(LeaderEpoch(1), Offset(15), END) == EpochEnd(
        NO_LEADER_EPOCH, Offset(10)
    )


segments = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), max_size=8)


@given(segments)
def test_packing_keeps_everything(steps: list[tuple[int, int]]) -> None:
    log, epoch, start = LeaderEpochs(), 0, 0
    for gap, length in steps:
        epoch += gap
        log.assign(LeaderEpoch(epoch), Offset(start))
        start += length
    assert LeaderEpochs.unpack(log.pack()).entries == log.entries


@given(segments, segments, segments)
def test_asking_and_truncating_ends_at_the_common_prefix(
    shared: list[tuple[int, int]], ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    """The replica protocol of KIP-279, played out on two logs as lists of epochs."""

    def grow(log: list[int], steps: list[tuple[int, int]], first_gap: int) -> list[int]:
        epoch = (log[-1] if log else 0) + first_gap
        grown = list(log)
        for gap, length in steps:
            epoch += 2 * gap  # the two sides never share an epoch they did not share before
            grown += [epoch] * length
        return grown

    base = grow([], shared, 0)
    leader_log, follower_log = grow(base, ours, 0), grow(base, theirs, 1)

    def index(log: list[int]) -> LeaderEpochs:
        return epochs(*((e, i) for i, e in enumerate(log) if i == 0 or log[i - 1] != e))

    leader = index(leader_log)
    for _ in range(20):
        if not follower_log:
            break
        answer = leader.diverging(
            LeaderEpoch(follower_log[-1]), Offset(len(follower_log)), Offset(len(leader_log))
        )
        if answer is None:
            break
        mine = index(follower_log).end_of(answer.epoch, Offset(len(follower_log)))
        end = min(answer.end_offset, mine.end_offset) if mine else Offset(0)
        follower_log = follower_log[:end]
    assert follower_log == leader_log[: len(follower_log)]
    assert follower_log[: len(base)] == base

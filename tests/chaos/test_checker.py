"""The checker finds each anomaly in a history made by hand, and none where there is none."""

import time
from pathlib import Path

import pytest

from tests.chaos.anomalies import AnomalyKind
from tests.chaos.checker import check
from tests.chaos.history import (
    Assign,
    Change,
    Commit,
    Event,
    HistoryFile,
    Phase,
    Poll,
    Rebalance,
    Seek,
    Send,
    Stop,
    Subscribe,
    read_history,
)


class Story:
    """A history told line by line; each line happens after the one before."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._now_ns = 0
        self._sends: dict[int, int] = {}

    def _at(self) -> int:
        self._now_ns += 1
        return self._now_ns

    def invoke(self, *values: int, by: str = "producer") -> "Story":
        self._send(Phase.INVOKE, by, values)
        return self

    def ok(self, *values: int, at: int | tuple[int, ...], by: str = "producer") -> "Story":
        self._send(Phase.OK, by, values, (at,) if isinstance(at, int) else at)
        return self

    def fail(self, *values: int, by: str = "producer") -> "Story":
        self._send(Phase.FAIL, by, values)
        return self

    def info(self, *values: int, by: str = "producer") -> "Story":
        self._send(Phase.INFO, by, values)
        return self

    def sent(self, *values: int, at: int | tuple[int, ...], by: str = "producer") -> "Story":
        return self.invoke(*values, by=by).ok(*values, at=at, by=by)

    def _send(
        self, phase: Phase, by: str, values: tuple[int, ...], offsets: tuple[int, ...] = ()
    ) -> None:
        self.events.append(Send(self._at(), by, values[0], phase, 0, values, offsets))

    def log(self, *values: int) -> "Story":
        """Send values one after the other to offsets 0, 1, ..."""
        for offset, value in enumerate(values):
            self.sent(value, at=offset)
        return self

    def poll(self, *records: tuple[int, int], by: str = "reader") -> "Story":
        offsets, values = zip(*records, strict=True)
        self.events.append(Poll(self._at(), by, 0, offsets, values))
        return self

    def assign(self, by: str = "reader", *, final: bool = False) -> "Story":
        self.events.append(Assign(self._at(), by, (0,), final))
        return self

    def seek(self, by: str = "reader") -> "Story":
        self.events.append(Seek(self._at(), by, 0))
        return self

    def joins(self, *members: str) -> "Story":
        self.events += [Subscribe(self._at(), member, "group") for member in members]
        return self

    def told(self, change: Change, member: str) -> "Story":
        self.events.append(Rebalance(self._at(), member, change, (0,)))
        return self

    def commit(self, offset: int, by: str, phase: Phase = Phase.OK) -> "Story":
        self.events.append(Commit(self._at(), by, offset, phase, {0: offset}))
        return self

    def stop(self, process: str, *, killed: bool) -> "Story":
        self.events.append(Stop(self._at(), process, killed))
        return self

    def found(self, *, transactional: bool = False) -> set[str]:
        report = check(self.events, transactional=transactional)
        return {anomaly.kind.value for anomaly in report.anomalies}


def test_a_plain_history_is_clean() -> None:
    story = Story().log(10, 11, 12).poll((0, 10), (1, 11)).poll((2, 12))
    report = check(story.events)
    assert (report.acknowledged, report.polled, report.anomalies) == (3, 3, ())


def test_an_empty_history_is_clean() -> None:
    assert check([]).anomalies == ()


def test_an_unknown_outcome_may_appear_or_not() -> None:
    appeared = Story().invoke(10).info(10).poll((0, 10))
    absent = Story().invoke(10).info(10).sent(11, at=0).poll((0, 11))
    unanswered = Story().invoke(10).sent(11, at=0).poll((0, 11))
    assert appeared.found() == absent.found() == unanswered.found() == set()


def test_lost_write() -> None:
    story = Story().sent(10, at=0).sent(11, at=1).sent(12, at=2).poll((0, 10)).seek()
    assert story.poll((2, 12)).found() == {"lost-write"}


def test_a_lost_write_shows_below_records_of_unknown_outcome() -> None:
    story = Story().sent(10, at=0).invoke(11).info(11).poll((1, 11))
    assert story.found() == {"lost-write"}


def test_a_write_that_was_replaced_is_lost_and_inconsistent() -> None:
    story = Story().sent(10, at=0).sent(11, at=1).invoke(12).poll((0, 10), (1, 12))
    assert story.found() == {"lost-write", "inconsistent-offsets"}


def test_unseen() -> None:
    assert Story().log(10, 11).poll((0, 10)).found() == {"unseen"}


def test_an_acknowledged_record_without_offset_must_be_read() -> None:
    assert Story().sent(10, at=-1).poll((0, 10)).found() == set()
    assert Story().sent(10, at=-1).sent(11, at=1).poll((1, 11)).found() == {"unseen"}


def test_vanished() -> None:
    story = Story().log(10, 11).poll((0, 10), (1, 11))
    assert story.assign("last", final=True).poll((0, 10), by="last").found() == {"vanished"}


def test_everything_vanished() -> None:
    story = Story().log(10).poll((0, 10)).assign("last", final=True)
    assert story.found() == {"vanished"}


def test_duplicate() -> None:
    story = Story().sent(10, at=0).sent(11, at=1).poll((0, 10), (1, 11), (2, 10))
    assert "duplicate" in story.found()


def test_a_duplicate_shows_between_acknowledgement_and_poll() -> None:
    assert "duplicate" in Story().sent(10, at=0).poll((1, 10)).found()


def test_inconsistent_offsets() -> None:
    story = Story().invoke(10).invoke(11).poll((0, 10)).poll((0, 11), by="other")
    assert story.found() == {"inconsistent-offsets"}


def test_inconsistent_offsets_show_between_acknowledgements() -> None:
    story = Story().sent(10, at=0).sent(11, at=0)
    assert "inconsistent-offsets" in story.found()


def test_aborted_read() -> None:
    assert Story().invoke(10).fail(10).poll((0, 10)).found() == {"aborted-read"}


def test_phantom() -> None:
    assert Story().poll((0, 10)).found() == {"phantom"}


def test_nonmonotonic_send() -> None:
    story = Story().invoke(10).invoke(11).ok(10, at=1).ok(11, at=0).poll((0, 11), (1, 10))
    assert story.found() == {"nonmonotonic-send"}


def test_nonmonotonic_send_of_an_unknown_outcome() -> None:
    story = Story().invoke(10).invoke(11).info(10).ok(11, at=0).poll((0, 11), (1, 10))
    assert story.found() == {"nonmonotonic-send"}


def test_sends_of_two_processes_may_overtake_each_other() -> None:
    story = Story().invoke(10, by="a").invoke(11, by="b").ok(11, at=0, by="b").ok(10, at=1, by="a")
    assert story.poll((0, 11), (1, 10)).found() == set()


def test_unordered_sends() -> None:
    story = Story().sent(10, at=1, by="a").sent(11, at=0, by="b").poll((0, 11), (1, 10))
    assert story.found() == {"unordered-sends"}


def test_int_nonmonotonic_send() -> None:
    story = Story().sent(10, 11, at=(1, 0)).poll((0, 11), (1, 10))
    assert "int-nonmonotonic-send" in story.found()


def test_int_send_skip_matters_to_transactions_only() -> None:
    story = Story().invoke(10, 11).sent(12, at=1, by="b").ok(10, 11, at=(0, 2))
    story.poll((0, 10), (1, 12), (2, 11))
    assert story.found() == set()
    assert story.found(transactional=True) == {"int-send-skip"}


def test_nonmonotonic_poll() -> None:
    story = Story().log(10, 11).poll((0, 10), (1, 11)).poll((0, 10))
    assert story.found() == {"nonmonotonic-poll"}


def test_polling_the_same_record_twice_is_nonmonotonic() -> None:
    assert Story().log(10).poll((0, 10)).poll((0, 10)).found() == {"nonmonotonic-poll"}


def test_int_nonmonotonic_poll() -> None:
    story = Story().log(10, 11, 12, 13).poll((0, 10), (2, 12), (1, 11), (3, 13))
    assert "int-nonmonotonic-poll" in story.found()


def test_poll_skip() -> None:
    story = Story().log(10, 11, 12).poll((0, 10)).poll((2, 12))
    assert story.poll((1, 11), by="other").found() == {"poll-skip"}


def test_int_poll_skip() -> None:
    story = Story().log(10, 11, 12).poll((0, 10), (2, 12))
    assert story.poll((1, 11), by="other").found() == {"int-poll-skip"}


def test_offsets_that_hold_nothing_are_no_skip() -> None:
    assert Story().sent(10, at=0).sent(11, at=3).poll((0, 10)).poll((3, 11)).found() == set()


def test_after_a_seek_a_consumer_may_go_on_anywhere() -> None:
    story = Story().log(10, 11, 12).poll((0, 10)).seek().poll((2, 12)).seek().poll((1, 11))
    assert story.found() == set()


def test_an_assignment_begins_anew() -> None:
    story = Story().log(10, 11).assign().poll((0, 10), (1, 11)).assign().poll((0, 10), (1, 11))
    assert story.found() == set()


def test_a_group_that_hands_over_is_clean() -> None:
    story = Story().log(10, 11, 12).joins("a", "b").told(Change.ASSIGNED, "a")
    story.poll((0, 10), (1, 11), by="a").commit(1, "a").told(Change.REVOKED, "a")
    story.told(Change.ASSIGNED, "b").poll((1, 11), (2, 12), by="b").commit(3, "b")
    assert story.found() == set()


def test_group_double_owner() -> None:
    story = Story().log(10).joins("a", "b").told(Change.ASSIGNED, "a").told(Change.ASSIGNED, "b")
    story.poll((0, 10), by="a").poll((0, 10), by="b").told(Change.REVOKED, "a")
    assert story.found() == {"group-double-owner"}


@pytest.mark.parametrize("end", ["lost", "killed"])
def test_a_member_that_was_expelled_or_died_may_overlap(end: str) -> None:
    story = Story().log(10).joins("a", "b").told(Change.ASSIGNED, "a").told(Change.ASSIGNED, "b")
    story.poll((0, 10), by="b")
    if end == "lost":
        story.told(Change.LOST, "a")
    else:
        story.stop("a", killed=True)
    assert story.found() == set()


def test_group_skip() -> None:
    story = Story().log(10, 11, 12).joins("a").told(Change.ASSIGNED, "a").poll((0, 10), by="a")
    story.commit(2, "a").told(Change.REVOKED, "a").told(Change.ASSIGNED, "a")
    story.poll((2, 12), by="a").poll((0, 10), (1, 11), (2, 12))
    assert story.found() == {"group-skip"}


def test_group_stale_resume() -> None:
    story = Story().log(10, 11).joins("a", "b").told(Change.ASSIGNED, "a")
    story.poll((0, 10), (1, 11), by="a").commit(2, "a").stop("a", killed=True)
    story.told(Change.ASSIGNED, "b").poll((1, 11), by="b")
    assert story.found() == {"group-stale-resume"}


def test_a_commit_of_unknown_outcome_binds_nobody() -> None:
    story = Story().log(10, 11).joins("a", "b").told(Change.ASSIGNED, "a")
    story.poll((0, 10), (1, 11), by="a").commit(2, "a", Phase.INFO).stop("a", killed=True)
    story.told(Change.ASSIGNED, "b").poll((0, 10), (1, 11), by="b")
    assert story.found() == set()


def test_group_unseen() -> None:
    story = Story().log(10, 11).joins("a").told(Change.ASSIGNED, "a").poll((0, 10), by="a")
    assert story.commit(1, "a").poll((0, 10), (1, 11)).found() == {"group-unseen"}


def test_each_kind_of_anomaly_has_a_test_here() -> None:
    here = Path(__file__).read_text()
    assert [kind for kind in AnomalyKind if f'"{kind.value}"' not in here] == []


def test_a_history_survives_its_file_even_cut_in_its_last_line(tmp_path: Path) -> None:
    story = Story().log(10).joins("a").told(Change.ASSIGNED, "a").poll((0, 10), by="a")
    story.commit(1, "a").seek().assign().stop("a", killed=True)
    halves = [tmp_path / "even", tmp_path / "odd"]
    for index, path in enumerate(halves):
        file = HistoryFile(path)
        file.write(*story.events[index::2])
        file.close()
        with path.open("ab") as cut:
            cut.write(b'{"type":"send","at_ns":7')
    assert list(read_history(halves)) == story.events


def test_a_million_operations_take_seconds() -> None:
    events: list[Event] = []
    partitions, batch = 6, 50
    for number in range(500_000):
        partition, offset = number % partitions, number // partitions
        sent = Send(2 * number, "producer", number, Phase.INVOKE, partition, (number,))
        done = Send(2 * number + 1, "producer", number, Phase.OK, partition, (number,), (offset,))
        events += (sent, done)
    end_ns = 2 * 500_000
    for partition in range(partitions):
        values = range(partition, 500_000, partitions)
        for start in range(0, len(values), batch):
            part = tuple(values[start : start + batch])
            offsets = tuple(range(start, start + len(part)))
            for reader in ("one", "two"):
                events.append(Poll(end_ns, reader, partition, offsets, part))
    began_s = time.process_time()
    report = check(events)
    assert report.anomalies == ()
    assert report.acknowledged == 500_000
    assert time.process_time() - began_s < 20

"""The demo's judge must not be lenient."""

import msgspec
import pytest
from demo_check import Checker, Place, Verdict, judge_log
from demo_fleet import Point, points_by_time

POINTS = [
    Point(float(second), vehicle, 1.0, 2.0, "Driving")
    for second in range(4)
    for vehicle in ("van-1", "van-2")
]


@pytest.fixture
def checker() -> Checker:
    return Checker(POINTS)


def report(checker: Checker, consumer: str, points: list[Point], *, from_ns: int) -> None:
    for number, point in enumerate(points):
        line = f"{from_ns + number} 0 {msgspec.json.encode(point).decode()}"
        checker.saw("g", consumer, line)


def verdict(seen_by: str = "g", **changes: int) -> Verdict:
    fields = {
        "consumers": 1,
        "vehicles": 2,
        "seen": len(POINTS),
        "lost": 0,
        "out_of_order": 0,
        "duplicates": 0,
    }
    return Verdict(seen_by=seen_by, **{**fields, **changes})


def placed(points: list[Point]) -> dict[Place, Point]:
    """Each vehicle's points in a partition of its own."""
    places: dict[Place, Point] = {}
    for point in points:
        partition = int(point.vehicle_id[-1])
        offset = sum(each == partition for each, _ in places)
        places[partition, offset] = point
    return places


def log_verdict(**changes: int) -> Verdict:
    return verdict(seen_by="the log", consumers=0, **changes)


def test_every_point_once_in_order(checker: Checker) -> None:
    report(checker, "a", POINTS, from_ns=0)
    assert checker.is_complete("g")
    assert checker.verdict("g") == verdict()


def test_a_missing_point_is_lost(checker: Checker) -> None:
    report(checker, "a", POINTS[:-1], from_ns=0)
    assert not checker.is_complete("g")
    assert checker.verdict("g") == verdict(seen=7, lost=1)


def test_a_point_that_never_was_does_not_stand_in_for_one_that_is_lost(checker: Checker) -> None:
    report(checker, "a", [*POINTS[:-1], Point(99.0, "van-1", 0.0, 0.0, "OnFoot")], from_ns=0)
    assert checker.verdict("g") == verdict(seen=8, lost=1)


def test_an_earlier_point_after_a_later_one_is_out_of_order(checker: Checker) -> None:
    report(checker, "a", [POINTS[2], POINTS[0], *POINTS[4:], POINTS[1], POINTS[3]], from_ns=0)
    assert checker.verdict("g") == verdict(out_of_order=2)


def test_order_is_by_the_clock_over_all_consumers(checker: Checker) -> None:
    report(checker, "a", POINTS[4:], from_ns=100)
    report(checker, "b", POINTS[:4], from_ns=0)
    assert checker.verdict("g") == verdict(consumers=2)


def test_what_the_killed_consumer_could_not_commit_is_a_duplicate(checker: Checker) -> None:
    checker.expect_duplicates_from("killed")
    report(checker, "killed", POINTS[:5], from_ns=0)
    report(checker, "other", POINTS[3:], from_ns=100)
    assert checker.verdict("g") == verdict(consumers=2, duplicates=2)


def test_two_living_consumers_on_one_point_are_out_of_order(checker: Checker) -> None:
    checker.expect_duplicates_from("killed")
    report(checker, "a", POINTS, from_ns=0)
    report(checker, "b", POINTS[3:5], from_ns=100)
    assert checker.verdict("g") == verdict(consumers=2, out_of_order=2)


def test_a_log_with_every_point_once_where_it_was_acknowledged() -> None:
    assert judge_log(POINTS, placed(POINTS), placed(POINTS)) == log_verdict()


def test_a_log_without_an_acknowledged_point_has_lost_it() -> None:
    assert judge_log(POINTS, placed(POINTS), placed(POINTS[:-1])) == log_verdict(seen=7, lost=1)


def test_a_point_elsewhere_than_acknowledged_is_lost() -> None:
    log = placed([*POINTS[:6], POINTS[7]])
    log[1, 7] = POINTS[6]
    assert judge_log(POINTS, placed(POINTS), log) == log_verdict(lost=1)


def test_a_point_twice_in_the_log_is_a_duplicate_of_the_producer_s() -> None:
    log = placed([*POINTS, POINTS[-1]])
    assert judge_log(POINTS, placed(POINTS), log) == log_verdict(duplicates=1)


def test_a_log_in_another_order_is_out_of_order() -> None:
    log = placed([POINTS[2], POINTS[0], POINTS[1], *POINTS[3:]])
    assert judge_log(POINTS, {}, log) == log_verdict(out_of_order=1)


def test_the_data_is_whole() -> None:
    points = points_by_time()
    assert len(points) == 57_960
    assert len({point.vehicle_id for point in points}) == 805
    assert len(set(points)) == len(points)

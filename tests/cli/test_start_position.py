"""Places to begin reading, as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from odradek.client.cli.start_position import StartPositionError, parse_start

MOMENT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("120", 120),
        ("-90s", timedelta(seconds=90)),
        ("-1h", timedelta(hours=1)),
        ("-0.5m", timedelta(seconds=30)),
        ("-7d", timedelta(days=7)),
        ("-999999999d", timedelta(days=36_500)),
        ("2023-11-14T22:13:20+00:00", MOMENT),
        ("2023-11-14T23:13:20+01:00", MOMENT),
    ],
)
def test_places(text: str, position: object) -> None:
    assert parse_start(text) == position


def test_a_time_without_a_zone_is_local() -> None:
    assert parse_start("2023-11-14T22:13:20") == datetime(2023, 11, 14, 22, 13, 20).astimezone()


@pytest.mark.parametrize(
    "text",
    ["", "first", "-1", "1h", "-1y", "٣", "-٣h", str(2**63), "2023-99-99"],
)
def test_what_is_no_place_is_refused_with_examples(text: str) -> None:
    with pytest.raises(StartPositionError, match="-30m") as refused:
        parse_start(text)
    assert refused.value.value == text

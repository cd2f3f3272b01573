"""Places to begin reading, as people write them."""

import pytest

from odradek.client.cli.start_position import (
    AtOffset,
    AtTimestamp,
    LogEnd,
    StartPositionError,
    parse_start,
)

NOW_S = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("earliest", LogEnd.EARLIEST),
        ("latest", LogEnd.LATEST),
        ("0", AtOffset(0)),
        ("120", AtOffset(120)),
        ("-90s", AtTimestamp(1_699_999_910_000)),
        ("-1h", AtTimestamp(1_699_996_400_000)),
        ("-0.5m", AtTimestamp(1_699_999_970_000)),
        ("-7d", AtTimestamp(1_699_395_200_000)),
        ("2023-11-14T22:13:20+00:00", AtTimestamp(1_700_000_000_000)),
        ("2023-11-14T23:13:20+01:00", AtTimestamp(1_700_000_000_000)),
    ],
)
def test_places(text: str, position: object) -> None:
    assert parse_start(text, now_s=NOW_S) == position


@pytest.mark.parametrize("text", ["", "first", "-1", "1h", "-1y", "٣", str(2**63), "2023-99-99"])
def test_what_is_no_place_is_refused_with_examples(text: str) -> None:
    with pytest.raises(StartPositionError, match="-30m") as refused:
        parse_start(text, now_s=NOW_S)
    assert refused.value.value == text

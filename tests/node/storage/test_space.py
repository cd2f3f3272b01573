"""Appends stop at the reserve and go on when room was made."""

import pytest

from odradek.node.storage.space import Space
from odradek.protocol.errors import StorageFullError


def test_appends_stop_before_the_reserve_is_touched() -> None:
    space = Space(reserve_bytes=1000)
    space.on_measured(1400)
    space.admit(200)
    space.on_written(200)
    with pytest.raises(StorageFullError) as error:
        space.admit(1)
    assert (error.value.value, error.value.limit) == ("1000", "1000")
    assert not space.is_short
    space.on_measured(999)
    assert space.is_short


def test_room_that_was_made_counts_at_once() -> None:
    space = Space(reserve_bytes=1000)
    space.on_measured(0)
    with pytest.raises(StorageFullError):
        space.admit(1)
    space.on_measured(5000)
    space.admit(1)

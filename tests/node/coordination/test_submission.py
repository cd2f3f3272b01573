"""Changes of groups on their way to the controllers."""

from itertools import count

import pytest

from odradek.node.coordination.model import Deleted
from odradek.node.coordination.submission import submit
from odradek.protocol.errors import (
    BrokerError,
    GroupIdNotFoundError,
    InvalidRequestError,
    NotCoordinatorError,
)
from odradek.protocol.types import GroupId
from odradek.v1 import controller_pb2 as pb

NAMES = ["a", "a", "large", "large", "b", "unknown", "c"]
CHANGES = [(GroupId(name), Deleted()) for name in NAMES]


async def test_only_the_group_that_is_refused_alone_is_told() -> None:
    decided: list[str] = []

    async def change_groups(command: list[pb.GroupChange]) -> list[BrokerError | None]:
        groups = [each.group for each in command]
        if "large" in groups:
            raise InvalidRequestError("too large")
        decided.extend(groups)
        return [GroupIdNotFoundError() if each == "unknown" else None for each in groups]

    errors = await submit(change_groups, CHANGES)
    told = {name: type(error) for name, error in zip(NAMES, errors, strict=True)}
    assert told == {
        "a": type(None),
        "large": InvalidRequestError,
        "b": type(None),
        "unknown": GroupIdNotFoundError,
        "c": type(None),
    }
    assert decided == ["a", "a", "b", "unknown", "c"]


async def test_another_coordinator_ends_it() -> None:
    calls = count()

    async def change_groups(command: list[pb.GroupChange]) -> list[BrokerError | None]:
        raise NotCoordinatorError if next(calls) else InvalidRequestError

    with pytest.raises(NotCoordinatorError):
        await submit(change_groups, CHANGES)

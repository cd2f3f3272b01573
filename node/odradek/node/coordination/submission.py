"""Having changes of groups decided, however often that must be asked for.

Problem: the controllers may refuse a command as a whole, for what one group asks for may be more
than their log takes (an assignment of some 15,000 partitions to one member), and that must not keep
the other groups of its coordinator waiting. Idea: a refused command is sent again group by group,
and only the group that is refused alone is told.

Invariant: changes of one group are decided in the order they came. Every change says how something
is, so that a repetition is harmless.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, TypeAlias

import structlog

from odradek.node.coordination.model import Change
from odradek.node.coordination.translation import change_to_proto
from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    NotCoordinatorError,
    OdradekError,
)
from odradek.protocol.types import GroupId
from odradek.v1 import controller_pb2 as pb

_log = structlog.get_logger()

_RETRY_S: Final = 0.5

ChangeGroups: TypeAlias = Callable[
    [list[pb.GroupChange]], Coroutine[Any, Any, list[BrokerError | None]]
]


async def submit(
    change_groups: ChangeGroups, changes: Sequence[tuple[GroupId, Change]]
) -> list[BrokerError | None]:
    """Return, for each change, why it was refused, or None.

    Args:
        change_groups: Asks the controllers once.
        changes: Those of one group in a row.

    Raises:
        NotCoordinatorError: The controllers know another coordinator.
    """
    command = [change_to_proto(group, change) for group, change in changes]
    while True:
        try:
            return await change_groups(command)
        except NotCoordinatorError:
            raise
        except InvalidRequestError as error:
            apart = [list(of_one) for _, of_one in groupby(changes, key=itemgetter(0))]
            if len(apart) == 1:
                _log.error("proposal refused", group=changes[0][0], reason=error.message)
                return [error for _ in changes]
            return [each for of_one in apart for each in await submit(change_groups, of_one)]
        except OdradekError as error:
            _log.info("proposal repeated", reason=error.message)
            await asyncio.sleep(_RETRY_S)

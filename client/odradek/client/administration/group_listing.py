"""Which groups there are. Every node knows only those it coordinates, so all are asked."""

import asyncio
from typing import Final, NoReturn

from odradek.client.cluster.connections import unary
from odradek.client.cluster.scope import Scope
from odradek.protocol.errors import GroupIdNotFoundError, OdradekError
from odradek.protocol.names import near_names
from odradek.rpc.channels import ConnectionLostError
from odradek.v1 import group_pb2

_SUGGESTIONS_S: Final = 1.0


async def groups_of_all(scope: Scope) -> list[group_pb2.GroupListing]:
    """Ask every live node once.

    Raises:
        ConnectionLostError: A node came or went meanwhile: others coordinate its groups then.
        OdradekError: Why a node did not answer.
    """
    live = _live(scope)
    try:
        async with asyncio.TaskGroup() as tasks:
            changing = tasks.create_task(_until_others_are_live(scope, live))
            asking = [tasks.create_task(_groups_of(scope, each)) for each in live]
            listings = await asyncio.gather(*asking)
            changing.cancel()
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [each for listing in listings for each in listing.groups]


async def with_near_names(
    scope: Scope, unknown: GroupIdNotFoundError, group: str
) -> GroupIdNotFoundError:
    """Return a coordinator's error with near names from the whole cluster, if they come soon."""
    try:
        async with asyncio.timeout(_SUGGESTIONS_S):
            near = near_names(group, [each.group for each in await groups_of_all(scope)])
    except (OdradekError, TimeoutError):
        return unknown  # the answer, also without suggestions
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return GroupIdNotFoundError(
        f"there is no group {group!r}{hint}", field="group", value=group, suggestions=near
    )


async def _groups_of(scope: Scope, address: str) -> group_pb2.ListGroupsResponse:
    return await unary(
        scope.connections.to(address).group.ListGroups,
        group_pb2.ListGroupsRequest(),
        timeout_s=scope.options.request_timeout_s,
    )


def _live(scope: Scope) -> set[str]:
    return {node.address for node in scope.metadata.image.nodes.values() if not node.fenced}


async def _until_others_are_live(scope: Scope, live: set[str]) -> NoReturn:
    while live == _live(scope):
        await scope.metadata.newer_than(scope.metadata.image)
    raise ConnectionLostError("a node came or went while groups were listed")
